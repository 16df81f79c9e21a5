//! A backend that costs little: 128 bytes for everything, 16 KiB for `/medium`, a megabyte for `/large`, and nothing for `/slow`, which it never
//! answers, nor for `/stuck`, of which it takes nothing either.

use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};

use super::apart::Apart;

/// Shared by all: attackers leave many of them unread.
static BODY: [u8; 1 << 20] = [b'x'; 1 << 20];

/// Where it is; one for all attacks.
pub fn address() -> SocketAddr {
    static BACKEND: LazyLock<(SocketAddr, Mutex<Apart>)> = LazyLock::new(|| {
        let mut process = Apart::start("backend", "");
        (process.says().parse().unwrap(), Mutex::new(process))
    });
    BACKEND.0
}

/// Serves, on a thread.
pub fn run() -> SocketAddr {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        super::high_priority(super::Priority::Backend);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            loop {
                // Out of descriptors: a connection less is no reason to end.
                let Ok((stream, _)) = listener.accept().await else { continue };
                // Thousands of answers that are not read would fill what the kernel has for TCP: both sides are here.
                let _ = socket2::SockRef::from(&stream).set_send_buffer_size(32 * 1024);
                tokio::spawn(serve(stream));
            }
        });
    });
    receive.recv().unwrap()
}

/// Takes nothing, until the other side has given up: this interest is in its end, and in no data before it.
async fn until_over(stream: &TcpStream) {
    let _ = stream.ready(Interest::PRIORITY).await;
}

async fn serve(mut stream: TcpStream) {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 4096]);
    loop {
        let Ok(count @ 1..) = stream.read(&mut chunk).await else { return };
        bytes.extend_from_slice(&chunk[..count]);
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let target = bytes.split(|byte| *byte == b' ').nth(1).unwrap_or_default().to_vec();
            let chunked = bytes[..end].windows(9).any(|window| window == b": chunked");
            bytes.drain(..end + 4);
            let body = match &target[..] {
                b"/slow" => {
                    // Takes what comes, and says nothing.
                    while matches!(stream.read(&mut chunk).await, Ok(1..)) {}
                    return;
                }
                b"/stuck" => return until_over(&stream).await,
                b"/large" => BODY.len(),
                b"/medium" => 16 * 1024,
                _ => 128,
            };
            // Bodies of requests are for /slow alone.
            if chunked {
                return;
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
            let begin = body.min(128);
            if stream.write_all(&[head.as_bytes(), &BODY[..begin]].concat()).await.is_err()
                || stream.write_all(&BODY[begin..body]).await.is_err()
            {
                return;
            }
        }
    }
}
