//! Who the client is, behind proxies that are trusted to say so.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

use super::Connection;

/// IPv4-mapped IPv6 addresses as what they are: `::ffff:a.b.c.d` comes from a dual-stack socket.
pub fn unmap(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether an address is in one of the networks.
pub fn is_trusted(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// The client's address: the peer, or, where the connection is trusted, the first address of `X-Forwarded-For`, read from the
/// right, that is not itself trusted. An entry that is no address ends the walk: what stands left of it is hearsay.
pub fn client(networks: &[IpNet], connection: &Connection, headers: &HeaderMap) -> IpAddr {
    let mut client = connection.peer;
    if !connection.trusted {
        return client;
    }
    let values: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    let entries = values.iter().rev().flat_map(|value| value.rsplit(',')).map(str::trim);
    // Empty members of a list are none (RFC 9110, 5.6.1).
    for entry in entries.filter(|entry| !entry.is_empty()) {
        let Some(address) = parse(entry) else { break };
        client = address;
        if !is_trusted(networks, address) {
            break;
        }
    }
    client
}

/// An address as proxies write it: with or without a port, with or without brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(unmap(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::Scheme;

    fn walk(peer: &str, forwarded: &[&str]) -> String {
        let networks: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let peer: IpAddr = peer.parse().unwrap();
        let local = ([10, 0, 0, 2], 80).into();
        let trusted = is_trusted(&networks, peer);
        let connection = Connection { trusted, ..Connection::new(Scheme::Http, (peer, 1024).into(), local) };
        client(&networks, &connection, &headers).to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(walk("192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        assert_eq!(walk("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.7"]), "203.0.113.9");
        assert_eq!(walk("10.0.0.1", &["203.0.113.9", "10.0.0.7"]), "203.0.113.9");
        assert_eq!(walk("10.0.0.1", &["[2001:db8::1]:99"]), "2001:db8::1");
        assert_eq!(walk("10.0.0.1", &["203.0.113.9,, ,10.0.0.7,", ""]), "203.0.113.9");
        assert_eq!(walk("10.0.0.1", &["::ffff:203.0.113.9"]), "203.0.113.9");
    }

    #[test]
    fn without_an_address_to_believe_the_last_believed_one_counts() {
        assert_eq!(walk("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(walk("10.0.0.1", &["10.0.0.2, 10.0.0.3"]), "10.0.0.2");
        assert_eq!(walk("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.7"]), "10.0.0.7");
    }
}
