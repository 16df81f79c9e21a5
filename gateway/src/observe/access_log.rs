//! The access log: one JSON line a request. Workers hand lines to a writer thread over a bounded queue; when the disk is
//! slow, lines are lost and counted, requests are not.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde::Serialize;

use super::refused_head::RefusedHead;
use crate::clock;
use crate::phase::canonical::Refused;
use crate::phase::{Connection, Reason};
use crate::settings::AccessLogSettings;

/// Lines that may wait for the writer.
const QUEUE: usize = 8192;

/// A line of the log.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line<'a> {
    /// Unix time of the request's head, seconds with milliseconds.
    pub time: f64,
    /// Id that the backend got and that the gateway's own answers tell; absent where TLS is passed through.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_id: &'a str,
    /// Client's address.
    pub client: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// HTTP version.
    pub protocol: &'static str,
    /// Method.
    pub method: &'a str,
    /// Normalised host; as it is written where the head was refused.
    pub host: &'a str,
    /// Target as forwarded.
    pub target: String,
    /// First line of a head that was refused, as it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_line: Option<&'a str>,
    /// Status; 0: none was sent.
    pub status: u16,
    /// Why.
    pub reason: &'static str,
    /// What is wrong with a request that was refused, or with a backend's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'static str>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Milliseconds from the head of the request to the end of the response.
    pub duration_ms: f64,
    /// Milliseconds until the backend's response head; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    /// Ingress of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
    /// Class of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<&'a str>,
    /// Path of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// Backend of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Endpoint that was asked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Attempts before the last one.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// User agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<&'a str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl<'a> Line<'a> {
    /// The line of a request whose head was refused.
    pub fn unparsed(connection: Connection, refused: &Refused, request_id: &'a str, head: &'a RefusedHead) -> Line<'a> {
        let told = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        Line {
            request_id,
            protocol: head.protocol,
            host: &head.host,
            request_line: told(&head.request_line),
            detail: Some(refused.detail),
            user_agent: told(&head.user_agent),
            ..Line::of_connection(connection, refused.reason)
        }
    }

    /// What is known of a connection that has no request, or none yet.
    pub fn of_connection(connection: Connection, reason: Reason) -> Line<'a> {
        Line {
            time: clock::unix_millis(),
            request_id: "",
            client: connection.peer.to_string(),
            scheme: connection.scheme.as_str(),
            protocol: "",
            method: "",
            host: "",
            target: String::new(),
            request_line: None,
            status: reason.status(),
            reason: reason.as_str(),
            detail: None,
            bytes_in: 0,
            bytes_out: 0,
            duration_ms: 0.0,
            upstream_ms: None,
            ingress: None,
            class: None,
            path: None,
            backend: None,
            upstream: None,
            retries: 0,
            user_agent: None,
        }
    }
}

enum Message {
    Line(Vec<u8>),
    Reopen,
    /// Everything before it is to be written, then this is answered.
    Close(SyncSender<()>),
}

/// How long the writer lets lines collect when it has written all of them; one that comes later is written at once.
const BATCH: Duration = Duration::from_millis(10);

/// Longest time that the end of the process waits for the last lines.
const CLOSING_LIMIT: Duration = Duration::from_secs(2);

/// The log, or nothing where it is off.
pub struct AccessLog {
    sender: Option<SyncSender<Message>>,
    sample: f64,
    per_reason: u32,
    windows: Vec<Window>,
    lost: AtomicU64,
}

/// The lines of one reason in one second.
#[derive(Debug, Default)]
struct Window {
    /// The second, above the number of lines in it.
    current: AtomicU64,
    suppressed: AtomicU64,
}

impl Window {
    /// Counts a line in this second; false: there are as many as there may be.
    fn admits(&self, second: u64, most: u32) -> bool {
        let now = second << 32;
        let next = |current: u64| if current & !0xffff_ffff == now { current + 1 } else { now + 1 };
        let counted = self.current.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |current| Some(next(current)));
        let count = counted.map_or(1, next) & 0xffff_ffff;
        let admits = count <= u64::from(most);
        if !admits {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        admits
    }
}

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be started.
    pub fn open(settings: &AccessLogSettings) -> io::Result<Self> {
        let log = AccessLog {
            sender: None,
            sample: settings.sample,
            per_reason: settings.per_reason,
            windows: Reason::ALL.iter().map(|_| Window::default()).collect(),
            lost: AtomicU64::new(0),
        };
        if !settings.enabled {
            return Ok(log);
        }
        let output = Output::open(settings.path.as_ref())?;
        let (sender, receiver) = sync_channel(QUEUE);
        let path = settings.path.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(output, &receiver, path.as_ref()))?;
        Ok(AccessLog { sender: Some(sender), ..log })
    }

    /// Whether a request is to be logged. What did not simply succeed always is, up to so many lines a second for each reason: whoever is
    /// refused often must not fill the disk.
    pub fn wants(&self, reason: Reason, status: u16) -> bool {
        if self.sender.is_none() {
            return false;
        }
        let served = matches!(
            reason,
            Reason::Upstream | Reason::StaticFile | Reason::NotModified | Reason::TlsRedirect | Reason::Healthy
        );
        if served && status < 500 {
            return self.sample >= 1.0 || rand::random::<f64>() < self.sample;
        }
        self.per_reason == 0 || self.windows[reason as usize].admits(clock::now_ms() / 1000, self.per_reason)
    }

    /// Lines that were not written because of how many others there were, by reason.
    pub fn suppressed(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self.windows.iter().map(|window| window.suppressed.load(Ordering::Relaxed));
        Reason::ALL.iter().copied().zip(counts).filter(|(_, count)| *count > 0)
    }

    /// Writes a line, or counts it as lost.
    pub fn write(&self, line: &Line<'_>) {
        let Some(sender) = &self.sender else { return };
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        if matches!(sender.try_send(Message::Line(text)), Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the file again, after it was rotated. Waits for a place in the queue; do not call it on a worker.
    pub fn reopen(&self) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(Message::Reopen);
        }
    }

    /// Writes what waits, within two seconds. For the end of the process.
    pub fn close(&self) {
        let Some(sender) = &self.sender else { return };
        let (done, written) = sync_channel(1);
        if sender.try_send(Message::Close(done)).is_ok() {
            let _ = written.recv_timeout(CLOSING_LIMIT);
        }
    }

    /// Lines lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

type Output = Box<dyn Write + Send>;

trait OpenOutput {
    fn open(path: Option<&PathBuf>) -> io::Result<Output>;
}

impl OpenOutput for Output {
    fn open(path: Option<&PathBuf>) -> io::Result<Output> {
        Ok(match path {
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                let why = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                Box::new(BufWriter::new(file.map_err(why)?))
            }
            None => Box::new(BufWriter::new(io::stdout())),
        })
    }
}

fn write_lines(mut output: Output, receiver: &Receiver<Message>, path: Option<&PathBuf>) {
    loop {
        let message = match receiver.try_recv() {
            Ok(message) => message,
            // Nothing waits: what was written goes out before the thread sleeps.
            Err(_) => {
                let _ = output.flush();
                // Whoever sends to a thread that waits has to wake it, and each line would be a write of its own.
                std::thread::park_timeout(BATCH);
                match receiver.recv_timeout(Duration::from_secs(3600)) {
                    Ok(message) => message,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        match message {
            Message::Line(line) => drop(output.write_all(&line)),
            Message::Close(done) => {
                let _ = output.flush();
                let _ = done.send(());
            }
            Message::Reopen => match Output::open(path) {
                Ok(new) => output = new,
                Err(error) => tracing::error!(%error, "access log cannot be opened again; the old file is written on"),
            },
        }
    }
}
