//! What a run needs, as a document and as a table.

use lavida_model::{precision::Precision, recompute::Recompute};
use lavida_train::{
    memory::{Plan, gib},
    settings::Settings,
};
use serde_json::{Value, json};

pub fn document(plan: &Plan) -> Value {
    json!({
        "modules": plan.modules,
        "parameters": plan.parameters,
        "trainable": plan.trainable,
        "memory": plan.memory,
    })
}

pub fn table(plan: &Plan, settings: &Settings) -> String {
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
        "memory per device, {} clips at once, {}{} (activations are an estimate; total is the most at one time)\n",
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
        ("update", m.update),
        ("loading", m.loading),
        ("total", m.total),
    ] {
        text += &format!("  {name:<12} {:>9.3} GiB\n", gib(bytes));
    }
    text.trim_end().to_owned()
}
