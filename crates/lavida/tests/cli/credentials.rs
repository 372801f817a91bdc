//! Credentials for `s3://` from where the AWS CLI finds them, with files and an `aws` of the test's own and a bucket on
//! loopback.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use crate::{
    bucket::Bucket,
    support::{Ran, World, finish},
};

/// A world whose evaluation set is in a bucket, and a home folder.
struct Cloud {
    world: World,
    bucket: Bucket,
}

impl Cloud {
    fn new() -> Self {
        let world = World::new();
        let bucket = Bucket::serve(&world.join("bucket"));
        std::fs::rename(world.join("shards/ucsd-ped"), bucket.folder("ped")).unwrap();
        std::fs::create_dir_all(world.join("home/.aws")).unwrap();
        std::fs::create_dir_all(world.join("bin")).unwrap();
        Self { world, bucket }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.world.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A program of this name at the front of the PATH.
    fn program(&self, name: &str, script: &str) {
        let path = self.write(&format!("bin/{name}"), &format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `lavida inspect` of the set in the bucket, with nothing of AWS in its environment but `more`.
    fn inspect(&self, more: &[(&str, &str)]) -> Ran {
        let mut command: Command =
            self.world
                .lavida(&["inspect", "--data", &self.bucket.uri("ped"), "--json"]);
        let path = std::env::var("PATH").unwrap_or_default();
        for (name, _) in std::env::vars() {
            if name.starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.world.join("home"))
            .env(
                "PATH",
                format!("{}:{path}", self.world.join("bin").display()),
            )
            .env("NO_PROXY", "127.0.0.1")
            .envs(more.iter().copied());
        finish(command)
    }

    /// A line of a profile that leads here.
    fn endpoint(&self) -> String {
        let env = self.bucket.env();
        let (_, endpoint) = env
            .iter()
            .find(|(name, _)| *name == "AWS_ENDPOINT")
            .unwrap();
        format!("endpoint_url = {endpoint}\n")
    }
}

#[test]
fn a_profile_gives_keys_region_and_endpoint_and_variables_come_before_it() {
    let cloud = Cloud::new();
    cloud.write(
        "home/.aws/config",
        &format!("[profile dev]\nregion = eu-west-1\n{}", cloud.endpoint()),
    );
    cloud.write(
        "home/.aws/credentials",
        "[dev]\naws_access_key_id = AKDEV\naws_secret_access_key = secret\n",
    );
    let found = cloud.inspect(&[("AWS_PROFILE", "dev")]).json();
    assert_eq!(found["samples"], 2, "{found}");
    assert_eq!(cloud.bucket.signers(), ["AKDEV"]);
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKENV"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    cloud
        .inspect(&[&keys[..], &[("AWS_PROFILE", "dev")]].concat())
        .succeeded();
    assert_eq!(cloud.bucket.signers(), ["AKDEV", "AKENV"]);
    cloud
        .inspect(&[("AWS_PROFILE", "prod")])
        .refused(2, &["AWS_PROFILE", "home/.aws/config", "prod"]);
}

const PRINTED: &str = r#"{"Version": 1, "AccessKeyId": "AKTEMP", "SecretAccessKey": "secret", "SessionToken": "token",
    "Expiration": "2999-01-01T00:00:00Z"}"#;

#[test]
fn a_credential_process_is_asked_once_and_its_token_is_sent() {
    let cloud = Cloud::new();
    cloud.program(
        "my-keys",
        &format!("echo asked >> asked\ncat <<'END'\n{PRINTED}\nEND"),
    );
    let profile = format!(
        "[default]\ncredential_process = my-keys --for lavida\n{}",
        cloud.endpoint()
    );
    cloud.write("home/.aws/config", &profile);
    cloud.inspect(&[]).succeeded();
    assert_eq!(cloud.bucket.signers(), ["AKTEMP token"]);
    let asked = std::fs::read_to_string(cloud.world.join("asked")).unwrap();
    assert_eq!(asked, "asked\n");
}

#[test]
fn a_profile_of_sso_is_asked_of_the_aws_cli_and_who_has_to_sign_in_is_told_how() {
    let cloud = Cloud::new();
    let profile = format!(
        "[profile work]\nsso_session = corp\nsso_account_id = 1\n{}",
        cloud.endpoint()
    );
    cloud.write("home/.aws/config", &profile);
    cloud.program(
        "aws",
        &format!("echo \"$@\" > asked\ncat <<'END'\n{PRINTED}\nEND"),
    );
    cloud.inspect(&[("AWS_PROFILE", "work")]).succeeded();
    assert_eq!(cloud.bucket.signers(), ["AKTEMP token"]);
    let asked = std::fs::read_to_string(cloud.world.join("asked")).unwrap();
    assert_eq!(
        asked,
        "configure export-credentials --profile work --format process\n"
    );

    cloud.program(
        "aws",
        "echo 'Error loading SSO Token: Token for corp does not exist' >&2; exit 255",
    );
    let words = [
        "profile work",
        "Token for corp does not exist",
        "aws sso login --profile work",
    ];
    cloud.inspect(&[("AWS_PROFILE", "work")]).refused(4, &words);
}
