//! The same gateway through hyper, a client library that checks framing on its own.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use tokio::net::TcpStream;

use crate::backends::{echo, everything_to};
use crate::client::h2c;
use crate::harness::Start;

/// A body of so many chunks of 1,000 bytes, without a length.
fn chunked(chunks: usize) -> impl hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static {
    let frames = (0..chunks).map(|_| Ok(Frame::data(Bytes::from_static(&[b'x'; 1_000]))));
    StreamBody::new(futures_util::stream::iter(frames))
}

#[test]
fn http_1_keeps_one_connection_for_bodies_of_all_kinds() {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    h2c::run(async {
        let stream = TokioIo::new(TcpStream::connect(gateway.http).await.unwrap());
        let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for (method, chunks) in [("POST", 50), ("PUT", 0), ("PATCH", 3)] {
            let request = http::Request::builder().method(method).uri("/x").header("host", "a.test");
            client.ready().await.unwrap();
            let response = client.send_request(request.body(chunked(chunks)).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (json["method"].as_str(), json["bodyBytes"].as_u64()),
                (Some(method), Some(chunks as u64 * 1_000))
            );
        }
    });
    gateway.wait_metric("sluicegate_connections_accepted_total", &["\"http\""], 1.0);
}

#[test]
fn http_2_runs_requests_side_by_side() {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    h2c::run(async {
        let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_alpn_protos(b"\x02h2").unwrap();
        let ssl = builder.build().configure().unwrap().verify_hostname(false).into_ssl("a.test").unwrap();
        let tcp = TcpStream::connect(gateway.https).await.unwrap();
        let mut stream = tokio_openssl::SslStream::new(ssl, tcp).unwrap();
        std::pin::Pin::new(&mut stream).connect().await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (client, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let requests = (0..30).map(|number| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let url = format!("https://a.test/{number}?bytes=20000");
                let request = http::Request::get(url).body(Full::new(Bytes::new())).unwrap();
                let response = client.send_request(request).await.unwrap();
                response.into_body().collect().await.unwrap().to_bytes().len()
            })
        });
        for request in requests.collect::<Vec<_>>() {
            assert_eq!(request.await.unwrap(), 20_000);
        }
    });
}
