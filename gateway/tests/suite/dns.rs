//! A DNS server.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// What a name has.
pub enum Found {
    Address(IpAddr),
    /// Another name (CNAME), which a client has to ask for.
    Alias(String),
}

impl From<IpAddr> for Found {
    fn from(ip: IpAddr) -> Self {
        Found::Address(ip)
    }
}

/// A DNS server: `resolve` gives the address or alias of a name, with a TTL of one second. A name without an address of the family
/// that is asked for has none; where it has none at all, the server fails.
pub fn dns_server<F: Into<Found>>(resolve: impl Fn(&str) -> Option<F> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query) {
            let (name, question_end) = question(&query[..length]);
            let known = resolve(&name).map(Into::into);
            let answer = match (&known, u16::from_be_bytes([query[question_end - 4], query[question_end - 3]])) {
                (Some(Found::Address(IpAddr::V4(ip))), 1) => Some((1, ip.octets().to_vec())),
                (Some(Found::Address(IpAddr::V6(ip))), 28) => Some((28, ip.octets().to_vec())),
                (Some(Found::Alias(name)), _) => Some((5, labels(name))),
                _ => None,
            };
            let server_failure = if known.is_none() { 2 } else { 0 };
            let mut reply = query[..question_end].to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x80 | server_failure]);
            reply[6..12].copy_from_slice(&[0, u8::from(answer.is_some()), 0, 0, 0, 0]);
            if let Some((kind, data)) = answer {
                reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 1, 0, data.len() as u8]);
                reply.extend(data);
            }
            let _ = socket.send_to(&reply, peer);
        }
    });
    address
}

fn labels(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    name.split('.').flat_map(label).chain([0]).collect()
}

/// The name that a DNS query asks for, and where its question ends.
fn question(query: &[u8]) -> (String, usize) {
    let (mut labels, mut place) = (Vec::new(), 12);
    while query[place] != 0 {
        let end = place + 1 + usize::from(query[place]);
        labels.push(String::from_utf8_lossy(&query[place + 1..end]).to_ascii_lowercase());
        place = end;
    }
    (labels.join("."), place + 5)
}
