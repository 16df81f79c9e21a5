//! Whose host it is, where namespaces do not trust each other ([`HostPolicy`]).
//!
//! Who does not own a host gets nothing of it: no path, no default backend, no certificate, no redirect. What is lost is
//! said at the Ingress that lost it.
//!
//! Controllers record whose a host is, and that counts until they record something else: who claims it no more has still left it to
//! nobody. What is not recorded goes by the age of the Ingresses ([`Settings::host_records`](crate::Settings::host_records)).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::claims::{Claims, TlsRank};
use super::host::MAX_LOST;
use super::{Dirty, World};
use crate::diagnostic::{Diagnostic, DiagnosticReason};
use crate::facts::record_of;
use crate::key::{HostPattern, Kind, ObjectKey, ObjectRef, parent_of};
use crate::model::{Lost, TlsHost, VirtualHost};
use crate::settings::HostPolicy;

/// What decides about a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Title {
    /// Every namespace may claim it.
    Everybody,
    /// The namespace of this Ingress, which claimed the host or a wildcard above it first.
    First(ObjectKey, HostPattern),
    /// This namespace, for which this pattern is recorded and which does not claim it any more.
    Reserved(Arc<str>, HostPattern),
    /// The namespaces that the operator lists.
    Listed,
}

/// Whose a host is, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// This namespace has it, and claims it itself.
    Namespace(Arc<str>),
    /// The namespace that it is recorded for claims it no more, and others wait: for the host, or for names below a wildcard.
    Disputed,
    /// Nobody's.
    Nobody,
}

/// Claims of those who may have a host, and of those who may not; each in order of precedence.
pub(super) type Divided<'a> = (Vec<&'a Arc<Claims>>, Vec<&'a Arc<Claims>>);

/// What is remembered of a wildcard, since hosts below it depend on it: the first rule for it of its owner, and the namespace whose
/// certificates it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Above {
    stand: Option<Stand>,
    certificates: Option<Arc<str>>,
}

/// Place in the order of precedence.
type Rank = (i64, Reverse<String>);

/// What hosts below a wildcard see of it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    Claimed(bool, Rank),
    Reserved(Arc<str>),
}

/// Who has a pattern.
enum Holder<'a> {
    /// The first claim of whoever has it, and whether that is recorded.
    Claims(&'a Arc<Claims>, bool),
    /// Nobody who claims it: it is recorded for this namespace.
    Reserved(&'a Arc<str>),
}

impl Holder<'_> {
    /// What is recorded comes first, and for the pattern itself before the wildcard above it; then the age decides.
    fn precedence(&self, is_own: bool) -> (u8, Option<Rank>) {
        match (self, is_own) {
            (Holder::Claims(_, true) | Holder::Reserved(_), true) => (0, None),
            // What is recorded of a wildcard was so before somebody came who has no record of his own.
            (Holder::Claims(_, true) | Holder::Reserved(_), false) => (1, None),
            (Holder::Claims(claims, false), _) => (2, Some(rank(claims))),
        }
    }
}

/// The wildcard whose hosts a host is one of.
fn above(host: &HostPattern) -> Option<HostPattern> {
    match host {
        HostPattern::Exact(name) => parent_of(name).map(|parent| HostPattern::Wildcard(Arc::from(parent))),
        HostPattern::Any | HostPattern::Wildcard(_) => None,
    }
}

/// Whether a `tls` entry of the Ingress claims the name by its list or a rule, and not only by what its certificate names.
fn lists(claims: &Claims, host: &HostPattern) -> bool {
    claims.tls.get(host).into_iter().flatten().any(|claim| claim.rank != TlsRank::OwnName)
}

fn rank(claims: &Claims) -> Rank {
    (claims.created, Reverse(claims.ingress.to_string()))
}

impl World {
    /// Who decides about a host: who has a rule for it or lists it in `tls`, or has a rule for the wildcard above it and owns that. Of
    /// several whose record says so, and else the first. A listed wildcard is a claim to the certificate of that name, and none to the
    /// hosts below.
    pub(super) fn title(&self, host: &HostPattern) -> Title {
        match &self.settings.host_policy {
            HostPolicy::Shared => return Title::Everybody,
            HostPolicy::AllowList(_) => return Title::Listed,
            HostPolicy::PerNamespace => {}
        }
        let own = self.holder(host).map(|holder| (holder, host.clone()));
        let inherited = above(host).and_then(|above| Some((self.holder_below(&above)?, above)));
        let first = own.into_iter().chain(inherited);
        match first.min_by_key(|(holder, pattern)| holder.precedence(pattern == host)) {
            None => Title::Everybody,
            Some((Holder::Claims(claims, _), pattern)) => Title::First(claims.ingress.clone(), pattern),
            Some((Holder::Reserved(namespace), pattern)) => Title::Reserved(namespace.clone(), pattern),
        }
    }

    /// Who has exactly this pattern: the namespace that it is recorded for, else the first that claims it.
    fn holder(&self, host: &HostPattern) -> Option<Holder<'_>> {
        let Some(owner) = self.recorded(host) else {
            return Some(Holder::Claims(self.claiming(host).min_by_key(|claims| rank(claims))?, false));
        };
        let of_owner = self.claiming(host).filter(|claims| claims.ingress.namespace == *owner);
        Some(match of_owner.min_by_key(|claims| rank(claims)) {
            Some(claims) => Holder::Claims(claims, true),
            None => Holder::Reserved(owner),
        })
    }

    /// The namespace that a pattern is recorded for.
    fn recorded(&self, host: &HostPattern) -> Option<&Arc<str>> {
        let record = record_of(self.settings.host_records.as_ref()?, host);
        self.store.host_owners.get(&record)?.owners.get(host)
    }

    /// Who claims exactly this pattern. An Ingress without rules claims all hosts that nobody names.
    fn claiming<'a>(&'a self, host: &HostPattern) -> impl Iterator<Item = &'a Arc<Claims>> {
        let with_rule = self.by_host.of(host).filter_map(|key| self.claims.get(key));
        let listing = self.by_tls_host.of(host).filter_map(|key| self.claims.get(key));
        let catching = (*host == HostPattern::Any).then_some(&self.catch_alls).into_iter().flatten();
        let catching = catching.filter_map(|key| self.claims.get(key));
        let listing = listing.filter(|claims| lists(claims, host));
        with_rule.chain(listing).chain(catching)
    }

    /// Who has the names below a wildcard: the first rule for it in the namespace that owns it. Whoever only tries to have it has
    /// nothing below either, and who has only its certificate leaves the names to others.
    fn holder_below(&self, wildcard: &HostPattern) -> Option<Holder<'_>> {
        let (owner, is_recorded) = match self.holder(wildcard)? {
            Holder::Claims(claims, is_recorded) => (&claims.ingress.namespace, is_recorded),
            reserved @ Holder::Reserved(_) => return Some(reserved),
        };
        let with_rule = self.by_host.of(wildcard).filter_map(|key| self.claims.get(key));
        let of_owner = with_rule.filter(|claims| claims.ingress.namespace == *owner);
        Some(Holder::Claims(of_owner.min_by_key(|claims| rank(claims))?, is_recorded))
    }

    /// Whether a namespace may have a host.
    pub(super) fn may_have(&self, title: &Title, host: &HostPattern, namespace: &Arc<str>) -> bool {
        match (title, &self.settings.host_policy) {
            (Title::Everybody, _) => true,
            (Title::First(owner, _), _) => owner.namespace == *namespace,
            (Title::Reserved(owner, _), _) => owner == namespace,
            (Title::Listed, HostPolicy::AllowList(list)) => list.allows(namespace, host),
            (Title::Listed, _) => false,
        }
    }

    /// The owner that a host's entry names.
    pub(super) fn owner(title: &Title, host: &HostPattern) -> Option<Arc<str>> {
        match (title, host) {
            (_, HostPattern::Any) | (Title::Everybody | Title::Listed, _) => None,
            (Title::First(owner, _), _) => Some(owner.namespace.clone()),
            (Title::Reserved(owner, _), _) => Some(owner.clone()),
        }
    }

    pub(super) fn divide<'a>(&self, title: &Title, host: &HostPattern, claims: Vec<&'a Arc<Claims>>) -> Divided<'a> {
        claims.into_iter().partition(|claims| self.may_have(title, host, &claims.ingress.namespace))
    }

    /// An entry without routes for a host that is kept for who is away: else a wildcard above it or a catch-all of somebody else would
    /// have it meanwhile.
    pub(super) fn keep(title: &Title, host: &HostPattern) -> Option<VirtualHost> {
        match (title, host) {
            (_, HostPattern::Any) => None,
            (Title::Reserved(_, pattern), _) if pattern == host => {
                Some(VirtualHost { owner: Self::owner(title, host), ..VirtualHost::default() })
            }
            _ => None,
        }
    }

    /// An entry without certificates for a host whose wildcard has those of somebody who may not have the host.
    pub(super) fn shield(&self, title: &Title, host: &HostPattern) -> Option<TlsHost> {
        if !self.by_host.contains(host) && Self::keep(title, host).is_none() {
            return None;
        }
        let certificates = self.above.get(&above(host)?)?.certificates.as_ref()?;
        (!self.may_have(title, host, certificates)).then(TlsHost::default)
    }

    /// Whether somebody has a rule for a host, and may have the host.
    pub(super) fn is_ruled(&self, title: &Title, host: &HostPattern) -> bool {
        self.by_host.of(host).any(|ingress| self.may_have(title, host, &ingress.namespace))
    }

    /// Hosts that a change of others may give to somebody else: those below a wildcard.
    pub(super) fn mark_owned(&mut self, dirty: &mut Dirty) {
        if self.settings.host_policy == HostPolicy::Shared {
            return;
        }
        let is_wildcard = |host: &&HostPattern| matches!(host, HostPattern::Wildcard(_));
        let wildcards: BTreeSet<HostPattern> =
            dirty.hosts.iter().chain(&dirty.tls_hosts).filter(is_wildcard).cloned().collect();
        let mut changed: BTreeSet<Arc<str>> = BTreeSet::new();
        for wildcard in wildcards {
            let now = self.look_above(&wildcard);
            let before = match now == Above::default() {
                true => self.above.remove(&wildcard),
                false => self.above.insert(wildcard.clone(), now.clone()),
            };
            if before.unwrap_or_default() != now
                && let HostPattern::Wildcard(suffix) = wildcard
            {
                changed.insert(suffix);
            }
        }
        if !changed.is_empty() {
            self.mark_below(&changed, dirty);
        }
        // A rule without a host and a default backend are claims to the same.
        dirty.globals |= dirty.hosts.contains(&HostPattern::Any) || dirty.tls_hosts.contains(&HostPattern::Any);
        // Rules and certificates of a host have one owner, whom either may name.
        let hosts: BTreeSet<HostPattern> = dirty.hosts.union(&dirty.tls_hosts).cloned().collect();
        let may_have_entry = |host: &&HostPattern| {
            // Also without a rule: one that is kept, or was.
            self.by_host.contains(host) || self.recorded(host).is_some() || self.snapshot.hosts.contains_key(*host)
        };
        dirty.hosts.extend(hosts.iter().filter(may_have_entry).cloned());
        dirty.tls_hosts.extend(hosts);
        dirty.tls_hosts.remove(&HostPattern::Any);
        if dirty.globals && self.by_host.contains(&HostPattern::Any) {
            dirty.hosts.insert(HostPattern::Any);
        }
    }

    /// Marks hosts whose record is another one.
    pub(super) fn mark_recorded(&self, record: &ObjectKey, hosts: BTreeSet<HostPattern>, dirty: &mut Dirty) {
        let Some(prefix) = &self.settings.host_records else { return };
        dirty.tls_hosts.extend(hosts.into_iter().filter(|host| record_of(prefix, host) == *record));
    }

    /// Whose the hosts are that were looked at: what is to be recorded of them.
    pub(super) fn owners_of(&self, dirty: &Dirty) -> BTreeMap<HostPattern, Whose> {
        if self.settings.host_policy != HostPolicy::PerNamespace || self.settings.host_records.is_none() {
            return BTreeMap::new();
        }
        let any = dirty.globals.then_some(&HostPattern::Any);
        let hosts = dirty.hosts.iter().chain(&dirty.tls_hosts).chain(any);
        hosts.map(|host| (host.clone(), self.whose(host))).collect()
    }

    fn whose(&self, host: &HostPattern) -> Whose {
        let mut claiming = self.claiming(host);
        match self.title(host) {
            // Of a host that is somebody's by a wildcard nothing has to be remembered but the wildcard.
            Title::First(ingress, _) if claiming.any(|claims| claims.ingress.namespace == ingress.namespace) => {
                Whose::Namespace(ingress.namespace)
            }
            Title::Reserved(_, pattern) if pattern == *host => {
                let by_wildcard = || above(host).and_then(|above| self.holder_below(&above)).is_some();
                let is_awaited = matches!(host, HostPattern::Wildcard(_)) || claiming.next().is_some() || by_wildcard();
                if is_awaited { Whose::Disputed } else { Whose::Nobody }
            }
            _ => Whose::Nobody,
        }
    }

    fn look_above(&self, wildcard: &HostPattern) -> Above {
        let with_tls = self.ranked(self.by_tls_host.of(wildcard));
        let (of_tls, _) = self.divide(&self.title(wildcard), wildcard, with_tls);
        let strongest =
            |claims: &&&Arc<Claims>| claims.tls.get(wildcard).into_iter().flatten().map(|claim| claim.rank).min();
        Above {
            stand: self.holder_below(wildcard).map(|holder| match holder {
                Holder::Claims(claims, is_recorded) => Stand::Claimed(is_recorded, rank(claims)),
                Holder::Reserved(namespace) => Stand::Reserved(namespace.clone()),
            }),
            certificates: of_tls.iter().min_by_key(strongest).map(|claims| claims.ingress.namespace.clone()),
        }
    }

    /// Hosts that somebody claims, or that are recorded, below these names. Looks at all hosts once: a wildcard rarely changes hands.
    fn mark_below(&self, suffixes: &BTreeSet<Arc<str>>, dirty: &mut Dirty) {
        let is_below = |host: &&HostPattern| match host {
            HostPattern::Exact(name) => parent_of(name).is_some_and(|parent| suffixes.contains(parent)),
            HostPattern::Any | HostPattern::Wildcard(_) => false,
        };
        dirty.hosts.extend(self.by_host.keys_from(&HostPattern::Any).filter(is_below).cloned());
        dirty.tls_hosts.extend(self.by_tls_host.keys_from(&HostPattern::Any).filter(is_below).cloned());
        let recorded = self.store.host_owners.values().flat_map(|record| record.owners.keys());
        dirty.tls_hosts.extend(recorded.filter(is_below).cloned());
    }
}

/// Says what is refused, and remembers it for `explain`.
pub(super) fn refuse_rules(
    host: &HostPattern,
    title: &Title,
    refused: &[&Arc<Claims>],
    built: Option<&mut VirtualHost>,
) -> Vec<Diagnostic> {
    let of_paths = |claims: &&Arc<Claims>| claims.hosts.get(host).cloned().unwrap_or_default();
    if let (Title::First(winner, _), Some(built)) = (title, built) {
        let room = MAX_LOST.saturating_sub(built.lost.len());
        let lost = refused.iter().flat_map(|claims| {
            of_paths(claims).into_iter().map(|claim| Lost {
                ingress: claims.ingress.clone(),
                path: claim.route.path.clone(),
                path_type: claim.route.path_type,
                winner: winner.clone(),
            })
        });
        built.lost.extend(lost.take(room));
    }
    let diagnostic = |claims: &&Arc<Claims>| {
        let first = of_paths(claims).into_iter().next();
        let rule =
            first.as_ref().and_then(|claim| claim.field.split_once(".http")).map_or("spec.rules", |(rule, _)| rule);
        refusal(host, title, claims, &format!("{rule}.host"), "its rules for it take no request")
    };
    refused.iter().map(diagnostic).collect()
}

/// Says which certificates are refused. Who has a rule for the host as well has been told; who only has a certificate that
/// names it claims nothing.
pub(super) fn refuse_certificates(host: &HostPattern, title: &Title, refused: &[&Arc<Claims>]) -> Vec<Diagnostic> {
    let told = |claims: &&&Arc<Claims>| claims.hosts.contains_key(host);
    let diagnostic = |claims: &&Arc<Claims>| {
        let claim = claims.tls.get(host)?.iter().find(|claim| claim.rank != TlsRank::OwnName)?;
        Some(refusal(host, title, claims, &format!("{}.hosts", claim.field), "its certificate is not served there"))
    };
    refused.iter().filter(|claims| !told(claims)).filter_map(diagnostic).collect()
}

/// Says that a default backend for everything is refused.
pub(super) fn refuse_catch_all(title: &Title, claims: &Claims) -> Diagnostic {
    refusal(&HostPattern::Any, title, claims, "spec.defaultBackend", "it takes no request")
}

fn refusal(host: &HostPattern, title: &Title, claims: &Claims, field: &str, effect: &str) -> Diagnostic {
    let object = ObjectRef::new(Kind::Ingress, &claims.ingress);
    let host = match host {
        HostPattern::Any => "every host that no other rule names".to_owned(),
        host => host.to_string(),
    };
    match title {
        Title::First(owner, pattern) => {
            let through = match *pattern.to_string() == *host || *pattern == HostPattern::Any {
                true => String::new(),
                false => format!(" with {pattern}"),
            };
            let message = format!(
                "{host} belongs to namespace {}, whose Ingress {owner} claimed it first{through}; {effect} (hostPolicy: perNamespace)",
                owner.namespace
            );
            Diagnostic::new(object, DiagnosticReason::HostOwned, field, message)
        }
        Title::Reserved(owner, pattern) => {
            let message = format!(
                "{host} is kept for namespace {owner}, which had {pattern} until now, in case that comes back; {effect} (hostPolicy: perNamespace)"
            );
            Diagnostic::new(object, DiagnosticReason::HostOwned, field, message)
        }
        Title::Listed | Title::Everybody => {
            let message = format!(
                "namespace {} may not have {host}; {effect}. The operator allows hosts with allowedHosts (hostPolicy: allowList)",
                claims.ingress.namespace
            );
            Diagnostic::new(object, DiagnosticReason::HostNotAllowed, field, message)
        }
    }
}
