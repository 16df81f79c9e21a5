//! Equal texts of what was read, held once.
//!
//! Each resource is read for itself, and the same namespace, class, host and path stand in each of its routes. A gateway that
//! follows a controller would hold all of them apart: at 10,000 routes that is some megabytes.

use std::collections::HashSet;
use std::sync::Arc;

use crate::key::{BackendKey, HostPattern, ObjectKey, ServicePort};
use crate::model::{Delta, Resource, Route, Target, TlsHost, VirtualHost};

/// Has equal texts in a delta that nobody else has yet share their memory. Costs O(delta).
pub(super) fn share(delta: &mut Delta) {
    let mut texts = Texts::default();
    for (host, value) in &mut delta.hosts {
        if let HostPattern::Exact(name) | HostPattern::Wildcard(name) = host {
            texts.know(name);
        }
        if let Some(host) = value.as_mut().and_then(Arc::get_mut) {
            texts.virtual_host(host);
        }
    }
    delta.tls_hosts.values_mut().flatten().filter_map(Arc::get_mut).for_each(|host| texts.tls_host(host));
    for value in delta.certificates.values_mut().flatten() {
        if let Resource::Valid(certificate) = value
            && let Some(certificate) = Arc::get_mut(certificate)
        {
            certificate.names.iter_mut().for_each(|name| texts.text(name));
        }
    }
}

#[derive(Default)]
struct Texts(HashSet<Arc<str>>);

impl Texts {
    fn know(&mut self, text: &Arc<str>) {
        if !self.0.contains(text) {
            self.0.insert(text.clone());
        }
    }

    fn text(&mut self, text: &mut Arc<str>) {
        match self.0.get(text) {
            Some(known) => *text = known.clone(),
            None => drop(self.0.insert(text.clone())),
        }
    }

    fn key(&mut self, key: &mut ObjectKey) {
        self.text(&mut key.namespace);
        self.text(&mut key.name);
    }

    fn virtual_host(&mut self, host: &mut VirtualHost) {
        host.routes.iter_mut().chain(&mut host.default).filter_map(Arc::get_mut).for_each(|route| self.route(route));
        if let Some(owner) = &mut host.owner {
            self.text(owner);
        }
    }

    fn tls_host(&mut self, host: &mut TlsHost) {
        host.certificates.iter_mut().for_each(|key| self.key(key));
    }

    fn route(&mut self, route: &mut Route) {
        if let Some(ingress) = &mut route.ingress {
            self.key(ingress);
        }
        self.text(&mut route.class);
        self.text(&mut route.path);
        if let HostPattern::Exact(name) | HostPattern::Wildcard(name) = &mut route.host {
            self.text(name);
        }
        match &mut route.target {
            Target::Backend(BackendKey { service, port }) => {
                self.key(service);
                if let ServicePort::Name(name) = port {
                    self.text(name);
                }
            }
            Target::Content(key) => self.key(key),
            Target::Refused(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PathType, Policy};

    #[test]
    fn equal_texts_are_held_once_and_mean_the_same() {
        let host = |name: &str| {
            let path = |path: &str| {
                Arc::new(Route {
                    ingress: Some(ObjectKey::new("shop", "web")),
                    class: "public".into(),
                    host: name.parse().unwrap(),
                    path: path.into(),
                    path_type: PathType::Prefix,
                    is_default: false,
                    target: Target::Backend("shop/web:http".parse().unwrap()),
                    policy: Policy::default(),
                })
            };
            VirtualHost { routes: vec![path("/"), path("/a")], owner: Some("shop".into()), ..VirtualHost::default() }
        };
        let delta = || {
            let hosts = ["a.test", "*.b.test"].map(|name| (name.parse().unwrap(), Some(Arc::new(host(name)))));
            Delta { hosts: hosts.into(), ..Delta::default() }
        };
        let mut shared = delta();
        share(&mut shared);
        assert_eq!(shared.hosts, delta().hosts);
        let routes: Vec<&Arc<Route>> = shared.hosts.values().flatten().flat_map(|host| &host.routes).collect();
        let namespace = |route: &Route| route.ingress.as_ref().unwrap().namespace.clone();
        assert!(routes.iter().all(|route| Arc::ptr_eq(&namespace(route), &namespace(routes[0]))));
        assert!(Arc::ptr_eq(&routes[0].path, &routes[2].path));
        let Target::Backend(backend) = &routes[3].target else { panic!() };
        assert!(Arc::ptr_eq(&backend.service.namespace, &namespace(routes[0])));
        let (Some(HostPattern::Exact(key)), HostPattern::Exact(name)) =
            (shared.hosts.keys().find(|host| matches!(host, HostPattern::Exact(_))), &routes[0].host)
        else {
            panic!("{:?}", routes[0].host)
        };
        assert!(Arc::ptr_eq(key, name), "the host's key too");
    }
}
