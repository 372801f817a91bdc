//! Whether the plan fits into what the device has free.

use lavida_data::Error;
use lavida_dataflow::device::{
    DeviceName,
    memory::{Need, free_bytes},
};
use lavida_train::{
    memory::{Plan, gib},
    settings::Settings,
};

use super::Found;

pub(super) async fn fits(settings: &Settings, plan: &Plan) -> Found {
    let need = Need::of(plan, settings, settings.accumulation(), 1);
    let sides = match need.n_side_by_side {
        1 => String::new(),
        n => format!(" with {n} microbatches side by side"),
    };
    let needs = format!("{:.2} GiB are needed{sides}", gib(need.planned));
    let free = match DeviceName::parse(&settings.device) {
        Ok(name) => free_bytes(name).await,
        Err(_) => Err(format!("{} has none", settings.device)),
    };
    match free {
        Err(why) => Found::Unknown(format!("{needs}; {why}")),
        Ok(free) if free < need.planned => {
            let expected = format!(
                "{:.2} GiB free on {}{sides}",
                gib(need.planned),
                settings.device
            );
            Found::Failed(
                Error::invalid("memory", expected, format!("{:.2} GiB", gib(free))).into(),
            )
        }
        Ok(free) => Found::Ok(format!(
            "{needs}, {:.2} GiB are free on {}",
            gib(free),
            settings.device
        )),
    }
}
