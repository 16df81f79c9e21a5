//! `sluicegate-controller run`: how a controller starts, and how it ends.

use std::fmt::Display;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sluicegate_process::{EXIT_BIND, EXIT_USAGE, SettingsError, log};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::compile::{Compiler, Outlets, Relist};
use crate::events::{self, Ledger};
use crate::leader::Candidate;
use crate::metrics::Metrics;
use crate::owners::{self, Recorder};
use crate::publish::{self, Publication};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::status::{self, Addresses, Board, Desk, Source};
use crate::trust::Trust;
use crate::watch::{Needs, News, Watcher, follow_needs};
use crate::{admin, clock, connect};

/// Libraries that say too much.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,kube_client=error";

/// A start that failed: message and exit code.
struct StartError(String, u8);

impl StartError {
    fn new(what: &str, error: impl Display) -> Self {
        StartError(format!("{what}: {error}"), 1)
    }
}

impl From<SettingsError> for StartError {
    fn from(error: SettingsError) -> Self {
        StartError(error.to_string(), EXIT_USAGE)
    }
}

/// Runs a controller until it is told to end.
pub fn run(settings: &Settings) -> ExitCode {
    if let Err(error) = log::init(&settings.log, QUIET) {
        eprintln!("sluicegate-controller: {error}");
        return ExitCode::from(EXIT_USAGE);
    }
    // One thread for the network, one for compiling: neither has more to do than a fraction of a core.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sluicegate-controller: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError(message, code)) => {
            eprintln!("sluicegate-controller: {message}");
            ExitCode::from(code)
        }
    }
}

async fn serve(settings: &Settings) -> Result<(), StartError> {
    let mut compile = settings.compile()?;
    let addresses = settings.addresses()?;
    let lease = settings.lease()?;
    let feeds = settings.feeds(&compile);
    let host_records = compile.host_records.clone();
    let publish_listener = bind("publish", settings.publish).await?;
    let admin_listener = bind("admin", settings.admin).await?;
    let metrics_listener = match settings.metrics {
        Some(address) => Some(bind("metrics", address).await?),
        None => None,
    };
    let connect::Server { client, addresses: api_server } =
        connect::server(settings.kubeconfig.as_deref()).await.map_err(|message| StartError(message, EXIT_USAGE))?;
    compile.reach.api_server = api_server;

    let trust = Trust::start(settings, &client).map_err(|message| StartError(message, EXIT_USAGE))?;
    if trust.is_plain() && !settings.publish.ip().is_loopback() {
        tracing::warn!(
            address = %settings.publish,
            "gateways are served without encryption and authentication (plaintext): who reaches this address reads the private keys of all certificates. Keep it in a network of its own"
        );
    }

    let metrics = Arc::new(Metrics::new().map_err(|error| StartError::new("metrics", error))?);
    let publication = Arc::new(Publication::default());
    let (leading, leads) = watch::channel(false);
    let shared = Arc::new(Shared::new(metrics.clone(), publication.clone(), trust.clone(), leads.clone(), &feeds));
    let (news, received) = channel();
    let (needs, needed) = watch::channel(Needs::default());
    let (generations, relists) = watch::channel(0);
    let (jobs, asked) = mpsc::unbounded_channel();
    let (notices, noticed) = mpsc::unbounded_channel();
    let (owner_notices, owners_noticed) = mpsc::unbounded_channel();
    let fixed = match &addresses {
        Source::Fixed(addresses) => Some(addresses.clone()),
        Source::None | Source::Service(_) | Source::Gateways => None,
    };
    let desk = Desk::new(fixed, jobs);
    let outlets = Outlets {
        publication: publication.clone(),
        shared: shared.clone(),
        needs,
        desk,
        ledger: Ledger::new(notices, shared.published.clone(), lease.clone()),
        owners: host_records.is_some().then_some(owner_notices),
        relist: Relist::new(generations),
    };
    let compiler = Compiler::new(compile, feeds.clone(), outlets);
    let spawned = thread::Builder::new().name("compile".to_owned()).spawn(move || compiler.run(&received));
    let compiler = spawned.map_err(|error| StartError::new("compile thread", error))?;

    let watcher = Watcher {
        client: client.clone(),
        news: news.clone(),
        metrics: metrics.clone(),
        trouble: shared.trouble.clone(),
        relists: relists.clone(),
        field_manager: settings.field_manager().into(),
    };
    for feed in feeds {
        tokio::spawn(watcher.clone().follow(feed));
    }
    tokio::spawn(follow_needs(watcher.clone(), needed));
    // Names of pods are unique; processes on one machine are told apart by a number.
    let number = rand::random();
    let board = match addresses {
        Source::Service(service) => {
            tokio::spawn(status::follow_addresses(watcher, service, shared.clone()));
            None
        }
        Source::Gateways => {
            let (own, reported) = watch::channel(Addresses::default());
            let (noted, others) = watch::channel(Addresses::default());
            tokio::spawn(status::follow_gateways(publication.clone(), own, others, news.clone()));
            Some(Board::new(number, reported, noted))
        }
        Source::None | Source::Fixed(_) => None,
    };
    let writer = status::Writer {
        client: client.clone(),
        field_manager: settings.field_manager(),
        metrics: metrics.clone(),
        leads: leads.clone(),
    };
    tokio::spawn(status::write(writer, asked));
    if let Some(prefix) = host_records {
        let (field_manager, leads) = (settings.field_manager(), leads.clone());
        let recorder = Recorder { client: client.clone(), prefix, field_manager, leads, shared: shared.clone() };
        tokio::spawn(owners::record(recorder, owners_noticed));
    }
    tokio::spawn(events::write(client.clone(), noticed, metrics.clone(), leads.clone()));
    tokio::spawn(tell_of_lead(leads, news.clone()));
    tokio::spawn(tell_the_time(news.clone()));
    let (resign, resigned) = oneshot::channel();
    let candidate = Candidate::new(client, lease, number, board);
    tokio::spawn(stand(candidate, publication.clone(), leading, resigned));
    announce(&[("publish", &publish_listener), ("admin", &admin_listener)], metrics_listener.as_ref());
    tokio::spawn(admin::serve(admin_listener, shared.clone(), admin::Scope::Admin));
    if let Some(listener) = metrics_listener {
        tokio::spawn(admin::serve(listener, shared.clone(), admin::Scope::Metrics));
    }
    let gateways = tokio::spawn(publish::serve(
        publish_listener,
        publish::Sources { publication, news: news.clone(), relists, metrics, trust, refusals_said: Arc::default() },
    ));
    let ending = until_end(&compiler).await;
    tracing::info!("ending");
    gateways.abort();
    let _ = gateways.await;
    let last = match settings.clear_status_on_shutdown {
        true => {
            let (done, cleared) = oneshot::channel();
            let _ = news.send(News::Clear(done));
            if timeout(CLEAR_LIMIT, cleared).await.is_err() {
                tracing::warn!("not every status is emptied within {} s", CLEAR_LIMIT.as_secs());
            }
            true
        }
        false => news.send(News::Stop).is_ok(),
    };
    let (done, given_back) = oneshot::channel();
    if last && resign.send(done).is_ok() {
        let _ = timeout(RESIGN_LIMIT, given_back).await;
    }
    let _ = compiler.join();
    ending
}

/// Stands for the Lease once something is published: who leads writes what all others go by, and has to know everything first.
async fn stand(
    candidate: Candidate,
    publication: Arc<Publication>,
    leading: watch::Sender<bool>,
    mut resigned: oneshot::Receiver<oneshot::Sender<()>>,
) {
    tokio::select! {
        () = publication.published() => candidate.run(leading, resigned).await,
        done = &mut resigned => if let Ok(done) = done {
            let _ = done.send(());
        },
    }
}

/// Tells the compile thread whether this controller leads.
async fn tell_of_lead(mut leads: watch::Receiver<bool>, news: Sender<News>) {
    while leads.changed().await.is_ok() {
        let leads = *leads.borrow_and_update();
        if news.send(News::Leads(leads)).is_err() {
            return;
        }
    }
}

/// Tells the compile thread the time: certificates end without anybody writing an object.
async fn tell_the_time(news: Sender<News>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(60));
    loop {
        ticks.tick().await;
        if news.send(News::Time(clock::unix_seconds())).is_err() {
            return;
        }
    }
}

async fn bind(purpose: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError(format!("{purpose} address {address} cannot be listened on: {error}"), EXIT_BIND))
}

/// Says where the controller listens; with port 0 in the settings this is the only place to learn the port.
fn announce(listeners: &[(&str, &TcpListener)], metrics: Option<&TcpListener>) {
    let metrics = metrics.map(|listener| ("metrics", listener));
    for (purpose, listener) in listeners.iter().copied().chain(metrics) {
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, purpose, "listening");
        }
    }
}

/// Longest time that the end waits for statuses to be emptied, and for the Lease to be given back.
const CLEAR_LIMIT: Duration = Duration::from_secs(15);

const RESIGN_LIMIT: Duration = Duration::from_secs(5);

/// Waits for SIGTERM or SIGINT. Gateways keep what they have and go to another controller, so nothing has to be drained.
async fn until_end(compiler: &JoinHandle<()>) -> Result<(), StartError> {
    let listen = |kind| signal(kind).map_err(|error| StartError::new("signals", error));
    let (mut terminate, mut interrupt, mut hangup) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    let mut health = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => tracing::info!("SIGHUP: objects are followed without it; the configuration file is read at the start only"),
            _ = health.tick() => if compiler.is_finished() {
                // It ends by a panic only. A controller that compiles no more would look well and be deaf.
                return Err(StartError("the compile thread has ended: restart the controller, and report this".to_owned(), 1));
            },
        }
    }
    Ok(())
}
