//! `lavida export`: a checkpoint's weights for serving.

use clap::Args;
use lavida_data::Error;
use lavida_dataflow::device::DeviceName;
use lavida_store::Store;
use lavida_terminal::screen;

use crate::{
    arguments::Dtype,
    export::{Format, Packing, Staged, free},
    scoring::open_weights,
};

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A run (its newest checkpoint), one checkpoint, or an export
    #[arg(long, value_name = "URI")]
    pub checkpoint: String,
    /// Format of the weights
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    pub format: Format,
    /// Number format of the weights
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Largest safetensors file (KB, MB, GB, KiB, MiB, GiB); a larger model is split, with an index as transformers writes it
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    pub max_shard_size: String,
    /// Folder or bucket to write; for a bucket the export is made in this machine's temporary folder (TMPDIR) first
    #[arg(long, value_name = "URI")]
    pub out: String,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

pub async fn run(args: ExportArgs) -> anyhow::Result<()> {
    let packing = Packing {
        format: args.format,
        precision: args.dtype.into(),
        max_shard_bytes: bytes_of(&args.max_shard_size)?,
    };
    let out = Store::open(&args.out)?;
    free(&out).await?;
    let model = open_weights(&args.checkpoint, &args.set).await?;
    DeviceName::parse(&model.about.settings.device)?; // none is needed, but what is written has to be one
    let carried = model.carried().await?;
    if carried.is_empty() {
        screen::line(
            "export: no SAM2 memory: the model was not imported with it, so the reference's classes will report those tensors as missing",
        );
    }
    let staged = Staged::of_opened(&model, &carried, &out, packing).await?;
    for file in staged.publish().await? {
        screen::line(&format!(
            "{}  {} ({} bytes)",
            file.sha256, file.name, file.bytes
        ));
    }
    Ok(())
}

/// `5GB` → bytes. Units of ten as transformers has them (KB, MB, GB), and of two (KiB, MiB, GiB).
fn bytes_of(size: &str) -> Result<u64, Error> {
    let refused = || {
        let expected = "a whole number above 0 with one of KB, MB, GB, KiB, MiB, GiB";
        Error::invalid("--max-shard-size", expected, size)
    };
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000u64),
    ];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((size.strip_suffix(name)?, unit)))
        .ok_or_else(refused)?;
    let number: u64 = number.trim().parse().map_err(|_| refused())?;
    match number.checked_mul(*unit) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [("5GB", 5_000_000_000), ("1 KiB", 1024), ("20KB", 20_000)] {
            assert_eq!(bytes_of(text).unwrap(), bytes, "{text}");
        }
        for text in [
            "",
            "5",
            "GB",
            "0GB",
            "-1MB",
            "1.5GB",
            "5gb",
            "99999999999GiB",
        ] {
            let error = bytes_of(text).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}: {error}");
        }
    }
}
