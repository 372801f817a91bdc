//! The datasets of a run: named on the command line or by a mix file, opened, and said in which shares.

use lavida_data::{
    Error, Result,
    catalog::{Caching, Catalog, DataSource, Share},
    disk_cache::DiskCache,
    manifest::Purpose,
    mix::Mix,
};
use lavida_train::settings::Settings;
use std::path::Path;

/// What `--data` and `--mix` name together: with a mix file `--data` says where the datasets lie that have no place of their
/// own in it.
///
/// # Errors
///
/// [`Error::Invalid`] for a mix file that is wrong, more than one place for it, and datasets of it that are not there: all of
/// them by name.
pub async fn sources(data: &[String], mix: Option<&Path>) -> Result<Vec<DataSource>> {
    let Some(file) = mix else {
        return Ok(data.iter().map(DataSource::new).collect());
    };
    let mix = Mix::read(file)?;
    let root = match data {
        [] => &mix.root,
        [root] => root,
        _ => {
            let expected = "with --mix one place at most, of the datasets that it names";
            return Err(Error::invalid(
                "--data",
                expected,
                format!("{} places", data.len()),
            ));
        }
    };
    let sources = mix.sources(root);
    let missing = Catalog::missing(&sources).await?;
    if missing.is_empty() {
        return Ok(sources);
    }
    let file = file.display();
    let expected = format!(
        "each of its {} datasets, built (`lavida-dataset build --mix {file} --root …`; one that is not to be had leaves a copy of \
         the file)",
        sources.len()
    );
    Err(Error::invalid(
        file,
        expected,
        format!("none at {}", missing.join(", ")),
    ))
}

/// Opens training datasets with the cache of the settings.
pub async fn open_catalog(sources: &[DataSource], settings: &Settings) -> anyhow::Result<Catalog> {
    let cache = &settings.cache;
    let disk = cache.dir.as_ref();
    let disk = disk.map(|dir| DiskCache::open(dir, cache.disk_bytes));
    let caching = Caching {
        memory_bytes: cache.memory_bytes,
        disk: disk.transpose()?,
    };
    Ok(Catalog::open_with(sources, Purpose::Training, caching).await?)
}

/// Each dataset's share of the samples that are drawn, and what it follows from.
pub fn described(catalog: &Catalog) -> String {
    let shares = catalog.datasets().iter().zip(catalog.shares());
    let parts = shares.map(|(dataset, share)| {
        let name = &dataset.header.dataset;
        let from = match &dataset.source.share {
            Share::BySamples => format!("by its {} samples", dataset.samples.len()),
            share => share.to_string(),
        };
        format!("{name} {:.1} % ({from})", 100.0 * share)
    });
    parts.collect::<Vec<_>>().join(", ")
}
