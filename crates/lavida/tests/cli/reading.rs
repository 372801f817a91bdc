//! `inspect` and `check`: what is said about data, checkpoints and settings without changing anything.

use serde_json::Value;

use crate::support::{World, finish};

const PAPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/paper.toml");

#[test]
fn the_same_draw_is_the_same_picture() {
    let world = World::new();
    let manifest = std::fs::read(world.join("shards/coco/_manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert!(manifest["samples"].as_u64().unwrap() > 0, "{manifest}");
    let replay = |sample: &str, epoch: &str, out: &str| {
        let args = [
            "inspect",
            "--data",
            "shards/coco",
            "--sample",
            sample,
            "--seed",
            "5",
        ];
        world.run(&[&args[..], &["--epoch", epoch, "--out", out, "--json"]].concat())
    };
    // The message of an id that does not exist names some that do.
    let refused = replay("nobody", "0", "x.png");
    let (_, ids) = refused.stderr().split_once("such as ").unwrap();
    let id = ids.split([',', ' ']).next().unwrap().trim().to_owned();
    refused.refused(2, &["--sample", "nobody"]);

    let first = replay(&id, "0", "a.png").json();
    let mut second = replay(&id, "0", "b.png").json();
    second["picture"] = first["picture"].clone();
    assert_eq!(first, second);
    let picture = |name: &str| std::fs::read(world.join(name)).unwrap();
    assert_eq!(picture("a.png"), picture("b.png"));
    assert!(picture("a.png").starts_with(b"\x89PNG"));
    replay(&id, "1", "c.png").json();
    assert_ne!(picture("a.png"), picture("c.png"));
}

#[test]
fn a_step_is_replayed_as_its_ranks_saw_it() {
    let world = World::new();
    let ran = finish(world.train("run", &["train.steps=2"])).succeeded();
    assert!(ran.stderr().contains("step 2"), "{}", ran.stderr());
    let step = |more: &[&str]| {
        let args = [
            "inspect",
            "--data",
            "shards/coco",
            "--data",
            "shards/mevis",
            "--step",
            "2",
        ];
        let config = [
            "--config",
            "run/settings.toml",
            "--out",
            "seen.png",
            "--json",
        ];
        world.run(&[&args[..], &config, more].concat())
    };
    let samples = |document: &Value| document["samples"].as_array().unwrap().clone();
    let whole = samples(&step(&[]).json());
    assert_eq!(whole.len(), 4, "train.global_batch");
    let mut of_ranks = Vec::new();
    for rank in ["0", "1"] {
        let seen = samples(&step(&["--rank", rank, "--world-size", "2"]).json());
        assert_eq!(seen.len(), 2);
        of_ranks.extend(seen);
    }
    let ids = |samples: &[Value]| -> Vec<String> {
        samples.iter().map(|s| s["sample"].to_string()).collect()
    };
    assert_eq!(ids(&of_ranks), ids(&whole));
    for n in 1..=4 {
        let picture = std::fs::read(world.join(&format!("seen-{n}.png"))).unwrap();
        assert!(picture.starts_with(b"\x89PNG"));
    }
    // One of its samples by name is the same draw.
    let one = step(&["--sample", whole[3]["sample"].as_str().unwrap()]).json();
    assert_eq!(one["categories"], whole[3]["categories"]);
    step(&["--rank", "2", "--world-size", "2"]).refused(2, &["--rank", "below"]);
    step(&["--rank", "0", "--world-size", "3"]).refused(2, &["--world-size", "global_batch = 4"]);
}

#[test]
fn inspect_tells_what_a_dataset_and_a_checkpoint_hold() {
    let world = World::new();
    let data = world
        .run(&["inspect", "--data", "shards/mevis", "--json"])
        .json();
    assert_eq!(
        (&data["dataset"], &data["purpose"]),
        (&"mevis".into(), &"training".into())
    );
    let run = world.trained();
    let checkpoint = world
        .run(&["inspect", "--checkpoint", run, "--json"])
        .json();
    assert_eq!(checkpoint["state"]["step"], 2);
    assert_eq!(checkpoint["state"]["position"], 8);
    assert_eq!(checkpoint["settings"]["train"]["global_batch"], 4);
    let parts = checkpoint["parts"].as_array().unwrap().iter();
    let names: Vec<_> = parts.map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "clip_tokenizer.json",
            "frozen.safetensors",
            "optimizer.safetensors",
            "settings.toml",
            "tokenizer.json",
            "weights.safetensors"
        ]
    );
}

/// Parameters of the paper's model, in thousands, as counted in the reference.
#[test]
fn check_counts_the_papers_model_as_the_reference_does() {
    let world = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lavida"))
        .current_dir(world.path())
        .args(["check", "--config", PAPER, "--set", "device=cpu", "--json"])
        .output()
        .unwrap();
    // Whether this machine has the memory is one of its checks, and the plan is there in any case.
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let modules = plan["modules"].as_array().unwrap();
    let sum = |prefix: &str, key: &str| -> u64 {
        let of_prefix = modules
            .iter()
            .filter(|m| m["name"].as_str().unwrap().starts_with(prefix));
        of_prefix.map(|m| m[key].as_u64().unwrap()).sum()
    };
    let thousands = |n: u64| (n + 500) / 1000;
    assert_eq!(
        thousands(sum("seg_model.multi_scale_projector", "parameters")),
        54_190
    );
    assert_eq!(thousands(sum("assist_clf", "parameters")), 63_166);
    assert_eq!(
        thousands(sum("seg_model.image_encoder", "parameters")),
        34_317
    );
    assert_eq!(thousands(sum("model.layers", "trainable")), 2_523); // LoRA
    let tables = sum("model.embed_tokens", "trainable") + sum("lm_head", "trainable");
    assert_eq!(tables, 2 * 151_658 * 3584);
    assert_eq!(
        sum("visual", "trainable") + sum("assist_clf", "trainable"),
        0
    );
    assert_eq!(sum("", "parameters"), plan["parameters"].as_u64().unwrap());
    assert_eq!(sum("", "trainable"), plan["trainable"].as_u64().unwrap());
    let memory = plan["memory"].as_object().unwrap();
    let bytes = |part: &str| memory[part].as_u64().unwrap();
    let computing = bytes("gradients") + bytes("activations").max(bytes("gradients")); // in a step of two rounds
    let updating = bytes("gradients") + bytes("update");
    let beside = computing.max(updating).max(bytes("loading"));
    assert_eq!(
        bytes("total"),
        bytes("weights") + bytes("optimizer") + beside
    );
    assert_eq!(
        memory["optimizer"].as_u64(),
        memory["gradients"].as_u64().map(|g| 3 * g) // two moments and, beside bf16 weights, masters
    );
}
