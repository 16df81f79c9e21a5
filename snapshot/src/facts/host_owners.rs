//! Records of whose a host is: what one of the controllers' ConfigMaps says, and how it is written.
//!
//! `data` has a key per namespace, with its hosts one per line:
//!
//! ```yaml
//! data:
//!   shop: |
//!     shop.example
//!     *.shop.example
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use sha2::{Digest as _, Sha256};

use super::namespaced;
use crate::key::{HostPattern, ObjectKey, parent_of};

/// Label of the ConfigMaps, with this key and value.
pub const HOST_OWNERS_LABEL: (&str, &str) = ("sluicegate.dev/record", "host-owners");

/// ConfigMaps over which the hosts are spread: a change rewrites one of them, and each can hold a megabyte.
const RECORDS: u8 = 16;

/// What one of the ConfigMaps says.
#[derive(Debug, Clone, PartialEq)]
pub struct HostOwnersFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The namespace that has each host. Lines that are no hosts are left out; of several namespaces the first has it.
    pub owners: BTreeMap<HostPattern, Arc<str>>,
}

/// Trims such a ConfigMap.
pub fn facts(config_map: &ConfigMap) -> HostOwnersFacts {
    let mut owners = BTreeMap::new();
    for (namespace, hosts) in config_map.data.iter().flatten() {
        let namespace: Arc<str> = namespace.as_str().into();
        for host in hosts.lines().filter_map(|line| line.trim().parse::<HostPattern>().ok()) {
            owners.entry(host).or_insert_with(|| namespace.clone());
        }
    }
    HostOwnersFacts { key: namespaced(&config_map.metadata), owners }
}

/// `data` that says this.
pub fn write(owners: &BTreeMap<HostPattern, Arc<str>>) -> BTreeMap<String, String> {
    let mut data: BTreeMap<String, String> = BTreeMap::new();
    for (host, namespace) in owners {
        let hosts = data.entry(namespace.to_string()).or_default();
        hosts.push_str(&host.to_string());
        hosts.push('\n');
    }
    data
}

/// The ConfigMap, of those that begin with `prefix`, that has a host. A wildcard is where the names right below it are: what is
/// decided together is written together.
pub fn record_of(prefix: &ObjectKey, host: &HostPattern) -> ObjectKey {
    let domain = match host {
        HostPattern::Any => "",
        HostPattern::Exact(name) => parent_of(name).unwrap_or(name),
        HostPattern::Wildcard(suffix) => suffix,
    };
    let first = Sha256::digest(domain).first().copied().unwrap_or_default();
    record(prefix, first % RECORDS)
}

/// All of these ConfigMaps.
pub fn records(prefix: &ObjectKey) -> BTreeSet<ObjectKey> {
    (0..RECORDS).map(|number| record(prefix, number)).collect()
}

fn record(prefix: &ObjectKey, number: u8) -> ObjectKey {
    ObjectKey::new(prefix.namespace.clone(), format!("{}-{number:x}", prefix.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let owners: BTreeMap<HostPattern, Arc<str>> =
            [("a.test", "one"), ("*.a.test", "two"), ("*", "one"), ("b_c.test", "one")]
                .map(|(host, namespace)| (host.parse().unwrap(), namespace.into()))
                .into();
        let data = write(&owners);
        assert_eq!(data["one"], "*\na.test\nb_c.test\n");
        assert_eq!(facts(&ConfigMap { data: Some(data), ..ConfigMap::default() }).owners, owners);
    }

    #[test]
    fn what_is_no_host_is_left_out() {
        let data = [("one", " A.test. \n\na b\n10.0.0.1\n"), ("two", "a.test\nb.test")];
        let data = data.map(|(namespace, hosts)| (namespace.to_owned(), hosts.to_owned())).into();
        let owners = facts(&ConfigMap { data: Some(data), ..ConfigMap::default() }).owners;
        let read: Vec<String> = owners.iter().map(|(host, namespace)| format!("{host} {namespace}")).collect();
        assert_eq!(read, ["a.test one", "b.test two"]);
    }

    #[test]
    fn a_wildcard_is_recorded_where_the_names_below_it_are() {
        let prefix = ObjectKey::new("n", "hosts");
        let of = |host: &str| record_of(&prefix, &host.parse().unwrap());
        assert_eq!(of("*.shop.test"), of("a.shop.test"));
        let spread: BTreeSet<ObjectKey> = (0..500).map(|number| of(&format!("www.shop-{number}.test"))).collect();
        assert_eq!(spread, records(&prefix));
        assert_eq!(of("*").name.len(), "hosts-0".len());
    }
}
