//! An export is as good as its checkpoint: it scores and trains on the same to the bit, and an import of it is the same to
//! the byte.

use std::path::{Path, PathBuf};

use lavida_model::weights::read_safetensors;
use serde_json::Value;

use crate::{
    importing::{Towers, carried, fixture, published, weights},
    support::{World, finish, names, run_in},
};

/// Ways to write the same weights.
const PACKINGS: [(&str, &[&str]); 3] = [
    ("single", &[]),
    ("shards", &["--max-shard-size", "60KB"]),
    ("burnpack", &["--format", "burnpack"]),
];

fn export(folder: &Path, checkpoint: &str, out: &str, more: &[&str]) -> PathBuf {
    let args = ["export", "--checkpoint", checkpoint, "--out", out];
    run_in(folder, &[&args[..], more].concat()).succeeded();
    folder.join(out)
}

/// Everything `predict` writes about a video: scores as text that reads back to the same bits, and pictures of the masks.
fn scores(folder: &Path, checkpoint: &str) -> Vec<(String, Vec<u8>)> {
    let video = "../lavida-data/tests/fixtures/moving_square.mp4";
    let video = Path::new(env!("CARGO_MANIFEST_DIR")).join(video);
    let out = format!("scores-of-{checkpoint}");
    let args = [
        "predict",
        "--checkpoint",
        checkpoint,
        "--video",
        video.to_str().unwrap(),
        "--categories",
        "red circle, square",
        "--out",
        &out,
        "--pictures",
        "2",
        "--interval",
        "4",
    ];
    run_in(folder, &args).succeeded();
    let out = folder.join(out);
    let read = |name: String| (name.clone(), std::fs::read(out.join(name)).unwrap());
    names(&out).into_iter().map(read).collect()
}

#[test]
fn an_export_scores_as_the_checkpoint_did_to_the_bit_with_adapters_merged() {
    let world = World::new();
    Towers::default()
        .import(world.path(), "first", &[])
        .succeeded();
    let settings = fixture("lavida.toml");
    let args = [
        "train",
        "--config",
        settings.to_str().unwrap(),
        "--data",
        "shards/coco",
        "--out",
        "run",
        "--set",
        "train.initial=first",
        "--set",
        "optimizer.warmup_steps=0",
        "--set",
        "optimizer.learning_rate=0.01",
    ];
    finish(world.lavida(&args)).succeeded();
    let trained = std::fs::read(world.join("run/checkpoints/0000000002/g0-weights.safetensors"));
    let mut trained = read_safetensors(&trained.unwrap()).unwrap();
    let frozen = world.join("run/frozen");
    let frozen = std::fs::read(frozen.join(&names(&frozen)[0]));
    trained.extend(read_safetensors(&frozen.unwrap()).unwrap());
    let adapters = trained
        .keys()
        .filter(|name| name.contains(".lora_"))
        .count();
    assert_eq!(adapters, 2 * 2 * 2, "layers, projections, factors");

    let expected = scores(world.path(), "run");
    assert_ne!(
        expected,
        scores(world.path(), "first"),
        "training changed nothing"
    );
    for (out, packing) in PACKINGS {
        let folder = export(world.path(), "run", out, packing);
        let settings = std::fs::read_to_string(folder.join("settings.toml")).unwrap();
        assert!(!settings.contains("\"lora\""), "{settings}");
        assert_eq!(scores(world.path(), out), expected, "{out}");
        // The memory that came in with SAM2 is there as it was, and is read by none of this.
        let memory = carried(world.path(), "first");
        let mut published = published(&folder);
        if out == "burnpack" {
            assert_eq!(published, memory); // beside model.bpk
        } else {
            let n_weights = trained.len() - adapters;
            assert_eq!(published.len(), n_weights + memory.len());
            published.retain(|name, _| memory.contains_key(name));
            assert_eq!(published, memory, "{out}");
        }
        // An export of an export is the same files.
        let again = export(world.path(), out, &format!("{out}-again"), packing);
        let sums = |folder: &Path| std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
        if out != "burnpack" {
            assert_eq!(sums(&again), sums(&folder)); // burnpack also holds identities of parameters, which are new each time
        }
    }
}

/// What a run of two steps from these weights leaves: losses, weights, and what is carried beside them.
fn trained_from(world: &World, initial: &str) -> (Vec<Value>, [Vec<u8>; 2]) {
    let settings = fixture("lavida.toml");
    let out = format!("run-from-{initial}");
    let args = [
        "train",
        "--config",
        settings.to_str().unwrap(),
        "--data",
        "shards/coco",
        "--out",
        &out,
        "--set",
        &format!("train.initial={initial}"),
    ];
    finish(world.lavida(&args)).succeeded();
    let rows = std::fs::read_to_string(world.join(&out).join("metrics.jsonl")).unwrap();
    let rows = rows.lines().map(|row| {
        let mut row: Value = serde_json::from_str(row).unwrap();
        let fields = row.as_object_mut().unwrap();
        fields.retain(|key, _| key != "seconds" && !key.ends_with("_seconds"));
        row
    });
    let checkpoint = world.join(&out).join("checkpoints/0000000002");
    let parts = ["g0-weights.safetensors", "g0-carried.safetensors"]
        .map(|part| std::fs::read(checkpoint.join(part)).unwrap());
    (rows.collect(), parts)
}

#[test]
fn a_run_from_an_export_is_the_run_from_its_checkpoint_to_the_bit() {
    let world = World::new();
    Towers::default()
        .import(world.path(), "first", &[])
        .succeeded();
    let expected = trained_from(&world, "first");
    assert_eq!(expected.0.len(), 2);
    for (out, packing) in PACKINGS {
        export(world.path(), "first", out, packing);
        assert!(trained_from(&world, out) == expected, "{out}");
    }
}

#[test]
fn an_export_is_inspected_as_a_checkpoint_is() {
    let world = World::new();
    let run = world.trained();
    let inspect = |uri: &str| {
        world
            .run(&["inspect", "--checkpoint", uri, "--json"])
            .json()
    };
    let checkpoint = inspect(run);
    for (out, packing) in PACKINGS {
        let folder = export(world.path(), run, out, packing);
        let found = inspect(out);
        assert_eq!(found["state"]["step"], checkpoint["state"]["step"]);
        for section in ["model", "compression", "sampler", "optimizer"] {
            let mut expected = checkpoint["settings"][section].clone();
            if section == "model" {
                expected["tokenizer"] = "tokenizer.json".into();
                expected["clip_tokenizer"] = "clip_tokenizer.json".into();
            }
            assert_eq!(found["settings"][section], expected, "{out}: {section}");
        }
        let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
        let parts = found["parts"].as_array().unwrap();
        let text = |part: &Value, key: &str| part[key].as_str().unwrap().to_owned();
        let lines = parts
            .iter()
            .map(|part| format!("{}  {}\n", text(part, "sha256"), text(part, "name")));
        assert_eq!(lines.collect::<String>(), sums);
        for part in parts {
            let file = std::fs::metadata(folder.join(text(part, "name"))).unwrap();
            assert_eq!(part["bytes"], file.len());
        }
    }
}

#[test]
fn an_import_of_an_export_is_the_checkpoint_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for dtype in ["f32", "bf16"] {
        let first = format!("first-{dtype}");
        Towers::default()
            .import(folder, &first, &["--dtype", dtype])
            .succeeded();
        let bytes = |out: &str| {
            ["g0-weights.safetensors", "g0-carried.safetensors"]
                .map(|part| std::fs::read(folder.join(out).join(part)).unwrap())
        };
        for (packed, packing) in PACKINGS {
            let exported = format!("{packed}-{dtype}");
            export(
                folder,
                &first,
                &exported,
                &[packing, &["--dtype", dtype]].concat(),
            );
            let back = format!("{exported}-back");
            let args = ["import", "--lavida", &exported, "--out", &back];
            run_in(folder, &args).succeeded();
            assert!(bytes(&back) == bytes(&first), "{exported}");
            let inspect =
                |uri: &str| run_in(folder, &["inspect", "--checkpoint", uri, "--json"]).json();
            let (mut mine, mut theirs) = (
                inspect(&back)["settings"].clone(),
                inspect(&first)["settings"].clone(),
            );
            for settings in [&mut mine, &mut theirs] {
                settings["model"]["tokenizer"].take(); // its own files
                settings["model"]["clip_tokenizer"].take();
                settings["train"]["policy"].take(); // adapters are merged
            }
            assert_eq!(mine, theirs);
        }
    }
}

#[test]
fn shards_are_named_and_indexed_as_transformers_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Towers::default()
        .import(folder, "first", &["--dtype", "f32"])
        .succeeded();
    let out = export(folder, "first", "shards", &["--max-shard-size", "60KB"]);
    let index = std::fs::read(out.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    let files = names(&out);
    let shards: Vec<_> = files
        .iter()
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    let n = shards.len();
    assert!(n > 5, "{files:?}");
    let (mut total, mut n_tensors) = (0, 0);
    for (at, shard) in shards.iter().enumerate() {
        assert_eq!(
            **shard,
            format!("model-{:05}-of-{n:05}.safetensors", at + 1)
        );
        let tensors = read_safetensors(&std::fs::read(out.join(shard)).unwrap()).unwrap();
        let bytes: usize = tensors.values().map(|data| data.as_bytes().len()).sum();
        assert!(bytes <= 60_000 || tensors.len() == 1, "{shard}: {bytes}");
        for name in tensors.keys() {
            assert_eq!(&map[name], shard.as_str());
        }
        total += bytes;
        n_tensors += tensors.len();
    }
    assert_eq!(index["metadata"]["total_size"], total);
    let memory = carried(folder, "first");
    let expected = weights(folder, "first").len() + memory.len();
    assert_eq!((map.len(), n_tensors), (expected, expected));
    // bf16 is half of it, but for the memory, which stays as it is.
    let memory: usize = memory.values().map(|data| data.as_bytes().len()).sum();
    let total = total + memory;
    let half = export(folder, "first", "half", &["--dtype", "bf16"]);
    let size = std::fs::metadata(half.join("model.safetensors"))
        .unwrap()
        .len() as usize;
    assert!(
        (total / 2..total / 2 + 60_000).contains(&size),
        "{size} of {total}"
    );
}

#[test]
fn an_export_of_a_model_that_was_never_imported_has_no_memory_and_says_so() {
    let world = World::new();
    let args = ["export", "--checkpoint", world.trained(), "--out", "out"];
    let ran = world.run(&args).succeeded();
    assert!(ran.stderr().contains("no SAM2 memory"), "{}", ran.stderr());
    let tensors = published(&world.join("out"));
    assert!(tensors.len() > 100);
    let memory = |name: &String| name.starts_with("seg_model.mem");
    assert!(!tensors.keys().any(memory));
    // Nor has what is made of it.
    let args = ["import", "--lavida", "out", "--out", "back"];
    world.run(&args).succeeded();
    assert!(!world.join("back/g0-carried.safetensors").exists());
}

#[test]
fn a_carried_part_that_is_cut_is_refused_where_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Towers::default().import(folder, "first", &[]).succeeded();
    let part = folder.join("first/g0-carried.safetensors");
    let bytes = std::fs::read(&part).unwrap();
    std::fs::write(&part, &bytes[..bytes.len() / 2]).unwrap();
    let args = ["export", "--checkpoint", "first", "--out", "out"];
    run_in(folder, &args).refused(3, &["g0-carried.safetensors", "bytes"]);
    assert!(!folder.join("out").exists());
    // Who only scores has no need of it.
    scores(folder, "first");
}

#[test]
fn serving_json_says_what_goes_in_and_what_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Towers::default().import(folder, "first", &[]).succeeded();
    let out = export(folder, "first", "exported", &[]);
    let serving: Value =
        serde_json::from_slice(&std::fs::read(out.join("serving.json")).unwrap()).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&serving).unwrap());
}

#[test]
fn an_export_that_is_damaged_or_lacks_a_file_is_refused_and_the_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Towers::default().import(folder, "first", &[]).succeeded();
    for (out, packing) in PACKINGS {
        let exported = export(folder, "first", out, packing);
        let files = names(&exported);
        let weights = files
            .iter()
            .find(|f| f.starts_with("model") && !f.ends_with("json"))
            .unwrap();
        let mut bytes = std::fs::read(exported.join(weights)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(exported.join(weights), bytes).unwrap();
        let import = ["import", "--lavida", out, "--out", "back"];
        run_in(folder, &import).refused(3, &[weights, "SHA-256"]);
        std::fs::remove_file(exported.join(weights)).unwrap();
        run_in(folder, &import).refused(3, &[weights, "a readable file"]);
        let again = ["export", "--checkpoint", out, "--out", "again"];
        run_in(folder, &again).refused(3, &[weights]);
        run_in(folder, &["inspect", "--checkpoint", out]).refused(3, &[weights]);
        assert!(!folder.join("back").exists() && !folder.join("again").exists());
    }
    let size = [
        "export",
        "--checkpoint",
        "first",
        "--out",
        "x",
        "--max-shard-size",
        "5",
    ];
    run_in(folder, &size).refused(2, &["--max-shard-size", "GiB"]);
}

#[test]
fn help_of_import_and_export_reads_well() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["import", "export"] {
        let ran = run_in(folder.path(), &[command, "--help"]).succeeded();
        insta::assert_snapshot!(format!("help_{command}"), ran.stdout());
    }
}
