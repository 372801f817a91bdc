//! From what a person types to a backend and a prefix in it.
//!
//! `file:///…` and plain paths are the local folder (nothing is created before the first write),
//! `memory://NAME` is a store of this process shared by everybody who opens the same `NAME`, and
//! `s3://`, `gs://`, `az://` take their credentials from where their own tools do: the environment, a profile of AWS
//! ([`crate::aws`]), Google's application default credentials, the login of `az`, the machine they run on.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, RetryConfig};
use url::Url;

use crate::{Error, Result, aws};

/// Variables that name the endpoint of S3.
pub(crate) const S3_ENDPOINTS: [&str; 3] =
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

const SCHEMES: &str = "a path or a URI with one of file:// s3:// gs:// az:// memory://";

/// How long a request is retried before the store counts as unreachable: long enough for a server
/// to restart, short enough that a wrong endpoint is told to the person who typed it.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_RETRIES: usize = 6;

/// A backend, the prefix in it, and the URI to show in messages.
pub(crate) struct Location {
    pub backend: Arc<dyn ObjectStore>,
    pub prefix: String,
    pub uri: String,
}

static MEMORY: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

/// Whether a store is a folder of this machine.
pub(crate) fn is_local(uri: &str) -> bool {
    uri.split_once("://")
        .is_none_or(|(scheme, _)| scheme == "file")
}

pub(crate) fn resolve(uri: &str) -> Result<Location> {
    if uri.trim().is_empty() {
        return Err(Error::invalid("store location", SCHEMES, "an empty text"));
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        return local(Path::new(uri));
    };
    match scheme {
        "file" => local(&file_path(uri)?),
        "memory" | "s3" | "gs" | "az" => remote(uri, scheme, rest),
        other => Err(Error::invalid(uri, SCHEMES, format!("scheme {other}://"))),
    }
}

/// A file or folder of this machine from what a person types: a path or `file:///…`.
///
/// # Errors
///
/// [`Error::Invalid`] for any other URI: `s3://bucket/x` is no name of a folder.
pub fn local_path(text: &str) -> Result<PathBuf> {
    match text.split_once("://") {
        None if text.is_empty() => Err(Error::invalid("path", "a path", "an empty text")),
        None => Ok(PathBuf::from(text)),
        Some(("file", _)) => file_path(text),
        Some((scheme, _)) => {
            let expected = "a path of this machine (or file:///…)";
            Err(Error::invalid(
                text,
                expected,
                format!("scheme {scheme}://"),
            ))
        }
    }
}

fn file_path(uri: &str) -> Result<PathBuf> {
    let refused = |()| Error::invalid(uri, "file:/// and an absolute path", "another host");
    let url = Url::parse(uri).map_err(|error| Error::invalid(uri, SCHEMES, error))?;
    url.to_file_path().map_err(refused)
}

/// A bucket and a prefix. The prefix is taken as it stands: keys are not percent-encoded.
fn remote(uri: &str, scheme: &str, rest: &str) -> Result<Location> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        let expected = format!("{scheme}:// and a name");
        return Err(Error::invalid(uri, expected, "no name"));
    }
    let backend = match scheme {
        "memory" => memory(bucket),
        _ => cloud(uri, &format!("{scheme}://{bucket}"))?,
    };
    Ok(Location {
        backend,
        prefix: prefix.trim_matches('/').to_string(),
        uri: uri.trim_end_matches('/').to_string(),
    })
}

fn local(path: &Path) -> Result<Location> {
    let path =
        normalise(path).map_err(|error| Error::invalid(path.display(), "a usable path", error))?;
    let text = path
        .to_str()
        .ok_or_else(|| Error::invalid(path.display(), "a path in UTF-8", "other bytes"))?;
    Ok(Location {
        // fsync: a manifest may only be durable after everything it names is.
        backend: Arc::new(LocalFileSystem::new().with_fsync(true)),
        prefix: text.trim_matches('/').to_string(),
        uri: text.to_string(),
    })
}

/// Absolute and without `.` or `..`; a `..` after a link leaves the folder the link points to.
fn normalise(path: &Path) -> std::io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean = clean.canonicalize().unwrap_or(clean);
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    Ok(clean)
}

fn memory(name: &str) -> Arc<dyn ObjectStore> {
    let mut stores = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    stores.entry(name.to_string()).or_default().clone()
}

fn cloud(uri: &str, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig {
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    };
    let built: object_store::Result<Arc<dyn ObjectStore>> = match bucket {
        s3 if s3.starts_with("s3:") => {
            let env = &aws::environment;
            let mut builder = AmazonS3Builder::from_env().with_url(s3).with_retry(retry);
            let profile = aws::Profile::chosen(env)?;
            if let Some(profile) = &profile {
                builder = profile.complete(builder, env);
            }
            let of_profile = profile.as_ref().and_then(|profile| profile.endpoint(env));
            // Whoever sets an http endpoint means it; asking for `AWS_ALLOW_HTTP` as well helps nobody.
            let endpoints = S3_ENDPOINTS.iter().filter_map(|name| env(name));
            if endpoints
                .chain(of_profile.cloned())
                .any(|at| at.starts_with("http://"))
            {
                builder = builder.with_allow_http(true);
            }
            builder.build().map(|store| Arc::new(store) as _)
        }
        gs if gs.starts_with("gs:") => GoogleCloudStorageBuilder::from_env()
            .with_url(gs)
            .with_retry(retry)
            .build()
            .map(|store| Arc::new(store) as _),
        az => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(az);
            if is_logged_in_to_azure(&aws::environment) {
                builder = builder.with_use_azure_cli(true); // keys, tokens and identities that are named come before
            }
            let built = builder.with_retry(retry).build();
            built.map(|store| Arc::new(store) as _)
        }
    };
    built.map_err(|error| {
        let expected = "a bucket and, in the environment, what reaches it";
        Error::invalid(uri, expected, error)
    })
}

/// Whether `az login` was made here and nothing says that this machine has an identity of its own.
fn is_logged_in_to_azure(env: &dyn Fn(&str) -> Option<String>) -> bool {
    let identities = ["AZURE_USE_AZURE_CLI", "IDENTITY_ENDPOINT", "MSI_ENDPOINT"];
    if identities.iter().any(|name| env(name).is_some()) {
        return false; // object_store's own business
    }
    let home = || env("HOME").or_else(|| env("USERPROFILE"));
    let folder = match env("AZURE_CONFIG_DIR") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => home().map(|home| Path::new(&home).join(".azure")),
    };
    folder.is_some_and(|folder| folder.join("azureProfile.json").is_file())
}

/// What a person does who is refused, in one line.
pub(crate) fn credentials_hint(uri: &str) -> Option<&'static str> {
    match uri.split_once("://")?.0 {
        "s3" => Some(aws::HINT),
        "gs" => Some(
            "for credentials run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file",
        ),
        "az" => Some(
            "for credentials run `az login`, or set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(uri: &str, found: &str) {
        let error = resolve(uri).err().expect("refused");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(found), "{error}");
    }

    #[test]
    fn a_location_that_cannot_be_meant_is_refused_with_the_schemes_that_can() {
        check_refused("", "an empty text");
        check_refused("ftp://host/x", "scheme ftp://");
        check_refused("memory://", "no name");
        check_refused("s3:///key", "no name");
    }

    #[test]
    fn a_path_of_this_machine_is_no_uri_of_another() {
        for (text, path) in [("a/b", "a/b"), ("/a", "/a"), ("file:///a/b", "/a/b")] {
            assert_eq!(local_path(text).unwrap(), Path::new(path));
        }
        for text in [
            "s3://bucket/x",
            "memory://x",
            "http://host",
            "file://host/x",
            "",
        ] {
            assert_eq!(local_path(text).unwrap_err().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn the_same_folder_has_one_uri_however_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let plain = resolve(root.to_str().unwrap()).unwrap();
        let dotted = resolve(&format!("{}/a/../", root.display())).unwrap();
        let url = resolve(&format!("file://{}", root.display())).unwrap();
        assert_eq!(plain.uri, dotted.uri);
        assert_eq!(plain.uri, url.uri);
    }
}
