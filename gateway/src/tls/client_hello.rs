//! The server name in a ClientHello that is only looked at: where TLS is passed through, OpenSSL never sees it.

/// What bytes say so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Hello {
    /// More has to come.
    Incomplete,
    /// All that is needed is there: the name, where one is given. What is none of TLS has none; OpenSSL says what is wrong with it.
    Name(Option<Vec<u8>>),
}

/// Bytes of a ClientHello that are looked at. With a key share of post-quantum cryptography it has some 2 KiB.
pub const MAX_HELLO: usize = 16 * 1024;

/// Types and numbers of RFC 8446 (4, 5.1) and RFC 6066 (3).
const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// Reads the name. Costs one pass over the bytes.
pub fn server_name(bytes: &[u8]) -> Hello {
    let (message, is_whole) = match handshake(bytes) {
        Some(read) => read,
        None => return Hello::Name(None),
    };
    match client_hello(&message) {
        Ok(body) => Hello::Name(name_in(body).map(<[u8]>::to_vec)),
        Err(Short) if is_whole => Hello::Name(None),
        Err(Short) => Hello::Incomplete,
    }
}

/// Records that a ClientHello is looked for in, one by one: behind them in twice as many bytes.
const RECORDS: usize = 64;

/// Bytes from which on it is worth to look again at what was incomplete: the end of the record that has begun, or the header of the next one.
pub fn enough(bytes: &[u8]) -> usize {
    let mut end = 0;
    for _ in 0..RECORDS {
        let header = bytes.get(end + 3..end + 5);
        end = header.map_or(end + 5, |length| end + 5 + usize::from(u16::from_be_bytes([length[0], length[1]])));
        if bytes.len() < end {
            return end.min(MAX_HELLO);
        }
    }
    (2 * bytes.len()).min(MAX_HELLO)
}

/// The bytes do not suffice.
struct Short;

/// The handshake's bytes, which may be spread over records. The second value: no more can come that would matter. `None`: it is no TLS.
fn handshake(mut bytes: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut message = Vec::new();
    let is_whole = bytes.len() >= MAX_HELLO;
    while let Some((kind, rest)) = bytes.split_first() {
        if *kind != HANDSHAKE_RECORD {
            return if message.is_empty() { None } else { Some((message, true)) };
        }
        let Some((header, rest)) = rest.split_first_chunk::<4>() else { break };
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] != 3 || length == 0 {
            return None;
        }
        let part = rest.get(..length).unwrap_or(rest);
        message.extend_from_slice(part);
        // What follows the ClientHello says nothing of it.
        if client_hello(&message).is_ok() {
            break;
        }
        bytes = &rest[part.len()..];
    }
    Some((message, is_whole))
}

/// The body of the ClientHello.
fn client_hello(message: &[u8]) -> Result<&[u8], Short> {
    let (kind, rest) = message.split_first().ok_or(Short)?;
    if *kind != CLIENT_HELLO {
        return Ok(&[]);
    }
    let (length, rest) = rest.split_first_chunk::<3>().ok_or(Short)?;
    let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
    rest.get(..length).ok_or(Short)
}

fn name_in(body: &[u8]) -> Option<&[u8]> {
    // Version and random.
    let mut at = Reader(body.get(34..)?);
    let (_session, _ciphers, _compression) = (at.short()?, at.long()?, at.short()?);
    let mut extensions = Reader(at.long()?);
    loop {
        let (kind, value) = (extensions.number()?, extensions.long()?);
        if kind == SERVER_NAME {
            let mut names = Reader(Reader(value).long()?);
            let (kind, name) = (names.byte()?, names.long()?);
            return (kind == HOST_NAME).then_some(name);
        }
    }
}

/// Reads fields from the left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A field with its length in one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    /// A field with its length in two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};

    use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};

    use super::*;

    /// Keeps what is written, and has nothing to read.
    #[derive(Debug, Default)]
    struct Recorder(Vec<u8>);

    impl Read for Recorder {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    impl Write for Recorder {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What OpenSSL sends first.
    fn hello(name: Option<&str>) -> Vec<u8> {
        let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        let mut config = builder.build().configure().unwrap();
        config.set_use_server_name_indication(name.is_some());
        config.set_verify_hostname(false);
        match config.connect(name.unwrap_or("none"), Recorder::default()) {
            Err(openssl::ssl::HandshakeError::WouldBlock(stream)) => stream.get_ref().0.clone(),
            _ => panic!("it cannot end"),
        }
    }

    /// The same in records of so many bytes.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        let message = &hello[5..];
        let record = |part: &[u8]| [&hello[..3], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
        message.chunks(size).flat_map(record).collect()
    }

    #[test]
    fn the_name_is_found_however_the_hello_is_cut() {
        let hello = hello(Some("a.test"));
        let name = Hello::Name(Some(b"a.test".to_vec()));
        assert_eq!(server_name(&hello), name);
        for length in 0..hello.len() {
            assert_eq!(server_name(&hello[..length]), Hello::Incomplete, "{length}");
            assert_eq!(enough(&hello[..length]), if length < 5 { 5 } else { hello.len() });
        }
        for size in [1, 7, 100] {
            assert_eq!(server_name(&in_records(&hello, size)), name, "{size}");
        }
        let halves = in_records(&hello, hello.len() / 2);
        let first = 5 + hello.len() / 2;
        let whole = halves.len();
        for (length, next) in [(first, first + 5), (first + 4, first + 5), (first + 5, whole), (whole - 1, whole)] {
            assert_eq!(enough(&halves[..length]), next, "{length}");
        }
        assert_eq!(enough(&in_records(&hello, 1)[..6 * RECORDS]), 12 * RECORDS, "a record for each byte");
        for next in [&b"\x16\x03\x01\0\0"[..], b"\x16\x02\0", b"GET"] {
            assert_eq!(server_name(&[&hello, next].concat()), name, "what follows says nothing of it");
        }
    }

    #[test]
    fn a_hello_without_a_name_has_none() {
        assert_eq!(server_name(&hello(None)), Hello::Name(None));
    }

    #[test]
    fn what_is_no_hello_has_no_name_and_is_not_waited_for() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x80\x2e\x01\x03\x01",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x00\x04\x02\0\0\0",
        ] {
            assert_eq!(server_name(bytes), Hello::Name(None), "{bytes:?}");
        }
        // A message that says that it is larger than anything that is looked at.
        let endless = [&b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"[..], &[0; MAX_HELLO]].concat();
        assert_eq!(server_name(&endless), Hello::Name(None));
        assert_eq!(server_name(&endless[..100]), Hello::Incomplete);
    }

    #[test]
    fn no_byte_makes_it_fail() {
        let hello = hello(Some("a.test"));
        for at in 0..hello.len() {
            for byte in [0, 1, 0x16, 0x7f, 0xff] {
                let mut other = hello.clone();
                other[at] = byte;
                let _ = server_name(&other);
            }
        }
    }
}
