//! The datasets of a run: opened, mixed, and said in which shares.

use lavida_data::{
    catalog::{Caching, Catalog, DataSource},
    disk_cache::DiskCache,
    manifest::Purpose,
};
use lavida_dataset_builder::sources;
use lavida_train::settings::Settings;

/// Opens training datasets with the mixing weights and the cache of the settings.
pub async fn open_catalog(uris: &[String], settings: &Settings) -> anyhow::Result<Catalog> {
    let sources = uris.iter().map(|uri| DataSource { uri: uri.clone() });
    let sources: Vec<_> = sources.collect();
    let cache = &settings.cache;
    let disk = cache.dir.as_ref();
    let disk = disk.map(|dir| DiskCache::open(dir, cache.disk_bytes));
    let caching = Caching {
        memory_bytes: cache.memory_bytes,
        disk: disk.transpose()?,
    };
    let catalog = Catalog::open_with(&sources, Purpose::Training, caching).await?;
    let sources = sources::names(Purpose::Training);
    Ok(catalog.with_weights(&settings.sampler.weights, &sources)?)
}

/// Each dataset's share of the samples that are drawn, and what it follows from.
pub fn described(catalog: &Catalog, settings: &Settings) -> String {
    let weights = &settings.sampler.weights;
    let shares = catalog.datasets().iter().zip(catalog.shares());
    let parts = shares.map(|(dataset, share)| {
        let name = &dataset.header.dataset;
        let from = match weights.get(name) {
            Some(weight) => format!("weight {weight}"),
            None => format!("by its {} samples", dataset.samples.len()),
        };
        format!("{name} {:.1} % ({from})", 100.0 * share)
    });
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn every_weight_of_the_shipped_settings_names_a_source() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
        let sources = sources::names(Purpose::Training);
        let mut n_weights = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|ending| ending != "toml") {
                continue;
            }
            let loaded = config::load(path.to_str().unwrap(), &[]).unwrap();
            for name in loaded.settings.sampler.weights.keys() {
                let path = path.display();
                assert!(sources.contains(&name.as_str()), "{path}: {name}");
                n_weights += 1;
            }
        }
        assert!(n_weights >= 7, "paper.toml mixes seven sets");
    }
}
