//! `sluicegate run`: how a gateway starts, follows its source, and ends.

use std::fmt::Display;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sluicegate_process::memory::{Memory, give_back_on_a_thread};
use sluicegate_process::resources;
use sluicegate_process::{EXIT_BIND, EXIT_USAGE, log};
use sluicegate_snapshot::Mode;
use tokio::sync::watch;

use crate::apply::follow::{Following, follow};
use crate::apply::state_file::StateFile;
use crate::apply::state_format::StateKey;
use crate::apply::{Applier, Compiler};
use crate::cli::USAGE;
use crate::io::admission::{self, Admission};
use crate::io::listener::{Listeners, bind_alone};
use crate::io::pressure::Ladder;
use crate::io::worker::{self, Blueprint};
use crate::lane::room::{self, Room};
use crate::manifests::watch::Signal;
use crate::observe::{AccessLog, Cells};
use crate::settings::{DefaultCertificate, Settings};
use crate::shared::{Shared, Stage, State};
use crate::table::{GatewayBind, Table};
use crate::tls::{Acceptor, CertificateChoice, DefaultCertificateFiles, ServerCertificate, made_now};
use crate::upstream::probe::Prober;
use crate::upstream::resolve::Resolver;
use crate::upstream::{Guard, Registry};
use crate::{admin, cpus, stream};

/// The engine logs an error for every failed request and handshake; the gateway counts and logs those itself.
const ENGINE: &str = "pingora_proxy=off,pingora_core=off,pingora_pool=off";

/// A start that failed: message and exit code.
struct StartError(String, u8);

impl StartError {
    fn new(what: &str, error: impl Display) -> Self {
        StartError(format!("{what}: {error}"), 1)
    }
}

/// Runs a gateway until it is told to end.
pub fn run(settings: Settings) -> ExitCode {
    if let Err(error) = log::init(&settings.log, ENGINE) {
        eprintln!("sluicegate: {error}");
        return ExitCode::from(USAGE);
    }
    match start(settings) {
        Ok(running) => running.until_end(),
        Err(StartError(message, code)) => {
            eprintln!("sluicegate: {message}");
            ExitCode::from(code)
        }
    }
}

/// A gateway that serves.
struct Running {
    shared: Arc<Shared>,
    signals: Signals,
    following: Following,
    draining: watch::Sender<bool>,
    admission: Arc<Admission>,
}

fn start(mut settings: Settings) -> Result<Running, StartError> {
    let usage = |error: crate::settings::SettingsError| StartError(error.to_string(), USAGE);
    if settings.manifests.is_empty() && settings.controllers.is_empty() {
        let message = "no source: give --manifests DIR or --controller URL (or `manifests` or `controllers` in the configuration file)";
        return Err(StartError(message.to_owned(), USAGE));
    }
    let controllers = settings.controller_urls().map_err(usage)?;
    let compile = settings.compile(Mode::Standalone).map_err(usage)?;
    let default_certificate = settings.default_certificate().map_err(usage)?;
    let workers = settings.workers.unwrap_or_else(cpus::available);
    settings.pin |= cpus::mask_fits(workers) && workers > 1;
    // Before anything else: a taken port is the most common mistake.
    let bind_error = |error: crate::io::BindError| StartError(error.to_string(), EXIT_BIND);
    let listeners = Listeners::bind(&settings, workers).map_err(bind_error)?;
    let admin_listener = bind_alone("admin", settings.admin).map_err(bind_error)?;
    let metrics_listener =
        settings.metrics.map(|address| bind_alone("metrics", address)).transpose().map_err(bind_error)?;

    let signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|error| StartError::new("signals", error))?;
    let (default_files, fallback) = match default_certificate {
        Some(DefaultCertificate::Files { chain, key }) => DefaultCertificateFiles::read(chain, key)
            .map(|(files, current)| (Some(files), current))
            .map_err(|message| StartError(message, USAGE))?,
        // A Secret is looked up in the table; until it is there this one serves.
        _ => (None, made_now().map_err(|message| StartError(message, 1))?),
    };
    let most = most(&settings, workers);
    let shared = Arc::new(share(settings, workers, fallback.clone(), most.requests)?);
    let certificates = Arc::new(CertificateChoice { table: shared.table.clone(), fallback });
    let acceptor = Arc::new(Acceptor::new().map_err(|error| StartError::new("TLS", error))?);
    let (draining, draining_seen) = watch::channel(false);

    let admin_runtime = spawn_runtime("admin")?;
    let mut addresses = vec![("admin", admin_listener.local_addr())];
    addresses.extend(metrics_listener.as_ref().map(|listener| ("metrics", listener.local_addr())));
    for (listener, scope) in [(Some(admin_listener), admin::Scope::Admin), (metrics_listener, admin::Scope::Metrics)] {
        if let Some(listener) = listener {
            admin_runtime.spawn(admin::serve(listener, shared.clone(), scope));
        }
    }

    let control = spawn_runtime("control")?;
    let guard = if controllers.is_empty() { Guard::default() } else { Guard::in_cluster() };
    let registry =
        Registry::new(Arc::new(guard), Resolver::new(shared.settings.dns, control.clone()), Prober::new(control));
    let state_key = shared.settings.state_key.as_deref().map(StateKey::read).transpose();
    let state_key = state_key.map_err(|message| StartError(message, EXIT_USAGE))?;
    let state_file = match &shared.settings.state_dir {
        Some(directory) => Some(
            StateFile::open(directory, state_key)
                .map_err(|error| StartError::new(&format!("state directory {}", directory.display()), error))?,
        ),
        None => None,
    };
    let applier = Applier::new(GatewayBind::new(registry), shared.clone(), state_file);
    let following = match controllers.is_empty() {
        true => {
            let compiler = Compiler::new(compile, applier, shared.clone());
            follow(compiler, shared.clone(), default_files)
        }
        false => stream::follow(applier, shared.clone(), controllers, shared.settings.credentials(), default_files),
    };
    let following = following.map_err(|error| StartError::new("applier", error))?;

    let admission = Arc::new(Admission::new(&shared.settings, most.connections));
    let blueprint = Blueprint {
        shared: shared.clone(),
        acceptor,
        certificates,
        draining: draining_seen,
        admission: admission.clone(),
    };
    announce(&shared, &listeners, &addresses);
    for (index, listeners) in listeners.into_iter().enumerate() {
        worker::start(index, blueprint.clone(), listeners).map_err(|error| StartError::new("worker", error))?;
    }
    shared.state.enter(Stage::Serving);
    Ok(Running { shared, signals, following, draining, admission })
}

/// How much there may be at a time.
struct Most {
    connections: usize,
    requests: usize,
}

/// What the settings say, or what descriptors and memory allow; it is said.
fn most(settings: &Settings, workers: usize) -> Most {
    let open_files = resources::raise_open_files();
    let memory = Memory::new(settings.limits.memory).limit();
    let descriptors = admission::descriptors(open_files, (workers * settings.upstream_idle_connections) as u64);
    let usual = admission::default_limit(descriptors, memory);
    let connections = settings.limits.connections.unwrap_or(usual);
    let usual_requests = room::default_limit(descriptors, memory, connections);
    let requests = settings.limits.requests_in_flight.unwrap_or(usual_requests);
    let memory_mib = memory.map(|bytes| bytes >> 20);
    tracing::info!(connections, requests, open_files, memory_mib, "connections of clients, and requests in flight");
    for (name, said, usual) in [("connections", connections, usual), ("requestsInFlight", requests, usual_requests)] {
        if said > usual {
            tracing::warn!(said, usual, "limits.{name} is more than descriptors and memory are sure to be enough for");
        }
    }
    Most { connections, requests }
}

fn share(
    settings: Settings,
    workers: usize,
    default_certificate: Arc<ArcSwap<ServerCertificate>>,
    requests: usize,
) -> Result<Shared, StartError> {
    let access_log = AccessLog::open(&settings.access_log).map_err(|error| StartError::new("access log", error))?;
    let server_header = settings.server_header.as_deref().map(HeaderValue::from_str).transpose();
    let in_use = Memory::new(settings.limits.memory);
    let memory = Arc::new(Ladder::new(in_use.limit().unwrap_or(u64::MAX)));
    memory.watch(in_use).map_err(|error| StartError::new("memory", error))?;
    give_back_on_a_thread().map_err(|error| StartError::new("memory", error))?;
    Ok(Shared {
        memory,
        room: Room::new(requests, workers, settings.limits.http2.streams),
        server_header: server_header.map_err(|error| StartError::new("serverHeader", error))?,
        table: Arc::new(ArcSwap::from_pointee(Table::default())),
        cells: (0..workers).map(|_| Arc::new(Cells::default())).collect(),
        default_certificate,
        access_log,
        state: State::default(),
        settings,
    })
}

/// A runtime on a thread of its own, for as long as the process lives.
fn spawn_runtime(name: &str) -> Result<tokio::runtime::Handle, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| StartError::new(name, error))?;
    let handle = runtime.handle().clone();
    let run = move || runtime.block_on(std::future::pending::<()>());
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| StartError::new(name, error))?;
    Ok(handle)
}

/// Says where the gateway listens; with port 0 in the settings this is the only place to learn the port.
fn announce(shared: &Shared, listeners: &[Listeners], others: &[(&'static str, std::io::Result<SocketAddr>)]) {
    let traffic = listeners.first().map(Listeners::addresses).unwrap_or_default();
    let traffic = traffic.into_iter().map(|(scheme, address)| (scheme.as_str(), address));
    let others = others.iter().filter_map(|(purpose, address)| Some((*purpose, *address.as_ref().ok()?)));
    for (purpose, address) in traffic.chain(others) {
        tracing::info!(%address, purpose, "listening");
    }
    tracing::info!(workers = listeners.len(), pinned = shared.settings.pin, "serving");
}

impl Running {
    /// Waits for signals: SIGHUP reloads, SIGINT ends at once, SIGTERM ends gracefully.
    fn until_end(mut self) -> ExitCode {
        for signal in self.signals.forever() {
            match signal {
                SIGHUP => {
                    tracing::info!("SIGHUP: reading the source again");
                    self.shared.access_log.reopen();
                    (self.following.send)(Signal::Asked);
                }
                SIGINT => {
                    tracing::info!("SIGINT: ending now");
                    break;
                }
                _ => {
                    self.drain();
                    break;
                }
            }
        }
        (self.following.send)(Signal::Stop);
        // The applier flushes the state file when it ends.
        let _ = self.following.thread.join();
        self.shared.access_log.close();
        ExitCode::SUCCESS
    }

    /// Unready, still accepting; then no longer accepting, until every connection has ended or the deadline is there.
    fn drain(&mut self) {
        let lame_duck = Duration::from_secs(self.shared.settings.lame_duck_seconds.into());
        let deadline = Duration::from_secs(self.shared.settings.drain_seconds.into());
        self.shared.state.enter(Stage::LameDuck);
        tracing::info!(seconds = lame_duck.as_secs(), "SIGTERM: unready, still accepting");
        if self.interrupted(lame_duck, || false) {
            return;
        }
        self.shared.state.enter(Stage::Draining);
        self.draining.send_replace(true);
        tracing::info!(open = self.admission.open(), seconds = deadline.as_secs(), "draining");
        let admission = self.admission.clone();
        self.interrupted(deadline, move || admission.open() == 0);
        tracing::info!(open = self.admission.open(), "drained");
    }

    /// Waits until `done`, at most `limit`; true: a SIGINT cut it short.
    fn interrupted(&mut self, limit: Duration, done: impl Fn() -> bool) -> bool {
        let started = Instant::now();
        while started.elapsed() < limit && !done() {
            if self.signals.pending().any(|signal| signal == SIGINT) {
                return true;
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        false
    }
}
