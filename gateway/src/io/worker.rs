//! A worker: one thread, one runtime, its own sockets, its own engine and so its own pool of upstream connections.

use std::io;
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use tokio::sync::watch;

use super::admission::Admission;
use super::client::peer_ip;
use super::connection::Serve;
use super::idle::IdleConnections;
use super::lag;
use super::listener::Listeners;
use super::pressure::{Pressure, SHORT_IDLE};
use super::schedule::{Scheduled, Standing};
use super::turns::{Turns, behind_others};
use crate::lane::Gateway;
use crate::observe::cells::Rejection;
use crate::phase::Scheme;
use crate::phase::address::is_trusted;
use crate::shared::Shared;
use crate::tls::{Acceptor, CertificateChoice};
use crate::upstream::connection::pool::Pool;
use sluicegate_process::resources::are_exhausted;

/// How long idle connections stay open once a drain has begun.
pub(super) const IDLE_GRACE: Duration = Duration::from_secs(1);

/// How long connections that the kernel has queued are accepted once a drain has begun.
const QUEUE_LIMIT: Duration = Duration::from_secs(1);

/// Tasks that run before the kernel is asked what has come: a worker that always has some to run would look rarely, and what comes would wait.
const TASKS_BETWEEN_EVENTS: u32 = 16;

/// What every worker is made from.
#[derive(Clone)]
pub struct Blueprint {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The TLS context.
    pub acceptor: Arc<Acceptor>,
    /// The choice of certificates.
    pub certificates: Arc<CertificateChoice>,
    /// Becomes true when no more connections are accepted and open ones have to end.
    pub draining: watch::Receiver<bool>,
    /// Connections that are being served, of all workers.
    pub admission: Arc<Admission>,
}

/// Starts worker `index` on its sockets.
///
/// # Errors
/// The thread or its runtime cannot be started.
pub fn start(index: usize, blueprint: Blueprint, listeners: Listeners) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().event_interval(TASKS_BETWEEN_EVENTS).build()?;
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        if blueprint.shared.settings.pin {
            crate::cpus::pin(index);
        }
        runtime.block_on(run(index, blueprint, listeners));
    })
}

async fn run(index: usize, blueprint: Blueprint, listeners: Listeners) {
    let shared = blueprint.shared.clone();
    let Some(cells) = shared.cells.get(index).cloned() else { return };
    let conf = ServerConf { threads: 1, max_retries: crate::lane::MAX_ATTEMPTS, ..ServerConf::default() };
    let idle = Duration::from_secs(shared.settings.timeouts.upstream_idle.into());
    let pool = Arc::new(Pool::new(shared.settings.upstream_idle_connections, idle));
    let gateway = Gateway::new(shared.clone(), cells.clone(), pool.clone());
    tokio::spawn(async move { pool.sweep_on().await });
    let proxy = Arc::new(http_proxy(&Arc::new(conf), gateway));
    let serve = Arc::new(Serve {
        shared: shared.clone(),
        cells,
        proxy,
        acceptor: blueprint.acceptor.clone(),
        certificates: blueprint.certificates.clone(),
        draining: blueprint.draining.clone(),
        idle: IdleConnections::default(),
        handshakes: Turns::default(),
        frames: Arc::default(),
        schedule: Arc::default(),
    });
    tokio::spawn(serve.schedule.clone().run());
    tokio::spawn(lag::measure(serve.cells.clone()));
    tokio::spawn(relieve(Arc::downgrade(&serve)));
    let mut loops = Vec::new();
    for (scheme, listener) in listeners.0 {
        loops.push(tokio::spawn(accept(scheme, listener, serve.clone(), blueprint.admission.clone())));
    }
    shared.state.listening.fetch_add(1, Ordering::SeqCst);
    let mut draining = blueprint.draining.clone();
    let _ = draining.wait_for(|draining| *draining).await;
    // What the kernel has already queued for these sockets is taken before they close: nobody is reset.
    for accept_loop in loops {
        let _ = accept_loop.await;
    }
    // The thread lives on for its open connections; the process ends it.
    std::future::pending::<()>().await;
}

/// How often connections that wait too long are looked for while memory runs short.
const RELIEF: Duration = Duration::from_millis(250);

/// Ends connections that only wait, while memory runs short.
async fn relieve(serve: Weak<Serve>) {
    let Some(mut pressure) = serve.upgrade().map(|serve| serve.shared.memory.subscribe()) else { return };
    while let Ok(step) = pressure.wait_for(|step| *step >= Pressure::ShortIdle).await.map(|step| *step) {
        let Some(serve) = serve.upgrade() else { return };
        // Not at once: the first request of one that was only just accepted may be on its way.
        serve.idle.end_after(if step == Pressure::ShortIdle { SHORT_IDLE } else { IDLE_GRACE });
        drop(serve);
        tokio::time::sleep(RELIEF).await;
    }
}

async fn accept(scheme: Scheme, listener: TcpListener, serve: Arc<Serve>, admission: Arc<Admission>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "listening socket cannot be used"),
    };
    let mut draining = serve.draining.clone();
    let mut pressure = serve.shared.memory.subscribe();
    let mut closes_at = None;
    loop {
        let next = async {
            // The kernel queues them meanwhile.
            let _ = pressure.wait_for(|step| *step < Pressure::Refusing).await;
            listener.accept().await
        };
        let accepted = match closes_at {
            None => tokio::select! {
                biased;
                _ = draining.wait_for(|draining| *draining) => {
                    closes_at = Some(Instant::now() + QUEUE_LIMIT);
                    continue;
                }
                accepted = next => accepted,
            },
            Some(deadline) if Instant::now() >= deadline => return,
            Some(_) => match accept_queued(&listener).await {
                Some(accepted) => accepted,
                None => return,
            },
        };
        match accepted {
            Ok((tcp, peer)) => {
                let address = peer_ip(peer);
                let trusted = is_trusted(&serve.shared.settings.trusted_proxies, address);
                // Where there is no room, somebody who only waits has to make it.
                match admission.admit(address, trusted, || serve.idle.end_oldest()) {
                    Err(why) => serve.cells.reject(why),
                    Ok(admitted) => {
                        let (standing, schedule) = (Arc::new(Standing::default()), serve.schedule.clone());
                        let (its_worker, its) = (serve.clone(), standing.clone());
                        let connection = async move { its_worker.connection(scheme, tcp, peer, admitted, &its).await };
                        tokio::spawn(Scheduled::new(connection, standing, schedule));
                        // However many have come, those who are here already go on between two of them; in a drain there is no time for that.
                        if closes_at.is_none() {
                            behind_others().await;
                            serve.schedule.room().await;
                        }
                    }
                }
            }
            Err(error) => {
                serve.cells.reject(Rejection::AcceptFailed);
                // Out of descriptors: others have to close first. A connection that was reset meanwhile is no reason to wait.
                if are_exhausted(&error) {
                    tracing::warn!(%error, "no connection can be accepted; trying again in 50 ms");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// A connection that waits already; `None`: there is none.
async fn accept_queued(
    listener: &tokio::net::TcpListener,
) -> Option<io::Result<(tokio::net::TcpStream, std::net::SocketAddr)>> {
    let poll = std::future::poll_fn(|cx| {
        Poll::Ready(match listener.poll_accept(cx) {
            Poll::Ready(accepted) => Some(accepted),
            Poll::Pending => None,
        })
    });
    // Pending must mean an empty queue, and not a used-up budget of the runtime.
    tokio::task::unconstrained(poll).await
}
