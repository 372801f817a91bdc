//! A snapshot is the trainer as it was, whatever is learned before somebody makes bytes of it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use lavida_checkpoint::contents::{OPTIMIZER, Snapshot, WEIGHTS};
use lavida_train::{reduce::StepShare, trainer::Trainer};

/// Side of the made-up frames.
const SIDE_PX: u32 = 64;
const ADAPTERS: &str = r#"train.policy={ visual="frozen", assist_clf="frozen", "seg_model.image_encoder"="frozen", model="lora" }"#;

fn parts(snapshot: Snapshot) -> BTreeMap<String, Bytes> {
    let parts = snapshot.parts.into_iter();
    parts
        .map(|(name, content)| (name, content.into_bytes()))
        .collect()
}

#[track_caller]
fn check(overrides: &[&str]) {
    let settings = support::settings(overrides);
    let mut trainer = support::trainer(&settings, None);
    let learn = |trainer: &mut Trainer, seed: u64| {
        let batches = [support::batch(&settings, 1, SIDE_PX, seed)];
        trainer.microbatches(&batches).unwrap();
        trainer.update(&StepShare::default()).unwrap();
    };
    learn(&mut trainer, 1);
    let at_once = parts(trainer.snapshot(0).unwrap());
    let captured = trainer.snapshot(0).unwrap();
    for seed in 2..5 {
        learn(&mut trainer, seed);
    }
    let later = parts(captured);
    let newest = parts(trainer.snapshot(0).unwrap());
    assert_eq!(
        at_once.keys().collect::<Vec<_>>(),
        later.keys().collect::<Vec<_>>()
    );
    for (name, bytes) in &at_once {
        assert!(bytes == &later[name], "{overrides:?}: {name} changed");
        let learns = [WEIGHTS, OPTIMIZER].contains(&name.as_str());
        assert_eq!(bytes != &newest[name], learns, "{overrides:?}: {name}");
    }
}

#[test]
fn steps_after_a_snapshot_do_not_change_it() {
    check(&["train.policy={}"]);
}

#[test]
fn steps_after_a_snapshot_do_not_change_its_adapters_and_masters() {
    check(&[ADAPTERS, "train.lora_rank=4", "train.precision=bf16"]);
}
