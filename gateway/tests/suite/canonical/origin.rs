//! A backend that records all it is sent, judged strictly.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::strict::{self, Judged, Message};

/// What was recorded.
#[derive(Debug)]
pub enum Record {
    /// A request, as a strict reader takes it.
    Whole(Arc<Message>),
    /// Bytes that a strict reader does not take.
    Dirty(String, Vec<u8>),
}

/// See the module.
pub struct Origin {
    pub address: SocketAddr,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Origin {
    pub fn start() -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let records = Arc::new(Mutex::new(Vec::new()));
        let into = records.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let into = into.clone();
                std::thread::spawn(move || serve(stream, &into));
            }
        });
        Origin { address, records }
    }

    /// The requests of a client that were recorded.
    pub fn of(&self, client: IpAddr) -> Vec<Arc<Message>> {
        let records = self.records.lock().unwrap();
        let of_client = |record: &Record| match record {
            Record::Whole(message) if message.client() == Some(client) => Some(message.clone()),
            _ => None,
        };
        records.iter().filter_map(of_client).collect()
    }

    /// What was recorded that is none.
    pub fn dirty(&self) -> Vec<String> {
        let records = self.records.lock().unwrap();
        let of_record = |record: &Record| match record {
            Record::Dirty(why, bytes) => Some(format!("{why}: {:?}", String::from_utf8_lossy(bytes))),
            Record::Whole(_) => None,
        };
        records.iter().filter_map(of_record).collect()
    }
}

fn serve(mut stream: TcpStream, records: &Mutex<Vec<Record>>) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 64 * 1024]);
    loop {
        match strict::judge(&bytes) {
            Judged::Whole(message, length) => {
                bytes.drain(..length);
                let body = if message.method == "HEAD" { "" } else { "ok" };
                records.lock().unwrap().push(Record::Whole(Arc::from(message)));
                if stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}").as_bytes()).is_err() {
                    return;
                }
            }
            Judged::Dirty(why) => {
                records.lock().unwrap().push(Record::Dirty(why, bytes));
                // Who sends such a thing may get any answer.
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                return;
            }
            Judged::Partial => match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            },
        }
    }
}
