//! Whether the plan fits into what the device has free.

use lavida_data::Error;
use lavida_dataflow::device::{self, DeviceName};
use lavida_train::{memory::Plan, settings::Settings};

use super::Found;
use crate::{free_memory::free_bytes, output::gib};

pub(super) async fn fits(settings: &Settings, plan: &Plan) -> Found {
    let accumulation = settings.accumulation();
    let lanes = device::side_by_side(settings, accumulation, 1) as u64;
    let needed = plan.memory.total + (lanes - 1) * plan.memory.activations;
    let sides = match lanes {
        1 => String::new(),
        n => format!(" with {n} microbatches side by side"),
    };
    let needs = format!("{:.2} GiB are needed{sides}", gib(needed));
    let free = match DeviceName::parse(&settings.device) {
        Ok(name) => free_bytes(name).await,
        Err(_) => Err(format!("{} has none", settings.device)),
    };
    match free {
        Err(why) => Found::Unknown(format!("{needs}; {why}")),
        Ok(free) if free < needed => {
            let expected = format!("{:.2} GiB free on {}{sides}", gib(needed), settings.device);
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
