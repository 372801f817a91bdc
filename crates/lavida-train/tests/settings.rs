//! No value of a setting panics: it is refused by its key, or the model is planned, built and makes a step with it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[allow(dead_code, reason = "what other tests need beside")]
mod support;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use lavida_data::{Error, Result};
use lavida_train::{
    memory,
    reduce::StepShare,
    settings::{
        Settings, embedded,
        keys::{self, Key, ValueKind},
    },
};
use toml::Value;

/// What every number is set to.
const NUMBERS: [&str; 8] = ["0", "1", "3", "7", "1099511627776", "-1", "nan", "inf"];
/// A small run in which every part trains and every kind of setting has a value.
const BASE: [&str; 4] = [
    "train.global_batch=3",
    "train.microbatch=1",
    "train.lora_rank=2",
    r#"train.policy={ model = "lora" }"#,
];
/// Sections that neither the model nor a step reads.
const AROUND: [&str; 3] = ["checkpoint.", "cluster.", "cache."];
/// Side of the made-up frames.
const SIDE_PX: u32 = 64;

/// A setting with a value, as `--set` takes it.
struct Case {
    key: String,
    set: String,
}

fn parse(set: &[&str]) -> Result<Settings> {
    let set: Vec<String> = BASE.iter().chain(set).map(ToString::to_string).collect();
    Settings::parse("embedded:tiny", embedded("tiny").unwrap(), &set)
}

/// Every number in a value, set to each of `numbers`.
fn cases_of(key: &str, value: &Value, numbers: &[String], cases: &mut Vec<Case>) {
    match value {
        Value::Integer(_) | Value::Float(_) => cases.extend(numbers.iter().map(|number| Case {
            key: key.to_owned(),
            set: format!("{key}={number}"),
        })),
        Value::Array(values) => {
            for i in 0..values.len() {
                for number in numbers {
                    let mut texts: Vec<String> = values.iter().map(Value::to_string).collect();
                    texts[i] = number.clone();
                    cases.push(Case {
                        key: key.to_owned(),
                        set: format!("{key}=[{}]", texts.join(", ")),
                    });
                }
            }
        }
        Value::Table(table) => {
            for (name, value) in table {
                cases_of(&keys::dotted(key, name), value, numbers, cases);
            }
        }
        _ => {}
    }
}

/// Whether a key is a number or holds some.
fn is_number(key: &Key) -> bool {
    matches!(
        kind_of(&key.kind),
        ValueKind::Whole { .. } | ValueKind::Real { .. }
    )
}

fn kind_of(kind: &ValueKind) -> &ValueKind {
    match kind {
        ValueKind::List { item, .. } => item,
        ValueKind::Table(value) => value,
        kind => kind,
    }
}

/// Runs all cases on a few threads; what fails is told with its setting.
fn run_all(
    cases: &[Case],
    run: impl Fn(&Case) -> std::result::Result<bool, String> + Sync,
) -> usize {
    let (next, n_accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    let n_threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ran = catch_unwind(AssertUnwindSafe(|| run(case)));
                    let failure = match ran {
                        Ok(Ok(accepted)) => {
                            n_accepted.fetch_add(usize::from(accepted), Ordering::Relaxed);
                            continue;
                        }
                        Ok(Err(failure)) => failure,
                        Err(panic) => {
                            let text = panic.downcast_ref::<String>().cloned();
                            let plain = panic.downcast_ref::<&str>().map(|text| text.to_string());
                            format!("panics: {}", text.or(plain).unwrap_or_default())
                        }
                    };
                    let mut failures = failures.lock().unwrap();
                    failures.push(format!("{}: {failure}", case.set));
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    n_accepted.into_inner()
}

/// An error must be the user's to mend, and name the key.
fn refused_by_key(key: &str, error: &Error) -> std::result::Result<bool, String> {
    match error {
        Error::Invalid { .. } if error.to_string().contains(key) => Ok(false),
        error => Err(format!("an error that does not name the key: {error:?}")),
    }
}

/// What `lavida check` and the first step of `lavida train` do.
fn check_and_step(settings: &Settings, steps: bool) -> Result<()> {
    memory::plan(settings)?;
    if steps {
        let mut trainer = support::try_trainer(settings, None)?;
        trainer.microbatches(&[support::batch(settings, 1, SIDE_PX, 2)])?;
        trainer.update(&StepShare::default())?;
    }
    Ok(())
}

#[test]
fn no_number_panics_in_check_or_in_a_step() {
    let values = parse(&[]).unwrap().values();
    let mut cases = Vec::new();
    let numbers = NUMBERS.map(str::to_owned);
    for (section, value) in &values {
        cases_of(section, value, &numbers, &mut cases);
    }
    for key in keys::keys().filter(|key| is_number(key)) {
        let is_tested = cases.iter().any(|case| case.key.starts_with(&key.path));
        assert!(is_tested, "{} is not set in these settings", key.path);
    }
    let n_accepted = run_all(&cases, |case| {
        let settings = match parse(&[&case.set]) {
            Ok(settings) => settings,
            Err(error) => return refused_by_key(&case.key, &error),
        };
        let steps = !AROUND.iter().any(|section| case.key.starts_with(section));
        match check_and_step(&settings, steps) {
            Ok(()) => Ok(true),
            Err(error) => refused_by_key(&case.key, &error),
        }
    });
    assert!(
        n_accepted > 100,
        "only {n_accepted} of {} were accepted",
        cases.len()
    );
}

/// The limits of a key, as `--set` takes them.
fn limits(key: &Key) -> [String; 2] {
    match kind_of(&key.kind) {
        ValueKind::Whole { min, max } => [min.to_string(), max.to_string()],
        ValueKind::Real { min, max } => [format!("{:e}", min.at), format!("{:e}", max.at)],
        kind => panic!("{kind} is no number"),
    }
}

#[test]
fn every_limit_can_be_planned_and_what_is_beyond_is_refused() {
    let values = parse(&[]).unwrap().values();
    let mut cases = Vec::new();
    for key in keys::keys().filter(|key| is_number(key)) {
        let value = keys::value_of(&values, &key.path).unwrap();
        cases_of(&key.path, value, &limits(key), &mut cases);
    }
    let n_accepted = run_all(&cases, |case| {
        let planned = parse(&[&case.set]).and_then(|settings| check_and_step(&settings, false));
        match planned {
            Ok(()) => Ok(true),
            Err(error) => refused_by_key(&case.key, &error),
        }
    });
    assert!(
        n_accepted > 60,
        "only {n_accepted} of {} were accepted",
        cases.len()
    );
}

#[test]
fn the_largest_settings_can_be_counted() {
    let values = parse(&[]).unwrap().values();
    let skipped = [
        "train.",
        "checkpoint.",
        "cluster.",
        "cache.",
        "optimizer.",
        "compression.",
    ];
    let kept = [
        "model.language.mrope_section",
        "sampler.max_categories",
        "seed",
    ];
    // Blocks by the thousand take long to list, and their number is a factor like any other.
    let numbers_of_blocks = [
        "depth",
        "stages",
        "num_hidden_layers",
        "n_qformer_layers",
        "global_att_blocks",
    ];
    let is_skipped = |key: &Key| {
        skipped.iter().any(|section| key.path.starts_with(section))
            || kept.contains(&key.path.as_str())
            || numbers_of_blocks
                .iter()
                .any(|name| key.path.ends_with(name))
    };
    let mut set = vec![
        "model.language.mrope_section=[16, 24, 24]".to_owned(), // half of 131072 / 1024
        "train.microbatch=1048576".to_owned(),
        "train.global_batch=1048576".to_owned(),
    ];
    for key in keys::keys().filter(|key| is_number(key) && !is_skipped(key)) {
        let [_, max] = limits(key);
        let n = match keys::value_of(&values, &key.path) {
            Some(Value::Array(values)) => values.len(),
            Some(Value::Table(_)) => continue,
            _ => 0,
        };
        set.push(match n {
            0 => format!("{}={max}", key.path),
            n => format!("{}=[{}]", key.path, vec![max; n].join(", ")),
        });
    }
    // 7 px apart, patches do not halve three times in a power of two; windows reach twice a grid's side.
    set.push("model.sam2.patch_stride=1".to_owned());
    set.push("model.sam2.window_spec=[16384, 16384, 8192, 4096]".to_owned());
    set.push("model.vision.patch_size=256".to_owned()); // 256 × 32 px a token are the largest area
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let settings = parse(&set).unwrap();
    let plan = memory::plan(&settings).unwrap();
    assert!(plan.parameters > 1 << 40, "{}", plan.parameters);
    assert!(plan.memory.total >= plan.memory.activations);
}
