//! The backends of the recording: `echo1` to `echo12` on addresses of their own, the same ports on each. They journal what
//! they get.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a backend got.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub backend: String,
    pub target: String,
    pub method: String,
    pub port: u16,
}

/// All backends.
pub struct Echoes {
    journal: Arc<Mutex<Vec<Seen>>>,
}

impl Echoes {
    /// Starts them on 127.0.1.1 to .12, ports 8080 and 8081.
    pub fn start() -> Echoes {
        let echoes = Echoes { journal: Arc::default() };
        for number in 1..=12 {
            for port in [8080, 8081] {
                let address = SocketAddr::from(([127, 0, 1, number], port));
                let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
                let journal = echoes.journal.clone();
                std::thread::spawn(move || {
                    for stream in listener.incoming().map_while(Result::ok) {
                        let journal = journal.clone();
                        std::thread::spawn(move || serve(stream, &format!("echo{number}"), port, &journal));
                    }
                });
            }
        }
        echoes
    }

    /// What they got since the last call, sorted as the recording is.
    pub fn take(&self) -> Vec<Seen> {
        let mut seen = std::mem::take(&mut *self.journal.lock().unwrap());
        seen.sort();
        seen
    }
}

/// Serves a connection's requests until it closes.
fn serve(stream: TcpStream, name: &str, port: u16, journal: &Mutex<Vec<Seen>>) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some((line, fields)) = head(&mut reader) {
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let length = field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        if field("transfer-encoding").is_some() {
            skip_chunks(&mut reader);
        }
        let seen = Seen { backend: name.to_owned(), target: target.to_owned(), method: method.to_owned(), port };
        journal.lock().unwrap().push(seen);
        let text = "{}";
        let body = if method == "HEAD" { "" } else { text };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nX-Backend: {name}\r\n\r\n{body}",
            text.len()
        );
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Request line and fields, names in lower case.
fn head(reader: &mut impl BufRead) -> Option<(String, Vec<(String, String)>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let fields = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Some((lines.first()?.clone(), fields))
}

fn skip_chunks(reader: &mut impl BufRead) {
    loop {
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        let mut chunk = vec![0; size + 2];
        if reader.read_exact(&mut chunk).is_err() || size == 0 {
            return;
        }
    }
}
