//! TLS that is not ended here: which hosts of an Ingress, and to which backend (`sluicegate.dev/tls-passthrough`).

use std::collections::BTreeMap;

use super::claims::{Claims, PathClaim};
use crate::diagnostic::DiagnosticReason;
use crate::facts::{IngressFacts, TLS_PASSTHROUGH};
use crate::key::{HostPattern, ObjectRef};
use crate::model::Target;

impl Claims {
    /// Finds the route that takes the TLS of each host, where the Ingress passes it through.
    pub(super) fn read_passthrough(&mut self, ingress: &IngressFacts, object: &ObjectRef) {
        let wrong = match ingress.tls_passthrough {
            Some(Some(true)) if ingress.tls.iter().all(|entry| entry.secret.is_some()) => {
                vec!["no entry of spec.tls is without a secretName; TLS is ended here".to_owned()]
            }
            Some(Some(true)) => self.pass_through(),
            Some(None) => vec!["expected \"true\" or \"false\"; TLS is ended here".to_owned()],
            Some(Some(false)) | None => Vec::new(),
        };
        for message in wrong {
            let field = format!("metadata.annotations[{TLS_PASSTHROUGH}]");
            self.report(object, DiagnosticReason::AnnotationInvalid, field, message);
        }
    }

    /// Takes the route of `/` of each host, since no path is seen. Returns what is wrong.
    fn pass_through(&mut self) -> Vec<String> {
        let (mut passes, mut wrong) = (BTreeMap::new(), Vec::new());
        for (host, paths) in &self.hosts {
            let takes_all =
                |claim: &&PathClaim| claim.route.path_type.is_prefix() && claim.route.match_path().is_empty();
            let of_path = paths.iter().find(takes_all).map(|claim| claim.route.clone());
            let route = of_path.or_else(|| self.default_for(host));
            match route.filter(|route| matches!(route.target, Target::Backend(_))) {
                Some(_) if *host == HostPattern::Any => {
                    wrong.push("a rule without a host has no server name; its TLS is ended here".to_owned());
                }
                Some(route) => {
                    if paths.len() > 1 {
                        wrong.push(format!("TLS of {host} goes to the backend of `/`: no other path can be seen"));
                    }
                    passes.insert(host.clone(), route);
                }
                None => wrong.push(format!("no Service takes `/` of {host}; its TLS is ended here")),
            }
        }
        self.passes = passes;
        wrong
    }
}
