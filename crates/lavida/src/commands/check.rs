//! `lavida check`: settings, what trains, and memory per device, without building anything large.

use lavida_dataflow::device;
use lavida_model::{precision::Precision, recompute::Recompute};
use lavida_train::{memory::plan, settings::Settings};
use serde_json::json;

use super::train::open_catalog;
use crate::{cli, config};

pub async fn run(args: cli::Check) -> anyhow::Result<()> {
    let config::Loaded { settings, .. } = config::load(&args.config, &args.set)?;
    if !args.data.is_empty() {
        let catalog = open_catalog(&args.data, &settings).await?;
        settings.exposure_sampler(&catalog)?;
        eprintln!(
            "check: {} samples in {} datasets",
            catalog.len(),
            catalog.datasets().len()
        );
    }
    if let Err(error) = device::named(&settings.device) {
        eprintln!("check: {error}"); // the plan holds for any device
    }
    let plan = plan(&settings)?;
    let document = json!({
        "modules": plan.modules,
        "parameters": plan.parameters,
        "trainable": plan.trainable,
        "memory": plan.memory,
    });
    match args.json {
        true => crate::print_document(&serde_json::to_string_pretty(&document)?),
        false => crate::print_document(&table(&plan, &settings)),
    }
}

fn table(plan: &lavida_train::memory::Plan, settings: &Settings) -> String {
    let mut text = format!(
        "{:<38} {:>15} {:>15}  policy\n",
        "module", "parameters", "trainable"
    );
    for module in &plan.modules {
        text += &format!(
            "{:<38} {:>15} {:>15}  {}\n",
            module.name, module.parameters, module.trainable, module.policy
        );
    }
    text += &format!(
        "{:<38} {:>15} {:>15}\n\n",
        "all", plan.parameters, plan.trainable
    );
    let m = &plan.memory;
    text += &format!(
        "memory per device, {} clips at once, {}{} (activations are an estimate)\n",
        settings.train.microbatch,
        match settings.train.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16 with f32 masters of what trains",
        },
        match settings.train.recompute {
            Recompute::None => "",
            Recompute::Blocks => ", blocks recomputed",
        }
    );
    for (name, bytes) in [
        ("weights", m.weights),
        ("gradients", m.gradients),
        ("optimizer", m.optimizer),
        ("activations", m.activations),
        ("total", m.total),
    ] {
        text += &format!(
            "  {name:<12} {:>9.3} GiB\n",
            bytes as f64 / f64::from(1 << 30)
        );
    }
    text.trim_end().to_owned()
}
