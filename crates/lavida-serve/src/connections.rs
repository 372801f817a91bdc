//! Connections: accepted, encrypted where that is asked for, and ended in order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use lavida_data::{Error, Result};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    api::{App, router},
    models::Models,
    settings::ServeSettings,
    tls,
};

/// A connection that has not asked, or shaken hands, by then is ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an error of the listener itself (no file descriptor is left) it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// A service that answers, for as long as this lives.
pub struct Service {
    /// Where, with the port that was chosen where none was said.
    pub address: SocketAddr,
    app: Arc<App>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<GracefulShutdown>,
    drain: Duration,
}

/// Begins to serve.
///
/// # Errors
///
/// [`Error::Invalid`] for settings that cannot be followed ([`ServeSettings::check`]), certificates that cannot be used, and an
/// address that cannot be listened at.
pub async fn serve(settings: &ServeSettings, models: Models) -> Result<Service> {
    settings.check()?;
    let tls = settings
        .access
        .tls
        .as_ref()
        .map(tls::acceptor)
        .transpose()?;
    let unusable =
        |error| Error::invalid(settings.listen, "an address to listen at (--listen)", error);
    let listener = TcpListener::bind(settings.listen).await.map_err(unusable)?;
    let address = listener.local_addr().map_err(unusable)?;
    let app = Arc::new(App::new(settings, models));
    let accepting = Accepting {
        room: Arc::new(Semaphore::new(settings.limits.n_connections)),
        tls,
        router: router(app.clone()),
    };
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(accepting.run(listener, stopped));
    Ok(Service {
        address,
        app,
        stop: Some(stop),
        task,
        drain: settings.drain,
    })
}

impl Service {
    /// Accepts nobody any more, waits for those who are being answered, and says whether all were.
    pub async fn stop(mut self) -> bool {
        self.app.admission.drain();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(()); // the task has ended
        }
        let drained = async {
            match (&mut self.task).await {
                Ok(connections) => connections.shutdown().await,
                Err(error) => tracing::warn!("connections: {error}"),
            }
        };
        tokio::time::timeout(self.drain, drained).await.is_ok()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Accepting {
    room: Arc<Semaphore>,
    tls: Option<TlsAcceptor>,
    router: Router,
}

impl Accepting {
    async fn run(self, listener: TcpListener, stopped: oneshot::Receiver<()>) -> GracefulShutdown {
        let connections = GracefulShutdown::new();
        let accepting = async {
            loop {
                let Ok(place) = self.room.clone().acquire_owned().await else {
                    return; // nobody closes it
                };
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(_) => {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                };
                let _ = stream.set_nodelay(true); // lines of a stream are small; without it they are only later
                let (router, watcher) = (self.router.clone(), connections.watcher());
                let tls = self.tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, router, watcher).await,
                        Some(tls) => {
                            let shaken = tokio::time::timeout(PATIENCE, tls.accept(stream)).await;
                            if let Ok(Ok(stream)) = shaken {
                                answer(stream, router, watcher).await;
                            }
                        }
                    }
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = accepting => {}
            _ = stopped => {}
        }
        connections
    }
}

async fn answer<S>(stream: S, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Who goes away is their own affair.
    let _ = watcher.watch(connection).await;
}
