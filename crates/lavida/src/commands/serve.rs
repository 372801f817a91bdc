//! `lavida serve`: a trained model as a service, until it is told to stop.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use lavida_data::{Error, Result};
use lavida_serve::{
    Models,
    settings::{Access, Batching, Limits, ServeSettings, TlsFiles},
};
use lavida_terminal::screen;

use crate::{scoring::open_model, stop};

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A run (its newest checkpoint), one checkpoint, or an export; NAME= before it names the model [name: lavida]. May be
    /// repeated, each with its name; the first answers where a request names none
    #[arg(long, value_name = "[NAME=]URI", required = true)]
    pub checkpoint: Vec<String>,
    /// Where to listen. Others than this machine are answered with --tls-cert, --tls-key and --token-file only
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Certificate chain of this server, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// File with the token that `Authorization: Bearer` must carry
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Windows of one forward pass. With 1 scores have the bits of `lavida predict`, whatever else is being scored; with
    /// more, small models answer more requests a second, and the last bits depend on the company
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub batch: usize,
    /// How long a window waits for others, where --batch is more than 1
    #[arg(long, value_name = "MS", default_value_t = 5)]
    pub batch_wait: u64,
    /// Requests that are scored at once; more get 503 and when to come again
    #[arg(long, value_name = "N", default_value_t = Limits::default().n_requests)]
    pub max_requests: usize,
    /// Open connections
    #[arg(long, value_name = "N", default_value_t = Limits::default().n_connections)]
    pub max_connections: usize,
    /// Largest video, MB; it lies on disk while it is scored
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    pub max_upload: u64,
    /// Largest request of /v2, MB; it lies in memory
    #[arg(long, value_name = "MB", default_value_t = 64)]
    pub max_tensors: usize,
    /// Frames of a video
    #[arg(long, value_name = "N", default_value_t = Limits::default().n_frames)]
    pub max_frames: usize,
    /// Categories of a request
    #[arg(long, value_name = "N", default_value_t = Limits::default().n_categories)]
    pub max_categories: usize,
    /// How long a request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub max_time: u64,
    /// How long an upload may pause
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub max_idle: u64,
    /// How long requests under way may take once the service is told to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain: u64,
    /// Override a setting of the models, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let settings = settings(&args)?;
    settings.check()?;
    let stopped = stop::interrupted_in("serve", "requests under way are answered first");
    let mut models = Models::default();
    for named in &args.checkpoint {
        let (name, uri) = name_of(named);
        let model = open_model(uri, &args.set).await?;
        let step = model.step;
        Box::pin(models.add(name, model, settings.batching)).await?;
        screen::line(&format!("serve: model {name} of {uri}, step {step}"));
    }
    let service = lavida_serve::serve(&settings, models).await?;
    let scheme = match settings.access.tls {
        Some(_) => "https",
        None => "http",
    };
    screen::line(&format!(
        "serve: at {scheme}://{}/ (POST /v1/score, /v2, /metrics, /openapi.json); Ctrl-C stops it",
        service.address
    ));
    stopped.await;
    if !service.stop().await {
        return Err(Error::Stopped {
            until: format!("with requests unanswered after {} s", args.drain),
            next: "--drain says how long they may take".to_owned(),
        }
        .into());
    }
    screen::line("serve: every request was answered");
    Ok(())
}

fn settings(args: &ServeArgs) -> Result<ServeSettings> {
    const MB: u64 = 1 << 20;
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    let token = args.token_file.as_ref().map(|path| {
        let text = lavida_files::read_text(path, lavida_files::SMALL_BYTES);
        let text =
            text.map_err(|error| Error::invalid(path.display(), "a file with a token", error))?;
        Ok::<_, Error>(text.trim_end_matches(['\r', '\n']).to_owned())
    });
    Ok(ServeSettings {
        listen: args.listen,
        access: Access {
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
            token: token.transpose()?,
        },
        batching: Batching {
            n_windows: args.batch,
            deadline: Duration::from_millis(args.batch_wait),
        },
        limits: Limits {
            n_requests: args.max_requests,
            n_connections: args.max_connections,
            upload_bytes: args.max_upload.saturating_mul(MB),
            tensor_bytes: args.max_tensors.saturating_mul(MB as usize),
            n_frames: args.max_frames,
            n_categories: args.max_categories,
            time: Duration::from_secs(args.max_time),
            idle: Duration::from_secs(args.max_idle),
            ..Limits::default()
        },
        drain: Duration::from_secs(args.drain),
    })
}

/// `NAME=URI`, or a URI whose model has the usual name. What stands before `=` is a name when it could be no path or URI.
fn name_of(named: &str) -> (&str, &str) {
    match named.split_once('=') {
        Some((name, uri)) if !name.contains(['/', ':', '\\']) => (name, uri),
        _ => ("lavida", named),
    }
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn a_name_is_what_could_be_no_path() {
        assert_eq!(name_of("runs/first"), ("lavida", "runs/first"));
        assert_eq!(name_of("street=runs/first"), ("street", "runs/first"));
        assert_eq!(name_of("a=s3://b/c=d"), ("a", "s3://b/c=d"));
        assert_eq!(name_of("s3://bucket/lr=1"), ("lavida", "s3://bucket/lr=1"));
        assert_eq!(name_of("runs/lr=1"), ("lavida", "runs/lr=1"));
    }
}
