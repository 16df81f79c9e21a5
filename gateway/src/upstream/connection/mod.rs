//! Connections to endpoints: made here, judged here, kept here. The engine is lent each of them for one exchange (docs/adr/0027).

pub mod answer;
mod asked;
pub mod exchange;
pub mod patience;
pub mod pool;
pub mod reading;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr as EngineAddress;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::VirtualSocketStream;
use pingora::{Error, ErrorType};
use rustix::io::Errno;
use sluicegate_process::resources::are_exhausted;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use exchange::{Exchange, Seen};
use patience::Times;
use pool::{Pool, PoolKey};
use reading::Reading;

/// Makes the connection of one attempt, or takes one that waits.
#[derive(Debug)]
pub struct Connection {
    pool: Arc<Pool>,
    key: PoolKey,
    limit: Duration,
    times: Times,
    fresh: bool,
    reading: Reading,
    greeting: Option<Vec<u8>>,
    seen: Arc<Seen>,
}

impl Connection {
    /// For an endpoint; `limit`: for connecting; `fresh`: none that waits, since one of those has failed the request before.
    pub fn new(pool: Arc<Pool>, key: PoolKey, limit: Duration, times: Times, reading: Reading, fresh: bool) -> Self {
        Connection { pool, key, limit, times, fresh, reading, greeting: None, seen: Arc::default() }
    }

    /// Begins with these bytes, which are of one client: it is used for nobody else.
    pub fn greeting(self, greeting: Option<Vec<u8>>) -> Self {
        Connection { greeting, ..self }
    }

    /// What is to be known of its exchange.
    pub fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    async fn open(&self) -> pingora::Result<TcpStream> {
        let open = async {
            let mut stream = TcpStream::connect(self.key.1).await?;
            if let Some(greeting) = &self.greeting {
                stream.write_all(greeting).await?;
            }
            Ok(stream)
        };
        let opened = tokio::time::timeout(self.limit, open).await;
        let why = |kind: ErrorType| move |error: io::Error| Error::because(kind, "connecting to an endpoint", error);
        let stream = match opened {
            Err(_) => return Error::e_explain(ErrorType::ConnectTimedout, "connecting to an endpoint"),
            Ok(Err(error)) => return Err(why(kind_of(&error))(error)),
            Ok(Ok(stream)) => stream,
        };
        // Without the option requests are only slower.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// Whether an error is the gateway's own machine's, and no endpoint's.
pub fn is_local(error: &io::Error) -> bool {
    are_exhausted(error) || Errno::from_io_error(error) == Some(Errno::ADDRNOTAVAIL)
}

/// Errors of the gateway's own machine are told apart from those of the endpoint.
fn kind_of(error: &io::Error) -> ErrorType {
    match Errno::from_io_error(error) {
        _ if are_exhausted(error) => ErrorType::SocketError,
        Some(Errno::ADDRNOTAVAIL) => ErrorType::BindError,
        Some(Errno::CONNREFUSED) => ErrorType::ConnectRefused,
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH) => ErrorType::ConnectNoRoute,
        _ => ErrorType::ConnectError,
    }
}

#[async_trait]
impl Connect for Connection {
    async fn connect(&self, _: &EngineAddress) -> pingora::Result<Stream> {
        let is_own = self.greeting.is_some();
        let waiting = if self.fresh || is_own { None } else { self.pool.take(&self.key) };
        let stream = match waiting {
            Some(stream) => {
                self.seen.reuse();
                stream
            }
            None => self.open().await?,
        };
        let (times, reading) = (self.times, self.reading.clone());
        let exchange = Exchange::new(stream, times, reading, self.seen.clone(), self.pool.clone(), self.key);
        let exchange = exchange.used_once(is_own);
        Ok(VirtualSocketStream::new(Box::new(exchange)).into())
    }
}
