//! Small clients: HTTP/1 over plain sockets and OpenSSL, byte for byte as the test says, and HTTP/2 through the h2 crate.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use openssl::ssl::{Ssl, SslConnector, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::X509;

use crate::harness::PATIENCE;

/// A response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// First value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// What an echo backend says about the request's field; all values.
    pub fn echoed(&self, name: &str) -> Vec<String> {
        let json = self.json();
        let headers = json["headers"].as_array().expect("headers").iter();
        headers.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
    }
}

/// Anything bytes go over.
pub trait Transport: Read + Write {}
impl<T: Read + Write> Transport for T {}

/// An HTTP/1 connection.
pub struct Connection<T = TcpStream> {
    pub stream: T,
    buffer: Vec<u8>,
}

/// Connects, with a limit on every read.
pub fn connect(address: SocketAddr) -> Connection {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    Connection { stream, buffer: Vec::new() }
}

impl Connection {
    /// Over a connection that is there.
    pub fn over(stream: TcpStream) -> Connection {
        Connection { stream, buffer: Vec::new() }
    }
}

/// A TLS client: verifies nothing, so that a test can look at what it got.
pub struct Tls {
    alpn: Option<&'static [u8]>,
    configure: Option<fn(&mut openssl::ssl::SslConnectorBuilder)>,
}

impl Tls {
    pub fn new() -> Tls {
        Tls { alpn: None, configure: None }
    }

    pub fn configure(self, configure: fn(&mut openssl::ssl::SslConnectorBuilder)) -> Tls {
        Tls { configure: Some(configure), ..self }
    }

    pub fn alpn(self, protocols: &'static [u8]) -> Tls {
        Tls { alpn: Some(protocols), ..self }
    }

    fn ssl(&self, name: Option<&str>) -> Ssl {
        let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        if let Some(alpn) = self.alpn {
            builder.set_alpn_protos(alpn).unwrap();
        }
        if let Some(configure) = self.configure {
            configure(&mut builder);
        }
        let mut config = builder.build().configure().unwrap();
        config.set_verify_hostname(false);
        config.set_use_server_name_indication(name.is_some());
        config.into_ssl(name.unwrap_or("none")).unwrap()
    }

    /// Connects; `name`: the SNI.
    pub fn try_connect(
        &self,
        address: SocketAddr,
        name: Option<&str>,
    ) -> Result<Connection<SslStream<TcpStream>>, String> {
        self.try_over(connect(address).stream, name)
    }

    /// Over a connection that is there.
    pub fn try_over(&self, tcp: TcpStream, name: Option<&str>) -> Result<Connection<SslStream<TcpStream>>, String> {
        let mut stream = SslStream::new(self.ssl(name), tcp).map_err(|error| error.to_string())?;
        stream.connect().map_err(|error| error.to_string())?;
        Ok(Connection { stream, buffer: Vec::new() })
    }

    pub fn connect(&self, address: SocketAddr, name: Option<&str>) -> Connection<SslStream<TcpStream>> {
        self.try_connect(address, name).unwrap()
    }
}

impl Connection<SslStream<TcpStream>> {
    /// The certificate that the server showed.
    pub fn certificate(&self) -> X509 {
        self.stream.ssl().peer_certificate().unwrap()
    }

    /// DNS names in it.
    pub fn certificate_names(&self) -> Vec<String> {
        let names = self.certificate().subject_alt_names();
        names.iter().flatten().filter_map(|name| name.dnsname().map(str::to_owned)).collect()
    }
}

impl<T: Transport> Connection<T> {
    /// Writes bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self.stream.flush().unwrap();
    }

    /// Sends a request without a body.
    pub fn request(&mut self, method: &str, host: &str, target: &str, fields: &[(&str, &str)]) -> Response {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
        self.read(method == "HEAD")
    }

    fn fill(&mut self) -> usize {
        let mut chunk = [0; 16 * 1024];
        let count = self
            .stream
            .read(&mut chunk)
            .unwrap_or_else(|error| panic!("read: {error}; had {:?}", String::from_utf8_lossy(&self.buffer)));
        self.buffer.extend_from_slice(&chunk[..count]);
        count
    }

    /// Reads until `end` is in the buffer; returns what stands before and with it.
    fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(place) = self.buffer.windows(end.len()).position(|window| window == end) {
                return self.buffer.drain(..place + end.len()).collect();
            }
            assert!(self.fill() > 0, "closed early; had {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill() > 0, "closed after {} of {count} bytes", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    /// Reads a head only.
    pub fn read_head(&mut self) -> Response {
        let head = String::from_utf8(self.until(b"\r\n\r\n")).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let mut status = lines.next().unwrap().splitn(3, ' ');
        assert!(status.next().unwrap().starts_with("HTTP/1."), "{head}");
        let status = status.next().unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Response { status, headers, body: Vec::new() }
    }

    /// Reads a response; `head`: it has no body, whatever it says.
    pub fn read(&mut self, head: bool) -> Response {
        let mut response = self.read_head();
        if head || matches!(response.status, 100..=199 | 204 | 304) {
            return response;
        }
        response.body = if response.header("transfer-encoding") == Some("chunked") {
            self.chunks()
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().unwrap();
            self.exactly(length)
        } else {
            while self.fill() > 0 {}
            std::mem::take(&mut self.buffer)
        };
        response
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = String::from_utf8(self.until(b"\r\n")).unwrap();
            let size = usize::from_str_radix(line.trim().split(';').next().unwrap(), 16).unwrap();
            if size == 0 {
                while self.until(b"\r\n") != b"\r\n" {}
                return body;
            }
            body.extend(self.exactly(size));
            assert_eq!(self.exactly(2), b"\r\n");
        }
    }

    /// Reads some bytes, at least one.
    pub fn some(&mut self, count: usize) -> Vec<u8> {
        self.exactly(count)
    }

    /// Whether the other side closes without sending more. Silence is no closing.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let closed = match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        };
        self.buffer.is_empty() && closed
    }
}

/// One plain request on a connection of its own.
pub fn get(address: SocketAddr, host: &str, target: &str) -> Response {
    request(address, "GET", host, target, &[])
}

/// One plain request with a method and fields.
pub fn request(address: SocketAddr, method: &str, host: &str, target: &str, fields: &[(&str, &str)]) -> Response {
    connect(address).request(method, host, target, &[fields, &[("Connection", "close")]].concat())
}

/// Raw bytes in, one response out.
pub fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Response {
    let mut connection = connect(address);
    connection.send(bytes);
    connection.read(false)
}

/// One request over TLS with HTTP/1.1.
pub fn get_tls(address: SocketAddr, host: &str, target: &str) -> Response {
    Tls::new().connect(address, Some(host)).request("GET", host, target, &[("Connection", "close")])
}

/// HTTP/2 over TLS.
pub mod h2c {
    use std::future::Future;

    use bytes::Bytes;
    use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
    use tokio::net::TcpStream;

    use super::{PATIENCE, Response, SocketAddr};

    /// A client connection.
    pub type Client = h2::client::SendRequest<Bytes>;

    /// Runs a test's HTTP/2 part.
    pub fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("HTTP/2 in time") })
    }

    /// Connects with ALPN h2; the second value resolves when the connection ends.
    pub async fn connect(address: SocketAddr, name: &str) -> (Client, tokio::task::JoinHandle<Result<(), h2::Error>>) {
        let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_alpn_protos(b"\x02h2").unwrap();
        let mut config = builder.build().configure().unwrap();
        config.set_verify_hostname(false);
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut stream = tokio_openssl::SslStream::new(config.into_ssl(name).unwrap(), tcp).unwrap();
        std::pin::Pin::new(&mut stream).connect().await.unwrap();
        assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&b"h2"[..]));
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        (client.ready().await.unwrap(), tokio::spawn(connection))
    }

    /// Sends a request with a body in chunks and optional trailers; reads the response and its trailers.
    pub async fn exchange(
        client: &mut Client,
        request: http::Request<()>,
        body: Vec<Bytes>,
        trailers: Option<http::HeaderMap>,
    ) -> Result<(Response, Option<http::HeaderMap>), h2::Error> {
        let ends = body.is_empty() && trailers.is_none();
        let (response, mut stream) = client.send_request(request, ends)?;
        let last = body.len();
        for (index, chunk) in body.into_iter().enumerate() {
            stream.send_data(chunk, trailers.is_none() && index + 1 == last)?;
        }
        if let Some(trailers) = trailers {
            stream.send_trailers(trailers)?;
        }
        let response = response.await?;
        let (parts, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = incoming.data().await {
            let chunk = chunk?;
            let _ = incoming.flow_control().release_capacity(chunk.len());
            body.extend_from_slice(&chunk);
        }
        let trailers = incoming.trailers().await?;
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        Ok((Response { status: parts.status.as_u16(), headers, body }, trailers))
    }

    /// A `GET`.
    pub async fn get(client: &mut Client, url: &str) -> Response {
        let request = http::Request::get(url).body(()).unwrap();
        exchange(client, request, Vec::new(), None).await.unwrap().0
    }
}
