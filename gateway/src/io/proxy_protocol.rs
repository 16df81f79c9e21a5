//! The PROXY protocol, versions 1 and 2, as proxies send it in front of a client's first byte
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>): who the client is.
//!
//! A receiver must not guess whether the header is there (section 2 of the specification): from the networks of `proxyProtocol` it is
//! due, and from nobody else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What one of version 1 begins with.
const V1: &[u8] = b"PROXY ";

/// Bytes of the shortest header: `PROXY UNKNOWN` and its line end. Reading so many never reads what follows a header.
const SHORTEST: usize = 15;

/// Bytes of the longest line of version 1, with its end.
const LONGEST_LINE: usize = 107;

/// Bytes of addresses and extensions that are taken in version 2. The specification allows 65,535; proxies send some hundred.
const LONGEST_BLOCK: usize = 4096;

/// Type of the extension that tells of the client's TLS (2.2.6), and its flag for a client that used it.
const TLV_SSL: u8 = 0x20;
const CLIENT_SSL: u8 = 1;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The proxy's own, to check health.
    Proxy,
    /// A client's, of whom nothing is known.
    Unknown,
    /// A client's.
    Client(Client),
}

/// What a header says of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub source: SocketAddr,
    /// The address that it connected to.
    pub destination: SocketAddr,
    /// It speaks TLS with the proxy.
    pub tls: bool,
}

/// Why there is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The connection ended before its first byte.
    Gone,
    /// What came is none.
    Malformed(&'static str),
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Self {
        Failed::Malformed("it ends too early")
    }
}

/// Reads the header, and nothing behind it.
///
/// # Errors
/// There is none.
pub async fn read(tcp: &mut TcpStream) -> Result<Whose, Failed> {
    let mut start = [0; SHORTEST];
    let mut have = 0;
    while have < SHORTEST {
        match tcp.read(&mut start[have..]).await {
            Ok(0) | Err(_) if have == 0 => return Err(Failed::Gone),
            Ok(0) => return Err(Failed::Malformed("it ends too early")),
            Ok(count) => have += count,
            Err(error) => return Err(error.into()),
        }
        if !begins_as(&start[..have], V1) && !begins_as(&start[..have], SIGNATURE) {
            return Err(Failed::Malformed("there is none"));
        }
    }
    if start.starts_with(V1) { read_line(tcp, &start).await } else { read_block(tcp, &start).await }
}

fn begins_as(bytes: &[u8], pattern: &[u8]) -> bool {
    bytes.iter().zip(pattern).all(|(byte, wanted)| byte == wanted)
}

async fn read_line(tcp: &mut TcpStream, start: &[u8]) -> Result<Whose, Failed> {
    let mut line = start.to_vec();
    while !line.ends_with(b"\n") {
        let mut next = [0; LONGEST_LINE];
        let room = LONGEST_LINE.saturating_sub(line.len());
        if room == 0 {
            return Err(Failed::Malformed("the line is too long"));
        }
        // Only looked at: what follows the line is the client's.
        let seen = tcp.peek(&mut next[..room]).await?;
        let count = next[..seen].iter().position(|byte| *byte == b'\n').map_or(seen, |at| at + 1);
        if count == 0 {
            return Err(Failed::Malformed("it ends too early"));
        }
        tcp.read_exact(&mut next[..count]).await?;
        line.extend_from_slice(&next[..count]);
    }
    version1(&line).map_err(Failed::Malformed)
}

async fn read_block(tcp: &mut TcpStream, start: &[u8; SHORTEST]) -> Result<Whose, Failed> {
    let length = usize::from(u16::from_be_bytes([start[14], tcp.read_u8().await?]));
    if length > LONGEST_BLOCK {
        return Err(Failed::Malformed("it is too long"));
    }
    let mut block = vec![0; length];
    tcp.read_exact(&mut block).await?;
    version2(start[12], start[13], &block).map_err(Failed::Malformed)
}

/// Reads a header of version 1 (section 2.1 of the specification). `line`: with its end.
///
/// # Errors
/// It is none.
pub fn version1(line: &[u8]) -> Result<Whose, &'static str> {
    let text = line.strip_suffix(b"\r\n").ok_or("the line does not end in CR LF")?;
    let text = std::str::from_utf8(text).map_err(|_| "the line is no text")?;
    let mut words = text.split(' ').skip(1);
    let mut word = || words.next().ok_or("an address or a port is missing");
    let family = word()?;
    let (source, destination) = match family {
        // What else stands there has no meaning.
        "UNKNOWN" => return Ok(Whose::Unknown),
        "TCP4" => (address::<Ipv4Addr>(word()?)?, address::<Ipv4Addr>(word()?)?),
        "TCP6" => (address::<Ipv6Addr>(word()?)?, address::<Ipv6Addr>(word()?)?),
        _ => return Err("the protocol is neither TCP4, TCP6 nor UNKNOWN"),
    };
    let (from, to) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err("something follows the ports");
    }
    let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
    Ok(Whose::Client(Client { source, destination, tls: false }))
}

fn address<A: std::str::FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, &'static str> {
    text.parse::<A>().map(Into::into).map_err(|_| "an address is none of the protocol")
}

fn port(text: &str) -> Result<u16, &'static str> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_number).ok_or("a port is none")
}

/// Reads one of version 2 (section 2.2). `command`: with the version in its upper half; `block`: addresses and extensions.
///
/// # Errors
/// It is none.
pub fn version2(command: u8, family: u8, block: &[u8]) -> Result<Whose, &'static str> {
    match command {
        0x20 => return Ok(Whose::Proxy),
        0x21 => {}
        _ => return Err("version or command are unknown"),
    }
    let (source, destination, rest) = match family {
        // No address, or one of a Unix socket: nobody's that a backend could know.
        0x00 | 0x31 => return Ok(Whose::Unknown),
        0x11 => addresses::<4>(block)?,
        0x21 => addresses::<16>(block)?,
        _ => return Err("the protocol is not TCP"),
    };
    Ok(Whose::Client(Client { source, destination, tls: tells_tls(rest)? }))
}

/// Two addresses of `N` bytes, their ports, and what follows them.
fn addresses<const N: usize>(block: &[u8]) -> Result<(SocketAddr, SocketAddr, &[u8]), &'static str>
where
    [u8; N]: Into<IpAddr>,
{
    let short = "it is too short for its addresses";
    let (source, rest) = block.split_first_chunk::<N>().ok_or(short)?;
    let (destination, rest) = rest.split_first_chunk::<N>().ok_or(short)?;
    let (from, rest) = rest.split_first_chunk().ok_or(short)?;
    let (to, rest) = rest.split_first_chunk().ok_or(short)?;
    let socket = |address: [u8; N], port: [u8; 2]| SocketAddr::new(address.into(), u16::from_be_bytes(port));
    Ok((socket(*source, *from), socket(*destination, *to), rest))
}

/// Reads extensions: type, length in two bytes, value.
fn tells_tls(mut extensions: &[u8]) -> Result<bool, &'static str> {
    let short = "an extension is longer than the header";
    let mut tls = false;
    while let Some((kind, rest)) = extensions.split_first() {
        let (length, rest) = rest.split_first_chunk().ok_or(short)?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(short)?;
        tls |= *kind == TLV_SSL && value.first().is_some_and(|flags| flags & CLIENT_SSL != 0);
        extensions = rest;
    }
    Ok(tls)
}

/// The header of a proxy that speaks for itself, to check health.
pub const LOCAL: &[u8; 16] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The header of version 2 that tells an endpoint who the client is. Addresses of two families become IPv6 ones.
pub fn write(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(0x21);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend_from_slice(&[0x11, 0, 12]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        (from, to) => {
            header.extend_from_slice(&[0x21, 0, 36]);
            header.extend_from_slice(&mapped(from).octets());
            header.extend_from_slice(&mapped(to).octets());
        }
    }
    header.extend_from_slice(&source.port().to_be_bytes());
    header.extend_from_slice(&destination.port().to_be_bytes());
    header
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Whose, &'static str> {
        version1(format!("{line}\r\n").as_bytes())
    }

    fn client(whose: Result<Whose, &'static str>) -> Client {
        match whose {
            Ok(Whose::Client(client)) => client,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn version_1_tells_addresses_of_two_families_or_nothing() {
        let told = client(of("PROXY TCP4 192.0.2.7 198.51.100.1 4444 443"));
        assert_eq!(told.source, "192.0.2.7:4444".parse().unwrap());
        assert_eq!(told.destination, "198.51.100.1:443".parse().unwrap());
        let told = client(of("PROXY TCP6 2001:db8::7 ::1 0 65535"));
        assert_eq!(told.source, "[2001:db8::7]:0".parse().unwrap());
        assert_eq!(of("PROXY UNKNOWN"), Ok(Whose::Unknown));
        assert_eq!(of("PROXY UNKNOWN ffff::1 ffff::2 65535 65535"), Ok(Whose::Unknown));
    }

    #[test]
    fn version_1_is_refused_where_it_is_not_exact() {
        for line in [
            "PROXY ",
            "PROXY TCP4",
            "PROXY TCP5 192.0.2.7 198.51.100.1 1 2",
            "PROXY tcp4 192.0.2.7 198.51.100.1 1 2",
            "PROXY  TCP4 192.0.2.7 198.51.100.1 1 2",
            "PROXY TCP4 192.0.2.7  198.51.100.1 1 2",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 ",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1",
            "PROXY TCP4 192.0.2.07 198.51.100.1 1 2",
            "PROXY TCP4 192.0.2 198.51.100.1 1 2",
            "PROXY TCP4 ::1 ::1 1 2",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 2",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 2",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 2",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 2",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2",
        ] {
            assert!(of(line).is_err(), "{line:?}");
        }
        assert!(version1(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n").is_err());
    }

    #[test]
    fn version_2_tells_addresses_and_whether_the_client_used_tls() {
        let (source, destination) = ("192.0.2.7:4444".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
        let written = write(source, destination);
        assert_eq!(client(version2(written[12], written[13], &written[16..])).source, source);
        let extension = |flags: u8| [&written[16..], &[4, 0, 2, 0, 0], &[TLV_SSL, 0, 5, flags, 0, 0, 0, 0]].concat();
        assert!(client(version2(0x21, 0x11, &extension(CLIENT_SSL))).tls);
        assert!(!client(version2(0x21, 0x11, &extension(2))).tls);
        assert_eq!(version2(0x20, 0x11, &written[16..]), Ok(Whose::Proxy));
        assert_eq!(version2(0x21, 0x00, b""), Ok(Whose::Unknown));
        assert_eq!(version2(0x21, 0x31, &[0; 216]), Ok(Whose::Unknown));
        let mixed = write(source, "[2001:db8::1]:443".parse().unwrap());
        let told = client(version2(mixed[12], mixed[13], &mixed[16..]));
        assert_eq!(told.source.ip().to_canonical(), source.ip());
    }

    #[test]
    fn version_2_is_refused_where_it_is_not_exact() {
        let block = &write("192.0.2.7:1".parse().unwrap(), "192.0.2.8:2".parse().unwrap())[16..];
        for (command, family) in [(0x11, 0x11), (0x22, 0x11), (0x31, 0x11), (0x21, 0x12), (0x21, 0x22), (0x21, 0x41)] {
            assert!(version2(command, family, block).is_err(), "{command:x} {family:x}");
        }
        for length in 0..block.len() {
            assert!(version2(0x21, 0x11, &block[..length]).is_err(), "{length}");
        }
        for rest in [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0, 0, 5]] {
            assert!(version2(0x21, 0x11, &[block, rest].concat()).is_err(), "{rest:?}");
        }
    }
}
