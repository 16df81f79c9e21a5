//! How inputs are made.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// What has a meaning somewhere.
const TOKENS: [&[u8]; 44] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b": ",
    b",",
    b";",
    b"\0",
    b"0",
    b"00",
    b"+1",
    b"-1",
    b"0x10",
    b"18446744073709551616",
    b"ffffffffffffffff",
    b"1;a=b",
    b"%00",
    b"%2f",
    b"%2E%2e/",
    b"//",
    b"#",
    b"?",
    b"*",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"Host: a.test\r\n",
    b"Host: b.test\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer_Encoding: chunked\r\n",
    b"Connection: close, X-Forwarded-For\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"\x80\xff",
    b"\xc3\xa4",
    b"\x0b\x0c",
];

/// Makes inputs of seeds.
pub struct Mutator {
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    pub fn new(seeds: Vec<Vec<u8>>) -> Self {
        assert!(!seeds.is_empty());
        Mutator { seeds }
    }

    /// One that is broken in one place, and with half the chance each in another one.
    pub fn make(&self, random: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.seeds.choose(random).unwrap().clone();
        self.change(&mut bytes, random);
        while random.random() {
            self.change(&mut bytes, random);
        }
        bytes
    }

    fn change(&self, bytes: &mut Vec<u8>, random: &mut StdRng) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 40));
        match random.random_range(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            // The tail of another one.
            4 => {
                let other = self.seeds.choose(random).unwrap();
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.random_range(0..=other.len())..]);
            }
            5 => bytes.truncate(at),
            6 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(if random.random() { 1 } else { 255 }),
            _ => {
                let token = TOKENS.choose(random).unwrap();
                bytes.splice(at..at, token.iter().copied());
            }
        }
    }
}
