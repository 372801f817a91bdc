//! Ctrl-C and SIGTERM, as both programs hear them. `lavida-dataset` includes this file, as it does `command_line.rs` (ADR 14).

/// The signals that ask the process to end. From here on none of them ends it by itself.
#[cfg(unix)]
pub struct Signals([tokio::signal::unix::Signal; 2]);

#[cfg(unix)]
impl Signals {
    /// Listens from here on.
    ///
    /// # Errors
    ///
    /// The system's, when it takes no handler.
    pub fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ]))
    }

    /// Resolves at the next one.
    pub async fn next(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// The signal that asks the process to end.
#[cfg(not(unix))]
pub struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// Listens from the first [`Signals::next`] on.
    ///
    /// # Errors
    ///
    /// None.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    /// Resolves at the next one.
    pub async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
