//! AWS credentials from where the AWS CLI and the SDKs find them and `object_store` does not look: profiles.
//!
//! `object_store` reads variables, web identities, containers and instance metadata. A profile of `~/.aws/config` and
//! `~/.aws/credentials` comes after variables and web identities and before the rest, as with the AWS CLI. Its keys are used
//! as they are; `credential_process` is run; what a profile needs a login or another role for (SSO, `role_arn`) is asked of the
//! AWS CLI itself, so that there is no second implementation of it here. What expires is asked for again in time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::StaticCredentialProvider;
use object_store::aws::{AmazonS3Builder, AwsCredential};
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::{Error, Result};

/// Credentials are asked for again when they last no longer than this: a request on its way must not outlive them.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);
/// A helper that asks the network answers in seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Keys of a profile that only the AWS CLI makes credentials of.
const NEEDS_CLI: [&str; 6] = [
    "sso_session",
    "sso_start_url",
    "login_session",
    "role_arn",
    "source_profile",
    "web_identity_token_file",
];

/// How a person gets credentials here, in one line, for messages.
pub(crate) const HINT: &str = "for credentials set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run \
     eval \"$(aws configure export-credentials --format env)\"";

/// Environment, as a function so that tests have their own.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables of this process.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What a chosen profile says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    name: String,
    keys: BTreeMap<String, String>,
}

impl Profile {
    /// The profile of `AWS_PROFILE`, else `default` where there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the named profile is in neither file, or a file cannot be read.
    pub fn chosen(env: Environment<'_>) -> Result<Option<Self>> {
        let home = env("HOME")
            .or_else(|| env("USERPROFILE"))
            .map(PathBuf::from);
        let file = |variable: &str, name: &str| match env(variable) {
            Some(path) => Some(PathBuf::from(path)),
            None => home.as_ref().map(|home| home.join(".aws").join(name)),
        };
        let config = file("AWS_CONFIG_FILE", "config");
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let asked = env("AWS_PROFILE");
        let name = asked.clone().unwrap_or_else(|| "default".to_owned());
        let in_config = match name.as_str() {
            "default" => vec!["default".to_owned(), "profile default".to_owned()],
            name => vec![format!("profile {name}")],
        };
        let mut keys = BTreeMap::new();
        let mut is_found = false;
        // What both files say, the credentials file says last.
        for (file, sections) in [(&config, in_config), (&credentials, vec![name.clone()])] {
            let Some(text) = file.as_deref().map(read).transpose()?.flatten() else {
                continue;
            };
            let mut read = sections_of(&text);
            for section in sections {
                if let Some(section) = read.remove(&section) {
                    is_found = true;
                    keys.extend(section);
                }
            }
        }
        match (is_found, asked) {
            (true, _) => Ok(Some(Self { name, keys })),
            (false, None) => Ok(None),
            (false, Some(asked)) => {
                let place = |file: &Option<PathBuf>| match file {
                    Some(file) => file.display().to_string(),
                    None => "no home folder".to_owned(),
                };
                let expected =
                    format!("a profile of {} or {}", place(&config), place(&credentials));
                Err(Error::invalid("AWS_PROFILE", expected, asked))
            }
        }
    }

    /// Gives a builder what the environment has not: credentials, region, endpoint.
    pub fn complete(&self, mut builder: AmazonS3Builder, env: Environment<'_>) -> AmazonS3Builder {
        let has = |names: &[&str]| names.iter().any(|name| env(name).is_some());
        if let Some(region) = self.keys.get("region")
            && !has(&["AWS_REGION", "AWS_DEFAULT_REGION"])
        {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = self.endpoint(env) {
            builder = builder.with_endpoint(endpoint);
        }
        if has(&[
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_SKIP_SIGNATURE",
        ]) {
            return builder;
        }
        match self.credentials() {
            Some(credentials) => builder.with_credentials(credentials),
            None => builder,
        }
    }

    /// Its endpoint, where the environment has none.
    pub fn endpoint(&self, env: Environment<'_>) -> Option<&String> {
        let is_told = crate::location::S3_ENDPOINTS
            .iter()
            .any(|name| env(name).is_some());
        self.keys.get("endpoint_url").filter(|_| !is_told)
    }

    fn credentials(&self) -> Option<Arc<dyn CredentialProvider<Credential = AwsCredential>>> {
        let key = |name: &str| self.keys.get(name).cloned();
        if NEEDS_CLI.iter().any(|name| self.keys.contains_key(*name)) {
            return Some(Arc::new(HelperCredentials::new(&self.name, Helper::AwsCli)));
        }
        if let (Some(key_id), Some(secret_key)) =
            (key("aws_access_key_id"), key("aws_secret_access_key"))
        {
            let token = key("aws_session_token");
            return Some(Arc::new(StaticCredentialProvider::new(AwsCredential {
                key_id,
                secret_key,
                token,
            })));
        }
        let command = key("credential_process")?;
        Some(Arc::new(HelperCredentials::new(
            &self.name,
            Helper::Process(command),
        )))
    }
}

fn read(file: &Path) -> Result<Option<String>> {
    match lavida_files::read_text(file, lavida_files::SMALL_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::invalid(file.display(), "a readable file", error)),
    }
}

/// The sections of a file as AWS writes it. It is no INI that a crate for those reads: an indented line belongs to the key
/// above it (`s3 =`), and none of those is needed here.
fn sections_of(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = None;
    for line in text.lines() {
        if line.starts_with([' ', '\t', '#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.split(']').next().unwrap_or_default();
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            section = Some(sections.entry(name).or_default());
        } else if let (Some((key, value)), Some(section)) = (line.split_once('='), &mut section) {
            let value = value.split(" #").next().unwrap_or_default();
            let value = value.split(" ;").next().unwrap_or_default().trim();
            if !value.is_empty() {
                section.insert(key.trim().to_ascii_lowercase(), value.to_owned());
            }
        }
    }
    sections
}

/// Who makes credentials when asked.
#[derive(Clone, Debug)]
enum Helper {
    /// `credential_process` of the profile.
    Process(String),
    /// `aws configure export-credentials`.
    AwsCli,
}

/// Credentials that a helper prints, kept until they end.
#[derive(Debug)]
struct HelperCredentials {
    profile: String,
    helper: Helper,
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    credential: Arc<AwsCredential>,
    ends: Option<SystemTime>,
}

/// What a helper prints: version 1 of AWS's format.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

impl HelperCredentials {
    fn new(profile: &str, helper: Helper) -> Self {
        Self {
            profile: profile.to_owned(),
            helper,
            kept: Mutex::new(None),
        }
    }

    fn command(&self) -> Command {
        let mut command = match &self.helper {
            Helper::Process(line) if cfg!(windows) => {
                let mut command = Command::new("cmd");
                command.args(["/C", line]);
                command
            }
            Helper::Process(line) => {
                let mut command = Command::new("sh");
                command.args(["-c", line]);
                command
            }
            Helper::AwsCli => {
                let mut command = Command::new("aws");
                command.args(["configure", "export-credentials", "--profile"]);
                command.args([&self.profile, "--format", "process"]);
                command
            }
        };
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn name(&self) -> &'static str {
        match self.helper {
            Helper::Process(_) => "its credential_process",
            Helper::AwsCli => "`aws configure export-credentials`",
        }
    }

    /// Asks the helper.
    async fn ask(&self) -> std::result::Result<Kept, String> {
        let output = match tokio::time::timeout(PATIENCE, self.command().output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(format!(
                    "it needs the AWS CLI, and `aws` is not on the PATH; install it, or set \
                     AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN ({error})"
                ));
            }
            Ok(Err(error)) => return Err(format!("{}: {error}", self.name())),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                return Err(format!("{} does not end within {seconds} s", self.name()));
            }
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let mut said = said.lines().map(str::trim).filter(|line| !line.is_empty());
            let said = said.next_back().unwrap_or("it says nothing").to_owned();
            let advice = match self.helper {
                Helper::Process(_) => String::new(),
                Helper::AwsCli => format!("; `aws sso login --profile {}` signs in", self.profile),
            };
            return Err(format!(
                "{} ended with {}: {said}{advice}",
                self.name(),
                output.status
            ));
        }
        // What was printed may hold half a secret: it is in no message.
        let printed: Printed = serde_json::from_slice(&output.stdout).map_err(|error| {
            format!(
                "{} printed no credentials in AWS's format (line {})",
                self.name(),
                error.line()
            )
        })?;
        let ends = printed.expiration.as_deref().map(ends).transpose();
        Ok(Kept {
            ends: ends.map_err(|error| format!("{}: Expiration: {error}", self.name()))?,
            credential: Arc::new(AwsCredential {
                key_id: printed.access_key_id,
                secret_key: printed.secret_access_key,
                token: printed.session_token,
            }),
        })
    }
}

fn ends(text: &str) -> std::result::Result<SystemTime, chrono::ParseError> {
    chrono::DateTime::parse_from_rfc3339(text).map(SystemTime::from)
}

#[async_trait]
impl CredentialProvider for HelperCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut kept = self.kept.lock().await;
        #[expect(
            clippy::disallowed_methods,
            reason = "when credentials end is said in the time of day"
        )]
        let soon = SystemTime::now() + RENEWED_BEFORE;
        if let Some(kept) = &*kept
            && kept.ends.is_none_or(|ends| ends > soon)
        {
            return Ok(kept.credential.clone());
        }
        let asked = self
            .ask()
            .await
            .map_err(|reason| object_store::Error::Generic {
                store: "S3",
                source: format!("no credentials of AWS profile {}: {reason}", self.profile).into(),
            })?;
        Ok(kept.insert(asked).credential.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(config: &str, credentials: &str) -> Self {
            let home = tempfile::tempdir().unwrap();
            std::fs::create_dir(home.path().join(".aws")).unwrap();
            std::fs::write(home.path().join(".aws/config"), config).unwrap();
            std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
            Self(home)
        }

        fn env(&self, profile: Option<&str>) -> impl Fn(&str) -> Option<String> + use<> {
            let home = self.0.path().display().to_string();
            let profile = profile.map(str::to_owned);
            move |name: &str| match name {
                "HOME" => Some(home.clone()),
                "AWS_PROFILE" => profile.clone(),
                _ => None,
            }
        }
    }

    const CONFIG: &str = "\
# a comment
[default]
region = eu-central-1
s3 =
  endpoint_url = http://not-this-one
  region = nor-this

[profile dev]
region=eu-west-1 # here
endpoint_url = http://localhost:9000
output = json
[sso-session corp]
sso_start_url = https://corp
";
    const CREDENTIALS: &str = "\
[dev]
aws_access_key_id = AKDEV
aws_secret_access_key = abc/d+e=
";

    fn check(profile: Option<&str>, expected: &[(&str, &str)]) {
        let home = Home::new(CONFIG, CREDENTIALS);
        let chosen = Profile::chosen(&home.env(profile)).unwrap().unwrap();
        let keys = chosen.keys.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        assert_eq!(keys.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_profile_is_what_both_files_say_of_it_and_nested_keys_are_others() {
        check(None, &[("region", "eu-central-1")]);
        check(
            Some("dev"),
            &[
                ("aws_access_key_id", "AKDEV"),
                ("aws_secret_access_key", "abc/d+e="),
                ("endpoint_url", "http://localhost:9000"),
                ("output", "json"),
                ("region", "eu-west-1"),
            ],
        );
    }

    #[test]
    fn a_profile_that_is_asked_for_and_nowhere_is_refused_and_no_profile_is_none() {
        let home = Home::new(CONFIG, CREDENTIALS);
        let error = Profile::chosen(&home.env(Some("prod"))).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.contains("AWS_PROFILE") && text.contains("prod") && text.contains(".aws/config"),
            "{text}"
        );
        let empty = Home::new("", "");
        assert_eq!(Profile::chosen(&empty.env(None)).unwrap(), None);
    }

    #[cfg(unix)]
    fn helper(line: &str) -> HelperCredentials {
        HelperCredentials::new("dev", Helper::Process(line.to_owned()))
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_a_helper_prints_is_used_until_shortly_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let asked = folder.path().join("asked");
        for (expiration, n_asked) in [
            ("2999-01-01T00:00:00Z", 1),
            ("2001-01-01T00:00:00+00:00", 3),
        ] {
            std::fs::write(&asked, "").unwrap();
            let helper = helper(&format!(
                "echo once >> '{}'; echo '{{\"Version\": 1, \"AccessKeyId\": \"K\", \"SecretAccessKey\": \"S\", \
                 \"SessionToken\": \"T\", \"Expiration\": \"{expiration}\"}}'",
                asked.display()
            ));
            for _ in 0..3 {
                let credential = helper.get_credential().await.unwrap();
                assert_eq!((&*credential.key_id, &*credential.secret_key), ("K", "S"));
                assert_eq!(credential.token.as_deref(), Some("T"));
            }
            let lines = std::fs::read_to_string(&asked).unwrap();
            assert_eq!(lines.lines().count(), n_asked, "{expiration}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_helper_that_fails_is_quoted_and_what_it_printed_is_not() {
        let failed = helper("echo 'the token has expired' >&2; exit 3");
        let error = failed.get_credential().await.unwrap_err().to_string();
        assert!(
            error.contains("profile dev") && error.contains("the token has expired"),
            "{error}"
        );
        let garbled = helper("echo '{\"SecretAccessKey\": \"hush\"'");
        let error = garbled.get_credential().await.unwrap_err().to_string();
        assert!(
            error.contains("no credentials in AWS's format") && !error.contains("hush"),
            "{error}"
        );
    }
}
