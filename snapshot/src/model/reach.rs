//! Which addresses backends may have, where the author of a Service is not the operator of the gateway.
//!
//! Judged twice: in compile, which says so at the object, and in the gateway, for what names resolve to and once more before
//! it connects. A hand-made EndpointSlice or an ExternalName could otherwise lead clients to the gateway's own pod, to the
//! cloud's metadata service, or to the API server, all of which trust the place that requests come from (CVE-2021-25740).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Metadata and credential services of clouds: most of them; Amazon ECS and EKS; Azure; Alibaba Cloud; Oracle Cloud (its older one);
/// Amazon, EKS and Google over IPv6.
const METADATA: [IpAddr; 9] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Why an address is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreachable {
    /// `0.0.0.0/8` and `::`: the machine itself, for many a system.
    Unspecified,
    /// Multicast and broadcast: no TCP.
    Multicast,
    /// The gateway's own pod or machine.
    Loopback,
    /// The node, and whatever is beside it.
    LinkLocal,
    /// A cloud's metadata service.
    Metadata,
    /// The API server.
    ApiServer,
    /// The operator refuses it (`refuseBackends`).
    Configured,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unreachable::Unspecified => "an unspecified address",
            Unreachable::Multicast => "a multicast or broadcast address",
            Unreachable::Loopback => "a loopback address, which is the gateway's own pod",
            Unreachable::LinkLocal => "a link-local address, which is the gateway's node or its neighbours",
            Unreachable::Metadata => "the address of a cloud's metadata service",
            Unreachable::ApiServer => "the API server",
            Unreachable::Configured => "in a range that is refused (refuseBackends)",
        })
    }
}

impl Unreachable {
    /// What an operator writes into `allowBackends` to allow it; `None`: nothing does.
    pub const fn allowed_by(self) -> Option<&'static str> {
        match self {
            Unreachable::Loopback => Some("loopback"),
            Unreachable::LinkLocal => Some("linkLocal"),
            Unreachable::Metadata => Some("metadata"),
            Unreachable::ApiServer => Some("apiServer"),
            Unreachable::Unspecified | Unreachable::Multicast | Unreachable::Configured => None,
        }
    }
}

/// One item of `allowBackends`: the name of a range, or a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allowed {
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// `169.254.0.0/16`, `fe80::/10`; not the metadata service.
    LinkLocal,
    /// The metadata services.
    Metadata,
    /// The API server's addresses.
    ApiServer,
    /// DNS names of Services and pods of other namespaces, in ExternalName Services.
    OtherNamespaces,
    /// Loopback and link-local addresses in this range. A metadata service is only allowed by its one address, the API server
    /// only by its name: no wide range opens them by accident.
    Range(IpNet),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Loopback => f.write_str("loopback"),
            Allowed::LinkLocal => f.write_str("linkLocal"),
            Allowed::Metadata => f.write_str("metadata"),
            Allowed::ApiServer => f.write_str("apiServer"),
            Allowed::OtherNamespaces => f.write_str("otherNamespaces"),
            Allowed::Range(range) => range.fmt(f),
        }
    }
}

impl FromStr for Allowed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "loopback" => Allowed::Loopback,
            "linkLocal" => Allowed::LinkLocal,
            "metadata" => Allowed::Metadata,
            "apiServer" => Allowed::ApiServer,
            "otherNamespaces" => Allowed::OtherNamespaces,
            range => Allowed::Range(parse_range(range).ok_or(
                "expected loopback, linkLocal, metadata, apiServer, otherNamespaces, or a range like 169.254.20.10/32",
            )?),
        })
    }
}

impl Serialize for Allowed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Allowed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A range, or one address.
pub fn parse_range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The usual [`Reach::cluster_domain`].
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// What is guarded, and the exceptions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reach {
    /// Exceptions of the operator (`allowBackends`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<Allowed>,
    /// What the operator refuses besides (`refuseBackends`); stronger than an exception.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<IpNet>,
    /// Addresses and ports of the API server. Not whole addresses: pods with `hostNetwork` share them on small clusters.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub api_server: BTreeSet<SocketAddr>,
    /// The domain below which the cluster's DNS has Services and pods.
    #[serde(skip_serializing_if = "is_usual")]
    pub cluster_domain: Arc<str>,
}

impl Default for Reach {
    fn default() -> Self {
        Reach {
            allowed: Vec::new(),
            refused: Vec::new(),
            api_server: BTreeSet::new(),
            cluster_domain: CLUSTER_DOMAIN.into(),
        }
    }
}

fn is_usual(domain: &Arc<str>) -> bool {
    **domain == *CLUSTER_DOMAIN
}

impl Reach {
    /// Whether a backend may have this address. IPv6 forms of an IPv4 address are judged as both.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, address: SocketAddr) -> Result<(), Unreachable> {
        never(address.ip())?;
        let ip = address.ip().to_canonical();
        let forms = [Some(ip), embedded(ip).map(IpAddr::V4)];
        forms.into_iter().flatten().try_for_each(|ip| self.judge_form(ip, address.port()))
    }

    /// Whether a name is that of a Service in another namespace than this one, or of a pod anywhere, which an Ingress may not send
    /// requests to: the gateway may connect to more than the author of the Service. `name` in lower case, without a dot behind it.
    pub fn leaves_namespace(&self, name: &str, namespace: &str) -> bool {
        if self.allowed.contains(&Allowed::OtherNamespaces) {
            return false;
        }
        let in_domain = name.strip_suffix(&*self.cluster_domain).and_then(|rest| rest.strip_suffix('.'));
        let mut labels = in_domain.unwrap_or(name).rsplit('.');
        match labels.next() {
            Some("svc") => labels.next().is_some_and(|other| other != namespace),
            // Such names have the address in them, and the namespace may be any (CoreDNS, `pods insecure`).
            Some("pod") => labels.next().is_some(),
            _ => false,
        }
    }

    fn judge_form(&self, ip: IpAddr, port: u16) -> Result<(), Unreachable> {
        if self.refused.iter().any(|range| range.contains(&ip)) {
            return Err(Unreachable::Configured);
        }
        let named = |name: Allowed| self.allowed.contains(&name);
        if self.api_server.contains(&SocketAddr::new(ip, port)) && !named(Allowed::ApiServer) {
            return Err(Unreachable::ApiServer);
        }
        let in_range = |whole: bool| {
            self.allowed.iter().any(|allowed| {
                matches!(allowed, Allowed::Range(range)
                    if range.contains(&ip) && (!whole || range.prefix_len() == range.max_prefix_len()))
            })
        };
        if METADATA.contains(&ip) {
            return if named(Allowed::Metadata) || in_range(true) { Ok(()) } else { Err(Unreachable::Metadata) };
        }
        if ip.is_loopback() && !named(Allowed::Loopback) && !in_range(false) {
            return Err(Unreachable::Loopback);
        }
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if link_local && !named(Allowed::LinkLocal) && !in_range(false) {
            return Err(Unreachable::LinkLocal);
        }
        Ok(())
    }
}

/// What no backend may be anywhere, whoever wrote it.
///
/// # Errors
/// Why not.
pub fn never(ip: IpAddr) -> Result<(), Unreachable> {
    let judge = |ip: IpAddr| {
        let (unspecified, broadcast) = match ip {
            IpAddr::V4(v4) => (v4.octets()[0] == 0, v4.is_broadcast()),
            IpAddr::V6(v6) => (v6.is_unspecified(), false),
        };
        match (unspecified, ip.is_multicast() || broadcast) {
            (true, _) => Err(Unreachable::Unspecified),
            (_, true) => Err(Unreachable::Multicast),
            _ => Ok(()),
        }
    };
    let ip = ip.to_canonical();
    judge(ip)?;
    embedded(ip).map_or(Ok(()), |v4| judge(IpAddr::V4(v4)))
}

/// The IPv4 address that routers or systems may make of an IPv6 one: NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056),
/// IPv4-compatible (RFC 4291, 2.5.5.1). Mapped ones are canonical already.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return None };
    let words = v6.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match words {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) != (0, 0) && (high, low) != (0, 1) => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(reach: &Reach, address: &str) -> Result<(), Unreachable> {
        let address = address.parse().unwrap_or_else(|_| SocketAddr::new(address.parse().unwrap(), 80));
        reach.judge(address)
    }

    fn reach(allowed: &[&str], refused: &[&str]) -> Reach {
        Reach {
            allowed: allowed.iter().map(|text| text.parse().unwrap()).collect(),
            refused: refused.iter().map(|text| parse_range(text).unwrap()).collect(),
            api_server: ["10.96.0.1:443", "192.0.2.5:6443"].map(|text| text.parse().unwrap()).into(),
            ..Reach::default()
        }
    }

    #[test]
    fn what_is_refused_without_exceptions() {
        use Unreachable::*;
        for (address, why) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("::", Unspecified),
            ("::ffff:0.0.0.0", Unspecified),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("255.255.255.255", Multicast),
            ("ff02::1", Multicast),
            ("127.0.0.1", Loopback),
            ("127.255.0.9", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("::127.0.0.1", Loopback),
            ("64:ff9b::127.0.0.1", Loopback),
            ("64:ff9b:1::7f00:1", Loopback),
            ("2002:7f00:1::", Loopback),
            ("169.254.0.1", LinkLocal),
            ("fe80::1", LinkLocal),
            ("::ffff:169.254.1.1", LinkLocal),
            ("169.254.169.254", Metadata),
            ("::ffff:169.254.169.254", Metadata),
            ("64:ff9b::a9fe:a9fe", Metadata),
            ("2002:a9fe:a9fe::1", Metadata),
            ("169.254.170.2", Metadata),
            ("169.254.170.23", Metadata),
            ("168.63.129.16", Metadata),
            ("100.100.100.200", Metadata),
            ("192.0.0.192", Metadata),
            ("fd00:ec2::254", Metadata),
            ("fd00:ec2::23", Metadata),
            ("fd20:ce::254", Metadata),
            ("10.96.0.1:443", ApiServer),
            ("192.0.2.5:6443", ApiServer),
            ("[::ffff:192.0.2.5]:6443", ApiServer),
            ("[64:ff9b::192.0.2.5]:6443", ApiServer),
        ] {
            assert_eq!(judge(&reach(&[], &[]), address), Err(why), "{address}");
        }
    }

    #[test]
    fn what_a_backend_usually_has_is_allowed() {
        for address in [
            "10.0.0.1",
            "172.16.5.4",
            "192.168.1.1",
            "203.0.113.7",
            "100.64.0.1",
            "240.0.0.1",
            "fd00::1",
            "2001:db8::1",
            "64:ff9b::10.0.0.1",
            "192.0.2.5:8080",
            "10.96.0.1:80",
        ] {
            assert_eq!(judge(&reach(&[], &[]), address), Ok(()), "{address}");
        }
    }

    #[test]
    fn exceptions_allow_what_they_name_and_no_more() {
        use Unreachable::*;
        for (allowed, address, verdict) in [
            ("loopback", "127.0.0.1", Ok(())),
            ("loopback", "::1", Ok(())),
            ("loopback", "169.254.0.1", Err(LinkLocal)),
            ("loopback", "0.0.0.0", Err(Unspecified)),
            ("linkLocal", "169.254.20.10", Ok(())),
            ("linkLocal", "fe80::1", Ok(())),
            ("linkLocal", "169.254.169.254", Err(Metadata)),
            ("metadata", "169.254.169.254", Ok(())),
            ("metadata", "169.254.0.1", Err(LinkLocal)),
            ("apiServer", "192.0.2.5:6443", Ok(())),
            ("169.254.20.10", "169.254.20.10", Ok(())),
            ("169.254.20.10/32", "169.254.20.11", Err(LinkLocal)),
            ("169.254.0.0/16", "169.254.169.254", Err(Metadata)),
            ("169.254.169.254/32", "169.254.169.254", Ok(())),
            ("0.0.0.0/0", "127.0.0.1", Ok(())),
            ("0.0.0.0/0", "0.0.0.0", Err(Unspecified)),
            ("0.0.0.0/0", "224.0.0.1", Err(Multicast)),
            ("0.0.0.0/0", "192.0.2.5:6443", Err(ApiServer)),
            ("::/0", "fe80::1", Ok(())),
            ("::/0", "::ffff:127.0.0.1", Err(Loopback)),
        ] {
            assert_eq!(judge(&reach(&[allowed], &[]), address), verdict, "{allowed}: {address}");
        }
    }

    #[test]
    fn what_the_operator_refuses_is_stronger() {
        let reach = reach(&["loopback", "127.0.0.0/8"], &["127.0.0.2", "10.1.0.0/16"]);
        assert_eq!(judge(&reach, "127.0.0.1"), Ok(()));
        assert_eq!(judge(&reach, "127.0.0.2"), Err(Unreachable::Configured));
        assert_eq!(judge(&reach, "10.1.2.3"), Err(Unreachable::Configured));
        assert_eq!(judge(&reach, "::ffff:10.1.2.3"), Err(Unreachable::Configured));
        assert_eq!(judge(&reach, "10.2.2.3"), Ok(()));
    }

    #[test]
    fn it_is_written_in_the_words_of_the_settings() {
        let reach = reach(&["loopback", "169.254.20.0/24"], &["10.0.0.0/8"]);
        let text = serde_json::to_string(&reach).unwrap();
        assert_eq!(
            text,
            r#"{"allowed":["loopback","169.254.20.0/24"],"refused":["10.0.0.0/8"],"apiServer":["10.96.0.1:443","192.0.2.5:6443"]}"#
        );
        assert_eq!(serde_json::from_str::<Reach>(&text).unwrap(), reach);
        assert!("localhost".parse::<Allowed>().is_err());
    }
}
