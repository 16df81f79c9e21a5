//! PROXY headers of both versions.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use sluicegate::io::proxy_protocol::{Whose, version1, version2, write};

use super::{Taken, feed};

fn check(bytes: &[u8], _: &mut StdRng) -> Taken {
    if let Ok(Whose::Client(client)) = version1(bytes) {
        let family = if client.source.is_ipv4() { "TCP4" } else { "TCP6" };
        let text = String::from_utf8(bytes.to_vec()).expect("it is text");
        let words: Vec<&str> = text.trim_end_matches("\r\n").split(' ').collect();
        assert_eq!(words[1], family);
        assert_eq!((words[4], words[5]), (&*client.source.port().to_string(), &*client.destination.port().to_string()));
        assert_eq!(client.source.is_ipv4(), client.destination.is_ipv4());
        return Taken::Yes;
    }
    let [.., command, family, _, _] = bytes.get(..16).unwrap_or(&[0; 16]) else { return Taken::No };
    if let Ok(Whose::Client(client)) = version2(*command, *family, bytes.get(16..).unwrap_or_default()) {
        // What the gateway writes itself says the same.
        let same = write(client.source, client.destination);
        let read = version2(same[12], same[13], &same[16..]).unwrap();
        let unmapped = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        let Whose::Client(read) = read else { panic!("{read:?}") };
        assert_eq!(unmapped(read.source), unmapped(client.source));
        assert_eq!(unmapped(read.destination), unmapped(client.destination));
        return Taken::Yes;
    }
    Taken::No
}

#[test]
fn a_header_says_what_it_says() {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let seeds = vec![
        b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        write(address("192.0.2.1:1"), address("198.51.100.1:443")),
        write(address("[2001:db8::1]:1"), address("[2001:db8::2]:443")),
        [&write(address("192.0.2.1:1"), address("198.51.100.1:443"))[..], b"\x20\0\x05\x01\0\0\0\0\x04\0\0"].concat(),
    ];
    println!("{}", feed("PROXY headers", seeds, 1, check));
}
