//! The control plane over real sockets, with workers in processes of their own.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod worker;

use std::{net::SocketAddr, path::Path, time::Duration};

use lavida_cluster::shell::{
    Authority, Certificates, CoordinatorHandle, Security, coordinate, random_id, record::Record,
};
use lavida_control::{CoordinatorId, CoordinatorSettings, Engine, Generation, Outcome};
use lavida_store::Store;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use worker::{RUN, Worker};

const COOKIE: &str = "what only this run knows";

#[tokio::test]
async fn a_worker_in_its_own_process() {
    worker::work_if_told().await;
}

/// Whether this process is this test's own; if not, the test runs in one that is. ractor numbers remote actors by
/// session for the whole process, so coordinators that share one (`cargo test` runs tests side by side) lose each other's.
fn is_alone(test: &str) -> bool {
    if std::env::var_os("LAVIDA_TEST_ALONE").is_some() {
        return true;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LAVIDA_TEST_ALONE", "1")
        .status();
    assert!(status.unwrap().success(), "{test} failed in its process");
    false
}

fn settings(min_ranks: usize, max_ranks: usize, steps: u64) -> CoordinatorSettings {
    CoordinatorSettings {
        id: CoordinatorId(random_id()),
        run: RUN,
        job: Vec::new(),
        build: "of this test".to_owned(),
        node: "here".to_owned(),
        engine: Engine::Local,
        min_ranks,
        max_ranks,
        rank_divisor: 4,
        patience: Duration::from_secs(20),
        patience_after_loss: Duration::from_millis(500),
        max_node_failures: 0,
        steps,
        checkpoint_every: 10,
        ahead: 8,
        stall: Duration::from_secs(60),
        max_restarts: 3,
    }
}

fn since_epoch() -> Duration {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap()
}

fn authority() -> Authority {
    Authority::new(since_epoch(), 30).unwrap()
}

/// Certificates for this machine in `folder`.
fn certify(authority: &Authority, folder: &Path) {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    authority.certify(&names).unwrap().write(folder).unwrap();
}

fn security(folder: Option<&Path>) -> Security {
    Security {
        cookie: COOKIE.to_owned(),
        certificates: folder.map(|folder| Certificates::read(folder).unwrap()),
    }
}

async fn start(
    settings: CoordinatorSettings,
    security: &Security,
    run: &Store,
) -> CoordinatorHandle {
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    coordinate(settings, at, security, run.clone())
        .await
        .unwrap()
}

/// Waits until the status is as asked, and says how long that took.
async fn until(
    coordinator: &mut CoordinatorHandle,
    what: &str,
    is: impl FnMut(&lavida_cluster::shell::RunStatus) -> bool,
) -> Duration {
    let began = Instant::now();
    let waited = timeout(Duration::from_secs(40), coordinator.status.wait_for(is)).await;
    waited
        .unwrap_or_else(|_| panic!("{what} did not come"))
        .unwrap();
    began.elapsed()
}

async fn committed_steps(run: &Store) -> Vec<u64> {
    let objects = run.list("checkpoints").await.unwrap();
    let mut steps: Vec<u64> = objects
        .iter()
        .filter_map(|object| object.key.split('/').rev().nth(1)?.parse().ok())
        .collect();
    steps.sort_unstable();
    steps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_finish_a_run_over_mutual_tls() {
    if !is_alone("two_processes_finish_a_run_over_mutual_tls") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certify(&authority(), folder.path());
    let run = Store::open("memory://wire-two").unwrap();
    let coordinator = start(settings(2, 2, 35), &security(Some(folder.path())), &run).await;
    let address = coordinator.address.to_string();
    let _workers =
        ["a", "b"].map(|name| Worker::start(&address, name, COOKIE, Some(folder.path())));
    let outcome = timeout(Duration::from_secs(60), coordinator.outcome())
        .await
        .unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Completed);
    assert_eq!(committed_steps(&run).await, [10, 20, 30, 35]);
    let (entries, published) = Record::new(run).read().await.unwrap();
    // Taken over, opened, four checkpoints.
    assert_eq!((entries.len(), published), (6, Some(35)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_is_noticed_at_once_and_a_hung_one_within_its_lease() {
    if !is_alone("a_killed_worker_is_noticed_at_once_and_a_hung_one_within_its_lease") {
        return;
    }
    let run = Store::open("memory://wire-killed").unwrap();
    let mut coordinator = start(settings(1, 4, 500), &security(None), &run).await;
    let address = coordinator.address.to_string();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| Worker::start(&address, name, COOKIE, None));
    until(&mut coordinator, "work", |s| {
        s.n_ranks == 4 && s.committed >= 10
    })
    .await;

    a.signal("-KILL");
    let noticed = until(&mut coordinator, "notice of a death", |s| s.n_ranks == 0).await;
    println!("a killed process was noticed after {noticed:?}");
    // The aim is 100 ms; a loaded machine may be late with anything.
    assert!(noticed < Duration::from_secs(1), "{noticed:?}");
    // Three are left, and two of them share the batch evenly.
    until(&mut coordinator, "a smaller world", |s| {
        s.n_ranks == 2 && s.committed >= 30
    })
    .await;

    // Both ranks at work hang, whichever they are; the third goes on alone.
    let generation = coordinator.status.borrow().generation;
    let stopped = Instant::now();
    for hung in [&b, &c] {
        hung.signal("-STOP");
    }
    until(&mut coordinator, "notice of silence", |s| s.n_ranks == 0).await;
    let noticed = stopped.elapsed();
    println!("a hung process was noticed after {noticed:?}");
    assert!(noticed < Duration::from_secs(6), "{noticed:?}");
    let next = |s: &lavida_cluster::shell::RunStatus| s.generation > generation && s.n_ranks == 1;
    until(&mut coordinator, "a world without the hung", next).await;
    let went_on = stopped.elapsed();
    println!("a hung process was replaced after {went_on:?}");
    assert!(went_on < Duration::from_secs(10), "{went_on:?}");

    // They wake up as members of a generation that is over, and take part in a later one.
    for hung in [&b, &c] {
        hung.signal("-CONT");
    }
    until(&mut coordinator, "those who slept", |s| s.n_ranks == 2).await;
    coordinator.stopper().stop().await;
    let outcome = timeout(Duration::from_secs(30), coordinator.outcome())
        .await
        .unwrap();
    assert!(
        matches!(outcome, Ok(Outcome::Stopped { .. })),
        "{outcome:?}"
    );
    drop(d);
}

#[tokio::test]
async fn off_loopback_there_is_nothing_without_certificates() {
    let run = Store::open("memory://wire-loopback").unwrap();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = coordinate(settings(1, 1, 1), everywhere, &security(None), run).await;
    let error = refused.err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("certificates"), "{error}");
}

/// A TLS client that shows the certificate in `folder`, or none.
async fn tls(
    address: SocketAddr,
    trusts: &Path,
    shows: Option<&Path>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let text = |folder: &Path, name: &str| std::fs::read(folder.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(&text(trusts, "ca.pem")).unwrap();
    roots.add(ca).unwrap();
    let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shows {
        None => builder.with_no_client_auth(),
        Some(folder) => {
            let chain = CertificateDer::from_pem_slice(&text(folder, "node.pem")).unwrap();
            let key = PrivateKeyDer::from_pem_slice(&text(folder, "node-key.pem")).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(std::sync::Arc::new(config))
        .connect(name, stream)
        .await
}

/// Says it and waits until the other side hangs up.
async fn say_until_refused(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, words: &[u8]) {
    // Either may fail: the other side may have hung up already.
    let _ = stream.write_all(words).await;
    let mut answer = Vec::new();
    let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the peer was kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_come_in_is_refused_logged_once_and_disturbs_nobody() {
    if !is_alone("whoever_may_not_come_in_is_refused_logged_once_and_disturbs_nobody") {
        return;
    }
    let (ours, foreign, expired) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let authority_of_run = authority();
    certify(&authority_of_run, ours.path());
    certify(&authority(), foreign.path());
    let long_ago = since_epoch() - Duration::from_secs(40 * 86_400);
    certify(
        &authority_of_run.with_dates(long_ago, 30).unwrap(),
        expired.path(),
    );

    let run = Store::open("memory://wire-refused").unwrap();
    let mut coordinator = start(settings(1, 1, 10_000), &security(Some(ours.path())), &run).await;
    let address = coordinator.address;
    let _honest = Worker::start(&address.to_string(), "honest", COOKIE, Some(ours.path()));
    until(&mut coordinator, "work", |s| s.n_ranks == 1 && s.step > 2).await;

    let greeting = |version: u16| [b"LVDC".as_slice(), &version.to_be_bytes()].concat();
    for _ in 0..2 {
        let plain = TcpStream::connect(address).await.unwrap();
        say_until_refused(plain, b"GET / HTTP/1.1\r\n\r\n").await;
        for shows in [None, Some(foreign.path()), Some(expired.path())] {
            // With TLS 1.3 a client learns only from its first read that it was turned away.
            if let Ok(stream) = tls(address, ours.path(), shows).await {
                say_until_refused(stream, &greeting(1)).await;
            }
        }
        let certified = || tls(address, ours.path(), Some(ours.path()));
        say_until_refused(certified().await.unwrap(), b"garbage").await;
        say_until_refused(certified().await.unwrap(), &greeting(9)).await;
        let oversized = [greeting(1), (1u64 << 40).to_be_bytes().to_vec()].concat();
        say_until_refused(certified().await.unwrap(), &oversized).await;
        let nonsense = [greeting(1), 40u64.to_be_bytes().to_vec(), vec![0xff; 40]].concat();
        say_until_refused(certified().await.unwrap(), &nonsense).await;
    }
    // One that greets and then says nothing is not kept either.
    let silent = tls(address, ours.path(), Some(ours.path())).await.unwrap();
    say_until_refused(silent, &greeting(1)).await;
    let mut liar = Worker::start(
        &address.to_string(),
        "liar",
        "another cookie",
        Some(ours.path()),
    );
    let step = coordinator.status.borrow().step;
    until(&mut coordinator, "fifty more steps", |s| s.step > step + 50).await;
    assert!(!liar.ended());

    let logged = coordinator.refusals.logged();
    println!("{logged:#?}");
    let count = |words: &str| logged.iter().filter(|(_, why)| why.contains(words)).count();
    // Once each, though each came twice.
    for words in [
        "does not speak TLS",
        "showed no certificate",
        "of another authority",
        "has expired",
        "does not speak this protocol",
        "expected protocol version 3, found 9",
        "cookie",
    ] {
        assert_eq!(count(words), 1, "{words}");
    }
    assert!(coordinator.refusals.total() > 2 * 8);
    // Nobody else noticed: still the first world.
    let status = coordinator.status.borrow().clone();
    assert_eq!(
        (status.generation, status.n_ranks, status.n_members),
        (Generation(2), 1, 1)
    );
}
