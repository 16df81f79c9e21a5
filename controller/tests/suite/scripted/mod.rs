//! An API server that does what it is told: lists, streamed lists, pages and watches of a store of its own, and every fault that
//! a real one, its etcd, or what stands between can have. Only for faults that the real one of the other tests does not have on
//! demand.

mod answer;
mod store;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::setpriority_process;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

pub use store::{Id, Store};

use crate::harness::LOWEST_PRIORITY;
use crate::network;

/// What goes wrong now.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Every request is answered with this status.
    pub refuses: Option<u16>,
    /// Watches say nothing but their lists.
    pub silent: bool,
    /// Of each collection lists show so many objects only.
    pub loses_after: Option<usize>,
    /// Streamed lists are not known here (400).
    pub pages_only: bool,
    /// Objects in a page; 0: no pages.
    pub page: usize,
    /// Tokens of pages expire at once (410), so many times.
    pub expired_pages: u32,
    /// Watches say everything twice, and what they have to say at a time in reverse order.
    pub repeats: bool,
    /// Compacted history is said in the watch (an `ERROR` event) and not as the answer's status.
    pub gone_in_stream: bool,
    /// What a watch has to say is cut in the middle of a line, with its connection.
    pub cuts_lines: bool,
}

/// What requests see.
#[derive(Default)]
struct Inner {
    store: Store,
    faults: Faults,
    /// States of which pages are still to be read, by version.
    paged: BTreeMap<u64, BTreeMap<Id, Value>>,
}

/// The server.
pub struct Scripted {
    address: Ipv4Addr,
    port: u16,
    shared: Arc<Shared>,
    /// Ends it when it is dropped.
    _stop: oneshot::Sender<()>,
    _directory: tempfile::TempDir,
    kubeconfig: PathBuf,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Raised at each change of the store.
    changes: watch::Sender<u64>,
    /// Raised to end every connection.
    cuts: watch::Sender<u64>,
    /// Raised to have a bookmark in each watch.
    bookmarks: watch::Sender<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

impl Scripted {
    /// Starts one on an address of its own.
    pub fn start() -> Scripted {
        let address = network::address();
        network::assign(address);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((address, 0))).unwrap();
        let (stop, stopped) = oneshot::channel();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            inner: Mutex::default(),
            changes: watch::Sender::new(0),
            cuts: watch::Sender::new(0),
            bookmarks: watch::Sender::new(0),
        });
        let served = shared.clone();
        std::thread::spawn(move || {
            // It stands for one on another machine, and takes what others leave of the CPUs.
            let _ = setpriority_process(None, LOWEST_PRIORITY);
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, served) => {}
                    _ = stopped => {}
                }
            });
        });
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\ncontexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
             clusters: [{{name: test, cluster: {{server: \"http://{address}:{port}\"}}}}]\nusers: [{{name: test, user: {{token: test}}}}]\n"
        );
        std::fs::write(&kubeconfig, text).unwrap();
        Scripted { address, port, shared, _stop: stop, _directory: directory, kubeconfig }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.port))
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Changes objects.
    pub fn edit<T>(&self, edit: impl FnOnce(&mut Store) -> T) -> T {
        let done = edit(&mut self.shared.lock().store);
        self.shared.changes.send_modify(|count| *count += 1);
        done
    }

    /// Has other faults.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.lock().faults);
    }

    /// Ends every connection.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|count| *count += 1);
    }

    /// Says in each watch how far it is.
    pub fn bookmark(&self) {
        self.shared.bookmarks.send_modify(|count| *count += 1);
    }

    /// Ends every connection in a moment in which no packet gets through: the other end does not hear of it.
    pub fn vanish(&self, time: Duration) {
        network::unassign(self.address);
        self.cut();
        std::thread::park_timeout(time);
        network::assign(self.address);
    }

    /// Goes back to an older state, as after a restore of its etcd.
    pub fn restore(&self, store: Store) {
        self.edit(|now| *now = store);
        self.cut();
    }

    /// The objects that are there.
    pub fn objects(&self) -> Vec<Value> {
        self.shared.lock().store.objects.values().cloned().collect()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        network::unassign(self.address);
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let _ = tcp.set_nodelay(true);
        // A reset, and not an end: so that one in which no packet gets through leaves nothing to be sent again.
        let _ = tcp.set_zero_linger();
        let mut cuts = shared.cuts.subscribe();
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let shared = shared.clone();
                async move { answer::answer(&request, &shared) }
            });
            tokio::select! {
                _ = http1::Builder::new().serve_connection(TokioIo::new(tcp), service) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}
