//! Listening sockets: one per worker and address, sharing the port by `SO_REUSEPORT`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::phase::Scheme;
use crate::settings::Settings;

/// Connections that may wait to be accepted, per socket.
const BACKLOG: i32 = 4096;

/// Bytes of an answer that the kernel holds besides what is on its way (tcp(7), `TCP_NOTSENT_LOWAT`): of a client that does not read it would
/// take megabytes.
const NOT_SENT: u32 = 128 * 1024;

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    /// What the address is for: `http`, `https`, `admin`, `metrics`.
    pub purpose: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { purpose, address, error } = self;
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; another process listens there: end it or choose another port",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            io::ErrorKind::AddrNotAvailable => "; this machine does not have the address",
            _ => "",
        };
        write!(f, "cannot listen on {address} ({purpose}): {error}{hint}")
    }
}

impl std::error::Error for BindError {}

/// The sockets of one worker.
#[derive(Debug)]
pub struct Listeners(pub Vec<(Scheme, TcpListener)>);

impl Listeners {
    /// Binds every address for each worker. The first worker binds without sharing first, so that a port that another
    /// process holds is noticed, even where that process shares it.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub fn bind(settings: &Settings, workers: usize) -> Result<Vec<Listeners>, BindError> {
        let http = settings.http.iter().map(|address| (Scheme::Http, *address));
        let https = settings.https.iter().map(|address| (Scheme::Https, *address));
        let addresses: Vec<(Scheme, SocketAddr)> = http.chain(https).collect();
        let mut all: Vec<Listeners> = (0..workers).map(|_| Listeners(Vec::new())).collect();
        for (scheme, address) in addresses {
            let error = |error| BindError { purpose: scheme.as_str(), address, error };
            if address.port() != 0 {
                drop(socket(address, false).map_err(error)?);
            }
            let mut bound = address;
            for listeners in &mut all {
                let listener = socket(bound, true).map_err(error)?;
                // With port 0 the kernel chooses for the first worker; the others follow.
                bound = listener.local_addr().map_err(error)?;
                listeners.0.push((scheme, listener));
            }
        }
        Ok(all)
    }

    /// Addresses that are listened on.
    pub fn addresses(&self) -> Vec<(Scheme, SocketAddr)> {
        self.0.iter().filter_map(|(scheme, listener)| Some((*scheme, listener.local_addr().ok()?))).collect()
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if let SocketAddr::V6(v6) = address {
        // `[::]` takes IPv4 too; its peers are unmapped.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    if shared {
        // Connections have it from their listener. Where there is no such option the kernel holds more of each answer.
        let _ = socket.set_tcp_notsent_lowat(NOT_SENT);
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// Binds an address that one thread listens on alone.
///
/// # Errors
/// It cannot be bound.
pub fn bind_alone(purpose: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(128)?;
        Ok(socket.into())
    };
    bind().map_err(|error| BindError { purpose, address, error })
}
