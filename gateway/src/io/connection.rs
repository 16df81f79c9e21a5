//! One connection from accept to end: TLS, then HTTP/1 requests one after another, or HTTP/2 streams side by side.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use pingora::protocols::tls::server::handshake_with_callback;
use pingora::protocols::{ALPN, Stream};
use pingora::proxy::HttpProxy;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::admission::{Admitted, network};
use super::client::{ClientInfo, ClientStream};
use super::idle::IdleConnections;
use super::proxy_protocol::{self, Client, Failed, Whose};
use super::schedule::{Schedule, Standing};
use super::turns::{Shed, Turns};
use crate::lane::Gateway;
use crate::observe::cells::{Handshake, Rejection};
use crate::observe::{Cells, Closing};
use crate::phase::address::is_trusted;
use crate::phase::canonical::Refused;
use crate::phase::{Connection, Reason, Scheme};
use crate::shared::Shared;
use crate::tls::{Acceptor, CertificateChoice};

/// What a worker serves connections with.
pub struct Serve {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// This worker's cells.
    pub cells: Arc<Cells>,
    /// This worker's engine.
    pub proxy: Arc<HttpProxy<Gateway>>,
    /// The TLS context.
    pub acceptor: Arc<Acceptor>,
    /// The choice of certificates.
    pub certificates: Arc<CertificateChoice>,
    /// Becomes true when connections have to end.
    pub draining: watch::Receiver<bool>,
    /// This worker's connections that wait for a request.
    pub idle: IdleConnections,
    /// The turns of this worker's handshakes.
    pub handshakes: Turns,
    /// Those of HTTP/2 clients that send much that costs much.
    pub frames: Arc<Turns>,
    /// Which connections come first.
    pub schedule: Arc<Schedule>,
}

impl Serve {
    /// Serves a connection to its end, until when it is `admitted`.
    pub async fn connection(
        &self,
        scheme: Scheme,
        mut tcp: TcpStream,
        peer: SocketAddr,
        mut admitted: Admitted,
        standing: &Arc<Standing>,
    ) {
        // Nagle's algorithm would hold small responses back; without the option they are only slower.
        let _ = tcp.set_nodelay(true);
        // The peer may be gone already.
        let Ok(local) = tcp.local_addr() else { return };
        let mut connection = self.facts(scheme, peer, local);
        if is_trusted(&self.shared.settings.proxy_protocol, connection.peer) {
            match self.behind_proxy(&mut tcp).await {
                None => return standing.ends().await,
                Some(Whose::Proxy) => {}
                // It is no proxy's, and may say nothing of forwarding.
                Some(Whose::Unknown) => connection.trusted = false,
                Some(Whose::Client(client)) => {
                    connection = self.client_facts(scheme, client);
                    if let Err(why) = admitted.is_of(connection.peer, connection.trusted) {
                        return self.cells.reject(why);
                    }
                }
            }
        }
        let (server, memory) = (self.shared.server_header.clone(), self.shared.memory.clone());
        let Ok(client) = ClientStream::new(tcp, connection, server, self.cells.clone(), memory) else { return };
        let info = client.info().clone();
        info.user_timeout.store(self.shared.settings.timeouts.client_write, Ordering::Relaxed);
        // Each in a box: as the parts of one task they would all take room for as long as it is there, and most only wait for a request.
        match scheme {
            Scheme::Http => Box::pin(self.http1(Box::new(client), &info, standing)).await,
            Scheme::Https => {
                let Some(stream) = Box::pin(self.tls(client, &info, &admitted, standing)).await else { return };
                match stream.selected_alpn_proto() {
                    Some(ALPN::H2) => Box::pin(self.http2(stream, &info, standing)).await,
                    _ => Box::pin(self.http1(stream, &info, standing)).await,
                }
            }
        }
    }

    /// Reads the PROXY header that is due. `None`: the connection is over.
    async fn behind_proxy(&self, tcp: &mut TcpStream) -> Option<Whose> {
        let timeouts = &self.shared.settings.timeouts;
        let silence = Duration::from_secs(timeouts.first_byte.into());
        // Whoever only connects looks whether somebody listens, also where it stays for a while.
        let Ok(readable) = timeout(silence, tcp.readable()).await else {
            self.cells.close(Closing::FirstByte);
            return None;
        };
        readable.ok()?;
        let limit = Duration::from_secs(timeouts.handshake.into());
        let header = timeout(limit, proxy_protocol::read(tcp)).await;
        match header.unwrap_or(Err(Failed::Malformed("it takes too long"))) {
            Ok(whose) => Some(whose),
            Err(Failed::Gone) => None,
            Err(Failed::Malformed(detail)) => {
                tracing::debug!(detail, "no PROXY header, or a malformed one");
                self.cells.reject(Rejection::MalformedProxyHeader);
                None
            }
        }
    }

    /// What a PROXY header tells.
    fn client_facts(&self, scheme: Scheme, client: Client) -> Connection {
        let mut connection = self.facts(scheme, client.source, client.destination);
        // A proxy that ended TLS says so, or was reached at the port for it.
        if client.tls || client.destination.port() == connection.https_port {
            connection.client_scheme = Scheme::Https;
        }
        connection
    }

    fn facts(&self, scheme: Scheme, peer: SocketAddr, local: SocketAddr) -> Connection {
        let settings = &self.shared.settings;
        let public = settings.public_ports.map(|ports| match scheme {
            Scheme::Http => ports.http,
            Scheme::Https => ports.https,
        });
        let port = public.unwrap_or(local.port());
        let https_port = settings.public_ports.map_or(443, |ports| ports.https);
        let connection = Connection::new(scheme, peer, local);
        let trusted = is_trusted(&settings.trusted_proxies, connection.peer);
        Connection { port, https_port, trusted, ..connection }
    }

    /// Shakes hands, where the connection is not for a backend that does. `None`: it is over.
    async fn tls(
        &self,
        mut client: ClientStream,
        info: &Arc<ClientInfo>,
        admitted: &Admitted,
        standing: &Arc<Standing>,
    ) -> Option<Stream> {
        let limit = Duration::from_secs(self.shared.settings.timeouts.handshake.into());
        let first = timeout(limit, first(&client)).await;
        // From here on there is one time for all of it.
        let ends_at = Instant::now() + limit;
        let passes = match first {
            Ok(First::Tls) => timeout_at(ends_at, self.passes_through(&mut client)).await,
            Ok(First::Plain) => {
                let refused = Refused { reason: Reason::PlainOnTls, detail: "plain HTTP on the port for HTTPS" };
                self.refuse(Box::new(client), BytesMut::new(), info, refused).await;
                return None;
            }
            Ok(First::Gone) => {
                standing.ends().await;
                return None;
            }
            Err(late) => Err(late),
        };
        match passes {
            Ok(None) if admitted.may_shake_hands().await => self.shake_hands(client, ends_at, info, standing).await,
            Ok(None) => {
                self.cells.reject(Rejection::TooManyHandshakes);
                None
            }
            Ok(Some((name, route))) => {
                Box::pin(self.tunnel(client, info, name, route)).await;
                None
            }
            Err(_) => {
                self.cells.handshake(Handshake::TimedOut);
                standing.ends().await;
                None
            }
        }
    }

    async fn shake_hands(
        &self,
        client: ClientStream,
        ends_at: Instant,
        info: &Arc<ClientInfo>,
        standing: &Arc<Standing>,
    ) -> Option<Stream> {
        let peer = info.connection.peer;
        let handshake = handshake_with_callback(&self.acceptor.context, client, &*self.certificates);
        let mut shakes = pin!(self.handshakes.take(network(peer), standing, handshake));
        match timeout_at(ends_at, &mut shakes).await {
            Ok(Ok(Ok(stream))) => {
                let resumed = stream.ssl().session_reused();
                self.cells.handshake(if resumed { Handshake::Resumed } else { Handshake::Full });
                return Some(Box::new(stream));
            }
            Ok(Ok(Err(error))) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                self.cells.handshake(Handshake::Failed);
            }
            Ok(Err(Shed)) => self.cells.reject(Rejection::TooManyHandshakes),
            Err(_) => {
                self.cells.handshake(Handshake::TimedOut);
                standing.ends().await;
            }
        }
        None
    }
}

/// What a client of the TLS port begins with.
enum First {
    Tls,
    /// Plain HTTP, which is answered with 400, as nginx does: people paste the wrong scheme.
    Plain,
    Gone,
}

async fn first(client: &ClientStream) -> First {
    let mut first = [0];
    match client.tcp().peek(&mut first).await {
        Ok(1) if first[0].is_ascii_uppercase() => First::Plain,
        // If it is something else than a handshake, OpenSSL says what is wrong with it.
        Ok(1) => First::Tls,
        _ => First::Gone,
    }
}
