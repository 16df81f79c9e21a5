//! Backends for tests: the echo server, and a scripted one that answers byte for byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// Starts an echo backend on an address (port 0: any); its name is its address.
pub fn echo_on(address: SocketAddr) -> SocketAddr {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind(address).await;
            let listener = listener.unwrap_or_else(|error| panic!("{address}: {error}"));
            let address = listener.local_addr().unwrap();
            send.send(address).unwrap();
            sluicegate::echo::serve(listener, address.to_string().into()).await;
        });
    });
    receive.recv().unwrap()
}

/// Starts an echo backend on a loopback port.
pub fn echo() -> SocketAddr {
    echo_on(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// An address on which nothing listens. The socket is held, so that nobody else gets the port meanwhile.
pub struct Refusing(socket2::Socket, pub SocketAddr);

impl Refusing {
    pub fn new() -> Refusing {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Refusing(socket, address)
    }

    /// Starts to listen, as an echo backend would after a restart.
    pub fn revive(self) -> SocketAddr {
        let address = self.1;
        drop(self.0);
        echo_on(address)
    }
}

/// A backend whose connections a function serves, each on a thread of its own.
pub struct Scripted {
    pub address: SocketAddr,
}

/// A request as a scripted backend sees it.
pub struct Incoming {
    pub head: String,
    pub stream: TcpStream,
    /// Bytes that came with the head.
    pub rest: Vec<u8>,
}

impl Incoming {
    /// Writes bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
        let _ = self.stream.flush();
    }

    /// Reads until the body holds `end`.
    pub fn body_until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut body = std::mem::take(&mut self.rest);
        let mut chunk = [0; 4096];
        while !body.windows(end.len()).any(|window| window == end) {
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(count) => body.extend_from_slice(&chunk[..count]),
            }
        }
        body
    }
}

impl Scripted {
    /// Serves every connection's first request with `serve`; the connection closes afterwards.
    pub fn new(serve: impl Fn(Incoming) + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serve = serve.clone();
                std::thread::spawn(move || {
                    if let Some(incoming) = read_head(stream) {
                        serve(incoming);
                    }
                });
            }
        });
        Scripted { address }
    }

    /// Answers every request with the same bytes.
    pub fn answering(response: &'static str) -> Scripted {
        Scripted::new(move |mut incoming| incoming.send(response))
    }
}

fn read_head(mut stream: TcpStream) -> Option<Incoming> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Some(Incoming { head: String::from_utf8_lossy(&bytes).into_owned(), stream, rest });
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

/// Manifests of a Service with these endpoints, and an Ingress that sends it everything.
pub fn everything_to(endpoints: &[SocketAddr]) -> String {
    let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    format!(
        "{}---\n{}",
        service("web", &list.join(",")),
        ingress("web", "spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}")
    )
}

/// A Service in namespace `default` with endpoints by annotation.
pub fn service(name: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  annotations: {{sluicegate.dev/endpoints: '{endpoints}'}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
    )
}

/// An Ingress in namespace `default` with this spec.
pub fn ingress(name: &str, spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\n{spec}\n")
}

/// An Ingress that sends a host to Service `web`.
pub fn host_to_web(name: &str, host: &str, tls: &str) -> String {
    ingress(
        name,
        &format!(
            "spec:\n  tls: {tls}\n  rules: [{{host: '{host}', http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]"
        ),
    )
}
