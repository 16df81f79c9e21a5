//! Networks in settings.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer};

/// An address, or a network with its prefix. IPv4-mapped ones are what they are mapped from, as clients' addresses are.
struct Network(IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(Network).map_err(serde::de::Error::custom)
    }
}

fn parse(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let what = "is no network: write ADDRESS/PREFIX, as 10.0.0.0/8, or an address";
    let network: IpNet = text.parse().map_err(|_| format!("`{text}` {what}"))?;
    if network.trunc() != network {
        return Err(format!("`{text}` has bits behind its prefix: the network is {}", network.trunc()));
    }
    let mapped = match network {
        IpNet::V6(network) => network.addr().to_ipv4_mapped().zip(network.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    let Some((address, prefix)) = mapped else { return Ok(network) };
    Ipv4Net::new(address, prefix).map(IpNet::V4).map_err(|_| format!("`{text}` {what}"))
}

/// Reads a list of them.
pub fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let networks = Vec::<Network>::deserialize(deserializer)?;
    Ok(networks.into_iter().map(|Network(network)| network).collect())
}
