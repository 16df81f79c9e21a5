//! `sluicegate echo`: a small backend for the quickstart, for trying things out, and for the tests.
//!
//! It answers every request with a JSON description of it, and the header `x-echo` with its name. Query parameters
//! steer it: `status=503`, `bytes=1000` (a body of that size instead), `delay=200` (milliseconds before the answer).

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpPersistentSettings;
use pingora::http::ResponseHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as L4Stream;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use sluicegate_process::EXIT_BIND;

/// Largest body that `bytes=` makes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Serves until the process ends.
pub fn run(listen: SocketAddr, name: Option<String>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sluicegate: {error}");
            return ExitCode::FAILURE;
        }
    };
    let name = name.unwrap_or_else(|| listen.to_string());
    runtime.block_on(async move {
        match TcpListener::bind(listen).await {
            Ok(listener) => {
                eprintln!("echo {name} listens on {listen}");
                serve(listener, name.into()).await;
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("sluicegate: cannot listen on {listen}: {error}");
                ExitCode::from(EXIT_BIND)
            }
        }
    })
}

/// Answers the connections of a listener.
pub async fn serve(listener: TcpListener, name: Arc<str>) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                // Head and body are two writes: without it the second one waits for an acknowledgement, 40 ms.
                let _ = tcp.set_nodelay(true);
                drop(tokio::spawn(connection(tcp, name.clone())));
            }
            // Out of descriptors: connections have to close first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(tcp: TcpStream, name: Arc<str>) {
    let mut next = Some(Box::new(L4Stream::from(tcp)) as Stream);
    while let Some(stream) = next {
        let mut session = ServerSession::new_http1(stream);
        session.set_keepalive(Some(300));
        if !matches!(session.read_request().await, Ok(true)) || answer(&mut session, &name).await.is_err() {
            return;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        next = match session.finish().await {
            Ok(Some(reusable)) => {
                let reused = pingora::apps::ReusedHttpStream::from_reusable_stream(reusable, settings);
                Some(reused.consume().0)
            }
            _ => None,
        };
    }
}

async fn answer(session: &mut ServerSession, name: &str) -> pingora::Result<()> {
    let mut received = 0;
    while let Some(chunk) = session.read_request_body().await? {
        received += chunk.len();
    }
    let request = session.req_header();
    let query = request.uri.query().unwrap_or_default().to_owned();
    let parameter =
        |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse::<usize>().ok());
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let description = json!({
        "backend": name,
        "method": request.method.as_str(),
        "target": String::from_utf8_lossy(request.raw_path()),
        "headers": headers,
        "bodyBytes": received,
    });
    if let Some(delay) = parameter("delay") {
        tokio::time::sleep(Duration::from_millis(delay.min(60_000) as u64)).await;
    }
    let status =
        parameter("status").and_then(|status| u16::try_from(status).ok()).filter(|status| (200..=599).contains(status));
    let (media_type, body) = match parameter("bytes") {
        Some(bytes) => ("application/octet-stream", vec![b'x'; bytes.min(MAX_BYTES)]),
        None => ("application/json", format!("{description:#}\n").into_bytes()),
    };
    let is_head = request.method == http::Method::HEAD;
    let mut head = ResponseHeader::build(status.unwrap_or(200), Some(4))?;
    head.insert_header("content-type", media_type)?;
    head.insert_header("x-echo", name)?;
    let has_body = !matches!(head.status.as_u16(), 204 | 304);
    if has_body {
        head.insert_header("content-length", body.len())?;
    }
    session.write_response_header(Box::new(head)).await?;
    if has_body && !is_head {
        session.write_response_body(body.into(), true).await?;
    }
    Ok(())
}
