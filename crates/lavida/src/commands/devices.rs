//! `lavida devices`: what settings may name as `device` here, and why not more.

use clap::Args;
use lavida_dataflow::device::{self, DeviceKind, DeviceName, Listed, memory::free_bytes};
use lavida_train::memory::gib;
use serde_json::{Value, json};

use crate::output::{print_json, print_text};

#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

pub async fn run(args: DevicesArgs) -> anyhow::Result<()> {
    let listed = tokio::task::spawn_blocking(device::list).await?;
    let mut rows = Vec::new();
    for device in listed {
        rows.push(Row::of(device).await);
    }
    let not_built = DeviceKind::ALL.into_iter().filter(|kind| !kind.is_built());
    let not_built: Vec<DeviceKind> = not_built.collect();
    if args.json {
        let document = json!({
            "devices": rows.iter().map(Row::document).collect::<Vec<_>>(),
            "not_built": not_built.iter().map(|kind| json!({
                "name": kind.pattern(),
                "what": kind.what(),
                "feature": kind.word(),
            })).collect::<Vec<_>>(),
        });
        return print_json(&document);
    }
    let built = rows.iter().map(Row::line);
    let others = not_built.iter().map(|kind| {
        let (pattern, what, word) = (kind.pattern(), kind.what(), kind.word());
        format!("  {pattern:<11} {what}: not in this build, which needs --features {word}")
    });
    let lines: Vec<String> = built.chain(others).collect();
    print_text(&format!("device = …\n{}", lines.join("\n")))
}

/// A device, and what is known of its memory.
struct Row {
    device: Listed,
    free: Option<u64>,
}

impl Row {
    async fn of(mut device: Listed) -> Self {
        let free = match (&device.unusable, DeviceName::parse(&device.name)) {
            (None, Ok(name)) => free_bytes(name).await.ok(),
            _ => None,
        };
        if let (DeviceKind::Cpu, Some(model)) = (device.kind, processor()) {
            device.what = model;
        }
        Self { device, free }
    }

    fn line(&self) -> String {
        let Listed { name, what, .. } = &self.device;
        let more = match (&self.device.unusable, self.free) {
            (Some(why), _) => format!(": not usable, {why}"),
            (None, Some(bytes)) => format!(", {:.1} GiB free", gib(bytes)),
            (None, None) => String::new(),
        };
        format!("  {name:<11} {what}{more}")
    }

    fn document(&self) -> Value {
        json!({
            "name": self.device.name,
            "what": self.device.what,
            "usable": self.device.unusable.is_none(),
            "reason": self.device.unusable,
            "free_bytes": self.free,
        })
    }
}

/// Model and threads of the processor, where the system says them.
fn processor() -> Option<String> {
    let cpuinfo = lavida_files::read_system("/proc/cpuinfo").ok()?;
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?;
    let model = line.split_once(':')?.1.trim();
    let n_threads = std::thread::available_parallelism().ok()?;
    Some(format!("{model}, {n_threads} threads"))
}
