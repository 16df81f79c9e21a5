//! Honest traffic: requests at a rate, over HTTP, HTTPS and HTTP/2, on connections that are kept.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::time::timeout;

use super::apart::Apart;
use super::tls;
use crate::client::h2c;
use crate::harness::Gateway;

/// How long an answer is waited for before it counts as none.
const LIMIT: Duration = Duration::from_secs(10);

/// Clients of each kind.
const CLIENTS: [(Kind, u32); 3] = [(Kind::Http, 16), (Kind::Https, 8), (Kind::Http2, 8)];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Http,
    Https,
    Http2,
}

/// What became of the requests.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub sent: usize,
    pub failed: usize,
    /// Those that were sent once more, since a connection that was kept had ended, or had refused them.
    pub repeated: usize,
    /// From when a request was sent to the end of its answer, sorted, but for the first one of each client. Those count as well that would have
    /// been sent while their client waited for another one: as if each had waited from when it was due.
    times: Vec<Duration>,
    /// The first failures.
    pub why: Vec<String>,
}

impl Outcome {
    /// All of them together.
    pub fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Outcome {
        let mut all = Outcome::default();
        for more in outcomes {
            all.sent += more.sent;
            all.failed += more.failed;
            all.repeated += more.repeated;
            all.times.extend_from_slice(&more.times);
            all.why.extend_from_slice(&more.why);
        }
        all.times.sort_unstable();
        all
    }

    /// The time within which so many of a thousand were answered.
    fn within(&self, of_thousand: usize) -> Duration {
        self.times.get(self.times.len().saturating_sub(1) * of_thousand / 1000).copied().unwrap_or(LIMIT)
    }

    /// The time within which 99 of 100 were answered.
    pub fn p99(&self) -> Duration {
        self.within(990)
    }

    /// The times of half of them, 99 of 100, 999 of 1000, and all, in milliseconds.
    pub fn spread(&self) -> String {
        let times = [500, 990, 999, 1000].map(|of_thousand| self.within(of_thousand).as_secs_f64() * 1e3);
        let [half, most, nearly_all, all] = times.map(|time| format!("{time:.2}"));
        format!("p99 {most} ms (p50 {half}, p99.9 {nearly_all}, most {all})")
    }

    fn to_line(&self) -> String {
        let times: Vec<_> =
            self.times.iter().map(Duration::as_micros).map(|micros| u64::try_from(micros).unwrap()).collect();
        json!([self.sent, self.failed, self.repeated, times, self.why]).to_string()
    }

    fn parse(line: &str) -> Outcome {
        let (sent, failed, repeated, times, why): (_, _, _, Vec<u64>, _) = serde_json::from_str(line).unwrap();
        Outcome { sent, failed, repeated, times: times.into_iter().map(Duration::from_micros).collect(), why }
    }

    /// Share of requests that were answered with 200.
    pub fn success(&self) -> f64 {
        1.0 - self.failed as f64 / self.sent as f64
    }
}

/// Sends so many requests a second for so long: one turn. Clients begin evenly spread, and each waits for its answer.
pub fn traffic(gateway: &Gateway, per_second: u32, duration: Duration) -> Outcome {
    let arguments = format!("{} {} {per_second} {}", gateway.http, gateway.https, duration.as_millis());
    Outcome::parse(&Apart::start("honest", &arguments).says())
}

/// Does so, with what [`traffic`] gives.
pub fn run(arguments: &str) -> String {
    let arguments: Vec<_> = arguments.split(' ').collect();
    let [http, https, per_second, millis] = arguments[..] else { panic!("{arguments:?}") };
    let duration = Duration::from_millis(millis.parse().unwrap());
    send(http.parse().unwrap(), https.parse().unwrap(), per_second.parse().unwrap(), duration).to_line()
}

fn send(http: SocketAddr, https: SocketAddr, per_second: u32, duration: Duration) -> Outcome {
    super::high_priority(super::Priority::Honest);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let results = Arc::new(Mutex::new(Outcome::default()));
    runtime.block_on(async {
        let count: u32 = CLIENTS.iter().map(|(_, count)| count).sum();
        let every = Duration::from_secs(1) * count / per_second;
        let all_are_there = Arc::new(Barrier::new(count as usize));
        let kinds = CLIENTS.iter().flat_map(|(kind, count)| (0..*count).map(move |_| *kind));
        let clients: Vec<_> = (0..)
            .zip(kinds)
            .map(|(number, kind)| {
                let address = if matches!(kind, Kind::Http) { http } else { https };
                let client = Client { kind, address, connection: None, results: results.clone() };
                let there = all_are_there.clone();
                tokio::spawn(client.run(there, every * number / count, every, duration))
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
    });
    let mut outcome = results.lock().unwrap().clone();
    outcome.times.sort_unstable();
    outcome
}

/// One that waits for its answer before it asks again.
struct Client {
    kind: Kind,
    address: SocketAddr,
    connection: Option<Connection>,
    results: Arc<Mutex<Outcome>>,
}

impl Client {
    /// Asks once; then, when all have done so, so long, one time in `every`, first after `first`.
    async fn run(mut self, all_are_there: Arc<Barrier>, first: Duration, every: Duration, duration: Duration) {
        // All make their connections at once, and compute that one after another: that is waited for, and not timed.
        self.ask().await;
        all_are_there.wait().await;
        let start = Instant::now();
        let (mut due, end) = (start + first, start + duration);
        while due < end {
            tokio::time::sleep_until(due.into()).await;
            let begun = Instant::now();
            let answered = self.ask().await;
            let mut results = self.results.lock().unwrap();
            if answered {
                results.times.push(begun.elapsed());
            }
            // Who is late does not make up for it, that would be more than the rate; but those that it has left out have waited as well.
            let now = Instant::now();
            due += every;
            while due < now.min(end) {
                results.times.push(now - due);
                due += every;
            }
        }
    }

    /// One request; whether it was answered.
    async fn ask(&mut self) -> bool {
        let mut repeated = 0;
        let asked = timeout(LIMIT, ask(self.kind, self.address, &mut self.connection, &mut repeated)).await;
        let answered = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut results = self.results.lock().unwrap();
        results.sent += 1;
        results.repeated += repeated;
        if let Err(error) = &answered {
            self.connection = None;
            results.failed += 1;
            if results.why.len() < 5 {
                results.why.push(format!("{:?}: {error}", self.kind));
            }
        }
        answered.is_ok()
    }
}

enum Connection {
    Http(TcpStream),
    Https(Box<tokio_openssl::SslStream<TcpStream>>),
    Http2(h2c::Client),
}

/// Sends a request. One that fails on a kept connection before any of its answer came is sent once more, as browsers do it.
async fn ask(kind: Kind, address: SocketAddr, kept: &mut Option<Connection>, repeated: &mut usize) -> io::Result<()> {
    if let Some(mut connection) = kept.take() {
        match exchange(&mut connection).await {
            Ok(keeps) => {
                *kept = keeps.then_some(connection);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
            Err(_) => *repeated += 1,
        }
    }
    let mut connection = connect(kind, address).await?;
    let keeps = exchange(&mut connection).await?;
    *kept = keeps.then_some(connection);
    Ok(())
}

async fn connect(kind: Kind, address: SocketAddr) -> io::Result<Connection> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    if matches!(kind, Kind::Http) {
        return Ok(Connection::Http(tcp));
    }
    let alpn: &[u8] = if matches!(kind, Kind::Http2) { b"\x02h2" } else { b"\x08http/1.1" };
    let mut stream = tokio_openssl::SslStream::new(tls(alpn), tcp)?;
    std::pin::Pin::new(&mut stream).connect().await.map_err(io::Error::other)?;
    if matches!(kind, Kind::Https) {
        return Ok(Connection::Https(Box::new(stream)));
    }
    let (client, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(Connection::Http2(client.ready().await.map_err(io::Error::other)?))
}

/// One request; whether the connection is kept. [`io::ErrorKind::InvalidData`]: it was answered, and not well.
async fn exchange(connection: &mut Connection) -> io::Result<bool> {
    match connection {
        Connection::Http(stream) => exchange1(stream).await,
        Connection::Https(stream) => exchange1(stream).await,
        Connection::Http2(client) => exchange2(client).await,
    }
}

async fn exchange1(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<bool> {
    stream.write_all(b"GET /honest HTTP/1.1\r\nHost: a.test\r\n\r\n").await?;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 2048]);
    loop {
        let count = stream.read(&mut chunk).await?;
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= 128
        {
            let kept = !head.contains("connection: close");
            let well = head.starts_with("http/1.1 200 ");
            return if well { Ok(kept) } else { Err(io::Error::new(io::ErrorKind::InvalidData, head.to_owned())) };
        }
        if count == 0 {
            let kind = if bytes.is_empty() { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData };
            return Err(io::Error::new(kind, text));
        }
    }
}

async fn exchange2(client: &mut h2c::Client) -> io::Result<bool> {
    let request = http::Request::get("https://a.test/honest").body(()).map_err(io::Error::other)?;
    let (response, _) = client.send_request(request, true).map_err(io::Error::other)?;
    let response = response.await.map_err(io::Error::other)?;
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    if response.status() != 200 {
        return Err(invalid(response.status().to_string()));
    }
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| invalid(error.to_string()))?;
        length += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    if length < 128 { Err(invalid(format!("{length} bytes"))) } else { Ok(true) }
}
