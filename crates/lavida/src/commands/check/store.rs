//! Whether a run can live in a store: everything that commits rest on is done once, with a key of its own that goes again.

use bytes::Bytes;
use lavida_cluster::shell::random_id;
use lavida_data::{Error, Result, catalog::Catalog};
use lavida_dataflow::run::check_place;
use lavida_store::Store;
use lavida_train::settings::Settings;

/// Writes, reads, is refused the same key again, and deletes.
pub async fn commits(out: &str) -> Result<String> {
    let store = Store::open(out)?;
    let folder = store.local_path();
    let is_new = folder.as_ref().is_some_and(|folder| !folder.exists());
    let key = format!("lavida-check-{:016x}", random_id());
    let tried = tries(&store, &key).await;
    let deleted = store.delete(&key).await;
    if let (true, Some(folder)) = (is_new, folder) {
        let _ = std::fs::remove_dir(folder); // not ours any more if something is in it
    }
    tried?;
    deleted?;
    if store.size(&key).await?.is_some() {
        return Err(lacks(&store, &key, "a deleted key is still there"));
    }
    let uri = store.uri();
    Ok(format!(
        "{uri}: writes, reads, refuses a key that is taken, deletes"
    ))
}

/// Whether a run of these settings may begin there or go on.
pub async fn goes_on(out: &str, settings: &Settings, catalog: Option<&Catalog>) -> Result<String> {
    let store = Store::open(out)?;
    let steps = settings.train.steps;
    Ok(match check_place(&store, settings, catalog).await? {
        None => "begins: there is no checkpoint".to_owned(),
        Some(step) if step >= steps => format!("is at step {step} already, nothing to do"),
        Some(step) => format!("goes on from the checkpoint of step {step}"),
    })
}

async fn tries(store: &Store, key: &str) -> Result<()> {
    let content = Bytes::from(key.to_owned());
    store.create(key, content.clone()).await?;
    let found = store.get(key).await?;
    if found != content {
        let found = format!("{} others", found.len());
        return Err(Error::corrupt(
            store.full(key),
            format!("the {} bytes just written", key.len()),
            found,
        ));
    }
    match store.create(key, content).await {
        Err(Error::Exists { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => Err(lacks(
            store,
            key,
            "a key that was taken was written again: commits need put-if-absent",
        )),
    }
}

fn lacks(store: &Store, key: &str, reason: &str) -> Error {
    Error::store_unavailable(store.full(key), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_left_of_a_probe() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let said = commits(out.to_str().unwrap()).await.unwrap();
        assert!(said.contains("refuses a key that is taken"), "{said}");
        assert!(!out.exists());
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("metrics.jsonl"), "").unwrap();
        commits(out.to_str().unwrap()).await.unwrap();
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_full_store_is_unavailable_and_a_file_in_its_place_is_a_usage_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = commits(file.join("run").to_str().unwrap())
            .await
            .unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        let full = Store::open("memory://check-full").unwrap().with_capacity(3);
        assert_eq!(tries(&full, "other").await.unwrap_err().exit_code(), 4);
    }
}
