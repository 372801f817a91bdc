//! What a service may take on.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use lavida_data::{Error, Result};

/// Everything that a service is told.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// Where it listens; port 0 is any that is free.
    pub listen: SocketAddr,
    /// Who may ask, and how they are sure of whom they ask.
    pub access: Access,
    /// How windows share forward passes.
    pub batching: Batching,
    /// What a request may bring and how many there may be.
    pub limits: Limits,
    /// Requests that were accepted have so long to end once the service is told to.
    pub drain: Duration,
}

/// Encryption and who may ask.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Certificate chain and key, PEM.
    pub tls: Option<TlsFiles>,
    /// What `Authorization: Bearer …` must say.
    pub token: Option<String>,
}

/// Where a certificate and its key are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How windows share forward passes.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    /// Windows of one pass. With 1 a window scores what it scores alone, bit for bit; with more the last bits depend on those
    /// beside it.
    pub n_windows: usize,
    /// How long a window may wait for others before a pass with fewer begins.
    pub deadline: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            n_windows: 1,
            deadline: Duration::ZERO,
        }
    }
}

/// What a request may bring, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that are scored at once; more are sent away with 503 and `Retry-After`.
    pub n_requests: usize,
    /// Open connections; more wait to be accepted.
    pub n_connections: usize,
    /// Bytes of an uploaded video.
    pub upload_bytes: u64,
    /// Bytes of a `/v2` request, which is held in memory.
    pub tensor_bytes: usize,
    /// Frames of a video.
    pub n_frames: usize,
    /// Pixels of a frame.
    pub frame_pixels: u64,
    /// Categories of a request.
    pub n_categories: usize,
    /// From the request's head to the end of its answer.
    pub time: Duration,
    /// An upload of which nothing came for so long is given up.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            n_requests: 16,
            n_connections: 1024,
            upload_bytes: 1 << 30,
            tensor_bytes: 64 << 20,
            n_frames: 200_000,
            frame_pixels: 4096 * 2304,
            n_categories: 64,
            time: Duration::from_secs(600),
            idle: Duration::from_secs(30),
        }
    }
}

impl ServeSettings {
    /// # Errors
    ///
    /// [`Error::Invalid`] for an address that others reach without encryption or without a token, and for limits of 0.
    pub fn check(&self) -> Result<()> {
        let is_open = self.access.tls.is_none() || self.access.token.is_none();
        if is_open && !self.listen.ip().is_loopback() {
            return Err(Error::invalid(
                "--listen",
                "127.0.0.1 or [::1], or a certificate (--tls-cert, --tls-key) and a token (--token-file), since others reach \
                 this address",
                self.listen,
            ));
        }
        if let Some(token) = &self.access.token
            && (token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(Error::invalid(
                "--token-file",
                "a token of ASCII letters, digits and punctuation, without blanks",
                match token.len() {
                    0 => "an empty file".to_owned(),
                    n => format!("{n} bytes with others among them"),
                },
            ));
        }
        let limits = &self.limits;
        for (key, is_zero) in [
            ("--max-requests", limits.n_requests == 0),
            ("--max-connections", limits.n_connections == 0),
            ("--max-upload", limits.upload_bytes == 0),
            ("--max-tensors", limits.tensor_bytes == 0),
            ("--max-frames", limits.n_frames == 0),
            ("--max-categories", limits.n_categories == 0),
            ("--batch", self.batching.n_windows == 0),
            ("--max-time", limits.time.is_zero()),
            ("--max-idle", limits.idle.is_zero()),
        ] {
            if is_zero {
                return Err(Error::invalid(key, "more than 0", "0"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(listen: &str, tls: bool, token: Option<&str>) -> ServeSettings {
        let files = || TlsFiles {
            certificate: "a.pem".into(),
            key: "b.pem".into(),
        };
        ServeSettings {
            listen: listen.parse().unwrap(),
            access: Access {
                tls: tls.then(files),
                token: token.map(str::to_owned),
            },
            batching: Batching::default(),
            limits: Limits::default(),
            drain: Duration::from_secs(1),
        }
    }

    #[test]
    fn who_is_reached_by_others_needs_a_certificate_and_a_token() {
        assert!(settings("127.0.0.1:0", false, None).check().is_ok());
        assert!(settings("[::1]:80", false, None).check().is_ok());
        assert!(settings("0.0.0.0:80", true, Some("secret")).check().is_ok());
        for (tls, token) in [(false, None), (true, None), (false, Some("secret"))] {
            let error = settings("0.0.0.0:80", tls, token).check().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("--token-file"), "{error}");
        }
        for token in ["", "two words", "line\n"] {
            let error = settings("127.0.0.1:0", false, Some(token)).check();
            assert!(error.unwrap_err().to_string().contains("--token-file"));
        }
    }

    #[test]
    fn a_limit_of_nothing_is_refused_by_its_name() {
        let mut zero = settings("127.0.0.1:0", false, None);
        zero.limits.n_requests = 0;
        let error = zero.check().unwrap_err().to_string();
        assert!(error.contains("--max-requests"), "{error}");
    }
}
