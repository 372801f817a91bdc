//! CPU time of a training step of the golden folder `full`: adapters in the language model, towers frozen; forward,
//! backward and AdamW.
//!
//! `cargo bench -p lavida-tests --bench step -- [--runs N]` prints one line of JSON; `LAVIDA_GOLDEN_DIR` and
//! `RAYON_NUM_THREADS` as everywhere. `benches/parts_torch.py` runs PyTorch beside it. That the step is the reference's
//! is tested in `tests/golden/full.rs`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    reason = "the result is printed; the helpers are those of the golden tests"
)]

#[path = "../../crates/lavida-model/benches/parts/measure.rs"]
mod measure;
#[path = "../golden/support.rs"]
mod support;
#[path = "../golden/whole_model.rs"]
mod whole_model;

use burn::tensor::Device;
use lavida_model::policy::TrainPolicy;
use measure::Request;
use support::Fixture;
use whole_model::{adamw, adapters, batch, lora_policies, losses, model, training};

/// As in `lavida`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let request = Request::from_arguments();
    if !request.wants("step") {
        return;
    }
    let fixture = Fixture::open("full");
    let device = Device::flex().autodiff();
    let policies = lora_policies(&fixture, TrainPolicy::Frozen);
    let mut current = Some(model(
        &fixture,
        &policies,
        adapters(&fixture, "lora"),
        &device,
    ));
    let trained = current.as_ref().expect("there between steps");
    let mut optimizer = adamw(&fixture, &policies, trained);
    let input = batch(&fixture, &Device::flex());
    let learning_rate = fixture.number("/optimizer/lr");
    let options = training(&fixture);
    request.measure("step", || {
        let model = current.take().expect("there between steps");
        let losses = losses(
            &fixture,
            &model.forward(&input, options).expect("a valid batch"),
        );
        let mut gradients = losses.total.backward();
        let gradients = optimizer.flatten(&model, &mut gradients);
        current = Some(optimizer.step(model, gradients, learning_rate).0);
    });
}
