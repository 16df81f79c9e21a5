//! Which namespaces may have which hosts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::key::{HostPattern, KeyError};
use crate::settings::{INGRESS_NGINX_CONTROLLER, Mode};

/// Whose a host is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostPolicy {
    /// Everybody's: for each path the oldest Ingress decides, whatever its namespace (ingress-nginx).
    #[default]
    Shared,
    /// The namespace's whose Ingress claimed it first: the oldest Ingress that has a rule for the host or lists it in `tls`, or has a
    /// rule for the wildcard above it.
    PerNamespace,
    /// Those namespaces' that are listed with it.
    AllowList(AllowedHosts),
}

impl HostPolicy {
    /// The policy where none is configured. Files have one author. Ingresses that were written for ingress-nginx share hosts among
    /// namespaces, so where its classes are taken over that stays so.
    pub fn usual<'a>(mode: Mode, mut controller_names: impl Iterator<Item = &'a str>) -> HostPolicy {
        match mode == Mode::Standalone || controller_names.any(|name| name == INGRESS_NGINX_CONTROLLER) {
            true => HostPolicy::Shared,
            false => HostPolicy::PerNamespace,
        }
    }
}

/// Hosts by namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts(BTreeMap<Arc<str>, Vec<Allowance>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Allowance {
    /// `*`: every host, and rules without a host.
    All,
    /// One host.
    Exact(Arc<str>),
    /// `*.example.com`: every host below `example.com`, at any depth, and wildcards there.
    Below(Arc<str>),
}

impl AllowedHosts {
    /// Reads hosts, `*.` patterns or `*` by namespace.
    ///
    /// # Errors
    /// The text that is none of them, and why.
    pub fn parse<'a>(
        lists: impl IntoIterator<Item = (&'a str, &'a [String])>,
    ) -> Result<AllowedHosts, (String, KeyError)> {
        let read = |text: &String| match &**text {
            "*" => Ok(Allowance::All),
            text => match HostPattern::parse(text) {
                Ok(HostPattern::Exact(name)) => Ok(Allowance::Exact(name)),
                Ok(HostPattern::Wildcard(suffix)) => Ok(Allowance::Below(suffix)),
                Ok(HostPattern::Any) => Err((text.to_owned(), KeyError("empty; `*` is every host"))),
                Err(error) => Err((text.to_owned(), error)),
            },
        };
        let list = |(namespace, texts): (&str, &[String])| {
            Ok((Arc::from(namespace), texts.iter().map(read).collect::<Result<_, _>>()?))
        };
        Ok(AllowedHosts(lists.into_iter().map(list).collect::<Result<_, _>>()?))
    }

    /// Whether a namespace may have a host.
    pub fn allows(&self, namespace: &str, host: &HostPattern) -> bool {
        let below = |name: &str, suffix: &str| {
            name.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        };
        self.0.get(namespace).into_iter().flatten().any(|allowance| match (allowance, host) {
            (Allowance::All, _) => true,
            (Allowance::Exact(allowed), HostPattern::Exact(name)) => allowed == name,
            (Allowance::Below(suffix), HostPattern::Exact(name)) => below(name, suffix),
            (Allowance::Below(suffix), HostPattern::Wildcard(name)) => name == suffix || below(name, suffix),
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowances() {
        let lists = [
            ("a", vec!["a.test".to_owned(), "*.a.test".to_owned()]),
            ("b", vec!["B.test.".to_owned()]),
            ("all", vec!["*".to_owned()]),
        ];
        let hosts = AllowedHosts::parse(lists.iter().map(|(namespace, list)| (*namespace, &**list))).unwrap();
        for (namespace, host, allowed) in [
            ("a", "a.test", true),
            ("a", "x.a.test", true),
            ("a", "x.y.a.test", true),
            ("a", "*.a.test", true),
            ("a", "*.x.a.test", true),
            ("a", "xa.test", false),
            ("a", "*.test", false),
            ("a", "", false),
            ("a", "b.test", false),
            ("b", "b.test", true),
            ("b", "x.b.test", false),
            ("b", "*.b.test", false),
            ("all", "", true),
            ("all", "*.b.test", true),
            ("nobody", "a.test", false),
        ] {
            assert_eq!(hosts.allows(namespace, &HostPattern::parse(host).unwrap()), allowed, "{namespace}: {host}");
        }
    }

    #[test]
    fn what_is_no_host_is_named() {
        for text in ["", "a b", "*.*", "a.test:80", "10.0.0.1"] {
            let list = [text.to_owned()];
            assert_eq!(AllowedHosts::parse([("a", &list[..])]).unwrap_err().0, text);
        }
    }
}
