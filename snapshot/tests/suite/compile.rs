//! What compile says about single things: certificates, references, classes, isolation of bad objects.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};
use sluicegate_snapshot::model::{KeyType, Resource};
use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::settings::HostPolicy;
use sluicegate_snapshot::table::{RouteTable, ServerName, Unbound};
use sluicegate_snapshot::{Delta, Edit, Kind, Mode, ObjectKey, ObjectRef, Settings, World};

use crate::objects::{objects, world};

/// A certificate for `names` by a key: PEM of both.
fn pem_with(names: &[&str], key: &PKey<Private>, days: u32) -> (String, String) {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "test").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(1_700_000_000).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(1_700_000_000 + i64::from(days) * 86_400).unwrap()).unwrap();
    let mut san = SubjectAlternativeName::new();
    for name in names {
        san.dns(name);
    }
    let san = san.build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(san).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    let certificate = String::from_utf8(builder.build().to_pem().unwrap()).unwrap();
    (certificate, String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap())
}

fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// PEM of certificate and key by names.
type Pairs = BTreeMap<Vec<String>, (String, String)>;

static CERTIFICATES: LazyLock<Mutex<Pairs>> = LazyLock::new(Mutex::default);

/// A certificate (ECDSA) for `names`, made once.
pub fn certificate_pem(names: &[&str]) -> (String, String) {
    let key = names.iter().map(|name| (*name).to_owned()).collect();
    CERTIFICATES.lock().unwrap().entry(key).or_insert_with(|| pem_with(names, &ec_key(), 3650)).clone()
}

fn secret(name: &str, (certificate, key): &(String, String)) -> String {
    let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: n}}\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(certificate),
        indent(key)
    )
}

fn tls_ingress(name: &str, tls: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: n}}\nspec:\n  tls: {tls}\n  rules: [{{host: a.test, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: s, port: {{number: 80}}}}}}}}]}}}}]\n"
    )
}

fn service() -> &'static str {
    "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n, annotations: {sluicegate.dev/endpoints: '10.0.0.1:80'}}\nspec: {ports: [{port: 80}]}\n"
}

fn reasons(world: &World) -> Vec<String> {
    world.diagnostics().iter().map(|diagnostic| format!("{} {}", diagnostic.object, diagnostic.reason)).collect()
}

fn joined(parts: &[&str]) -> String {
    parts.join("---\n")
}

fn certificates_of(world: &World, host: &str) -> Vec<String> {
    let host = host.parse().unwrap();
    world
        .snapshot()
        .tls_hosts
        .get(&host)
        .map(|host| host.certificates.iter().map(ToString::to_string).collect())
        .unwrap_or_default()
}

#[test]
fn certificate_facts_are_names_times_and_kind() {
    let pair = certificate_pem(&["a.test", "*.A.test"]);
    let facts = sluicegate_snapshot::facts::read_certificate(pair.0.as_bytes(), pair.1.as_bytes()).unwrap();
    assert_eq!(facts.names.iter().map(|name| &**name).collect::<Vec<_>>(), ["*.a.test", "a.test"]);
    assert_eq!((facts.not_before, facts.not_after), (1_700_000_000, 1_700_000_000 + 3650 * 86_400));
    assert_eq!(facts.key_type, KeyType::Ecdsa);
    assert!(
        facts.covers("a.test") && facts.covers("x.a.test") && !facts.covers("x.y.a.test") && !facts.covers("b.test")
    );
}

#[test]
fn a_key_that_does_not_fit_is_noticed() {
    let (one, other) = (certificate_pem(&["a.test"]), certificate_pem(&["b.test"]));
    let world = world(
        Settings::default(),
        &joined(&[&secret("t", &(one.0, other.1)), &tls_ingress("i", "[{hosts: [a.test], secretName: t}]"), service()]),
    );
    assert_eq!(reasons(&world), ["Ingress n/i CertificateKeyMismatch"]);
    let key = ObjectKey::new("n", "t");
    assert!(matches!(world.snapshot().certificates[&key], Resource::Invalid(_)));
}

#[test]
fn every_certificate_problem_has_its_reason() {
    let good = certificate_pem(&["a.test"]);
    for (content, reason) in [
        ("stringData: {tls.crt: x, tls.key: y}", "CertificateInvalid"),
        ("stringData: {tls.key: y}", "SecretIncomplete"),
        ("stringData: {tls.crt: x}", "SecretIncomplete"),
        ("data: {}", "SecretIncomplete"),
    ] {
        let secret = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: t, namespace: n}}\n{content}\n");
        let world = world(
            Settings::default(),
            &joined(&[&secret, &tls_ingress("i", "[{hosts: [a.test], secretName: t}]"), service()]),
        );
        assert_eq!(reasons(&world), [format!("Ingress n/i {reason}")], "{content}");
    }
    let world_of =
        |tls: &str| world(Settings::default(), &joined(&[&secret("t", &good), &tls_ingress("i", tls), service()]));
    assert_eq!(reasons(&world_of("[{hosts: [a.test], secretName: gone}]")), ["Ingress n/i SecretNotFound"]);
    assert_eq!(reasons(&world_of("[{hosts: [b.test], secretName: t}]")), ["Ingress n/i CertificateHostMismatch"]);
    assert!(reasons(&world_of("[{hosts: [a.test], secretName: t}]")).is_empty());
    assert!(reasons(&world_of("[{hosts: [a.test]}]")).is_empty(), "no secretName asks for the default certificate");
}

#[test]
fn rsa_and_ecdsa_serve_the_same_name() {
    let rsa = pem_with(&["a.test"], &PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(), 10);
    let ecdsa = certificate_pem(&["a.test"]);
    let tls = "[{hosts: [a.test], secretName: r}, {hosts: [a.test], secretName: e}, {hosts: [a.test], secretName: e2}]";
    let world = world(
        Settings::default(),
        &joined(&[&secret("r", &rsa), &secret("e", &ecdsa), &secret("e2", &ecdsa), &tls_ingress("i", tls), service()]),
    );
    assert_eq!(certificates_of(&world, "a.test"), ["n/r", "n/e"], "one of each type, the first of its type");
}

#[test]
fn without_hosts_the_certificates_own_names_count() {
    let good = certificate_pem(&["a.test", "*.w.test"]);
    let world =
        world(Settings::default(), &joined(&[&secret("t", &good), &tls_ingress("i", "[{secretName: t}]"), service()]));
    assert_eq!(certificates_of(&world, "a.test"), ["n/t"]);
    assert_eq!(certificates_of(&world, "*.w.test"), ["n/t"]);
}

#[test]
fn the_oldest_ingress_decides_about_a_server_name() {
    let good = certificate_pem(&["a.test"]);
    let aged = |name: &str, secret: &str, time: &str| {
        tls_ingress(name, &format!("[{{hosts: [a.test], secretName: {secret}}}]"))
            .replace(&format!("{{name: {name}"), &format!("{{creationTimestamp: '{time}', name: {name}"))
    };
    let world = world(
        Settings::default(),
        &joined(&[
            &secret("t1", &good),
            &secret("t2", &good),
            &aged("young", "t1", "2024-02-01T00:00:00Z"),
            &aged("old", "t2", "2024-01-01T00:00:00Z"),
            service(),
        ]),
    );
    assert_eq!(certificates_of(&world, "a.test"), ["n/t2"]);
}

#[test]
fn what_turns_bad_keeps_its_last_good_form_and_what_is_deleted_goes() {
    let good = certificate_pem(&["a.test"]);
    let mut world = world(
        Settings::default(),
        &joined(&[&secret("t", &good), &tls_ingress("i", "[{hosts: [a.test], secretName: t}]"), service()]),
    );
    let mut replica = Replica::default();
    replica.apply(&sluicegate_snapshot::Delta::full(world.snapshot()));
    let key = ObjectKey::new("n", "t");

    let bad = objects(&secret("t", &("x".into(), "y".into())));
    let change = replica.apply(&world.apply(bad.into_iter().map(Edit::Put)).delta);
    assert!(change.certificates[&key].is_some(), "the good certificate stays in force");
    assert_eq!(replica.held_back(), 1);
    let restored: Replica = serde_json::from_str(&serde_json::to_string(&replica).unwrap()).unwrap();
    assert_eq!(restored.held_back(), 1, "also across a restart");

    let change = replica.apply(&world.apply([Edit::Remove(Kind::Secret, key.clone())]).delta);
    assert!(change.certificates[&key].is_none(), "a deleted one does not");
    assert_eq!(replica.held_back(), 0);
}

#[test]
fn an_unreadable_endpoints_annotation_keeps_the_last_good_endpoints() {
    let mut world = world(Settings::default(), &joined(&[&tls_ingress("i", "[]"), service()]));
    let mut replica = Replica::default();
    replica.apply(&sluicegate_snapshot::Delta::full(world.snapshot()));
    let bad = objects(&service().replace("10.0.0.1:80", "nowhere"));
    let change = replica.apply(&world.apply(bad.into_iter().map(Edit::Put)).delta);
    let backend = change.backends.values().next().unwrap().clone().unwrap().unwrap();
    assert_eq!(backend.endpoints, ["10.0.0.1:80".parse().unwrap()]);
    assert!(reasons(&world).contains(&"Service n/s EndpointInvalid".to_owned()));
}

#[test]
fn an_edit_touches_only_what_depends_on_it() {
    let mut yaml = String::from(service());
    for index in 0..50 {
        yaml.push_str("---\n");
        yaml.push_str(&tls_ingress(&format!("i{index}"), "[]").replace("a.test", &format!("h{index}.test")));
    }
    let mut world = world(Settings::default(), &yaml);
    let edit = objects(&tls_ingress("i7", "[]").replace("a.test", "other.test"));
    let delta = world.apply(edit.into_iter().map(Edit::Put)).delta;
    let hosts: Vec<String> = delta.hosts.keys().map(ToString::to_string).collect();
    assert_eq!(hosts, ["h7.test", "other.test"]);
    assert!(delta.backends.is_empty() && delta.globals.is_none());
    let delta = world.apply(objects(&service().replace("10.0.0.1", "10.0.0.2")).into_iter().map(Edit::Put)).delta;
    assert!(delta.hosts.is_empty());
    assert_eq!(delta.backends.len(), 1);
    let unchanged = objects(&service().replace("10.0.0.1", "10.0.0.2"));
    assert!(world.apply(unchanged.into_iter().map(Edit::Put)).delta.is_empty());
}

#[test]
fn a_private_key_appears_in_no_output() {
    let good = certificate_pem(&["a.test"]);
    let world = world(
        Settings::default(),
        &joined(&[&secret("t", &good), &tls_ingress("i", "[{hosts: [a.test], secretName: t}]"), service()]),
    );
    let key = PKey::private_key_from_pem(good.1.as_bytes()).unwrap().private_key_to_pkcs8().unwrap();
    let text = format!("{:?} {}", world, serde_json::to_string(world.snapshot()).unwrap());
    assert!(!text.contains("PRIVATE KEY"));
    let needle = openssl::base64::encode_block(&key);
    assert!(!text.contains(&needle[40..80]));
}

#[test]
fn diagnostics_of_one_object_are_found_by_it() {
    let world = world(Settings::default(), &tls_ingress("i", "[]"));
    let ingress = ObjectRef::new(Kind::Ingress, &ObjectKey::new("n", "i"));
    let found = world.diagnostics_of(&ingress);
    assert_eq!(found.len(), 1);
    assert_eq!(&*found[0].field, "spec.rules[0].http.paths[0].backend");
    assert!(found[0].message.contains("Service n/s does not exist"));
}

/// A world, and a gateway's replica and table that follow it.
struct Followed {
    world: World,
    replica: Replica,
    table: RouteTable<Unbound>,
}

impl Followed {
    fn new(yaml: &str) -> Followed {
        let world = world(Settings::default(), yaml);
        let mut replica = Replica::default();
        let change = replica.apply(&Delta::full(world.snapshot()));
        Followed { world, replica, table: RouteTable::default().apply(&change, &mut Unbound) }
    }

    fn put(&mut self, yaml: &str) -> Delta {
        let delta = self.world.apply(objects(yaml).into_iter().map(Edit::Put)).delta;
        self.table = self.table.apply(&self.replica.apply(&delta), &mut Unbound);
        delta
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        let delta = self.world.apply([Edit::Remove(kind, ObjectKey::new("n", name))]).delta;
        self.table = self.table.apply(&self.replica.apply(&delta), &mut Unbound);
    }

    /// Names of the certificate that a server name gets; `None`: the default certificate.
    fn served(&self, host: &str) -> Option<Vec<String>> {
        match self.table.server_name(host) {
            ServerName::Certificates(found) => Some(found[0].names.iter().map(ToString::to_string).collect()),
            ServerName::Default | ServerName::KeyWithheld => None,
        }
    }
}

fn bad_secret(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: n}}\nstringData: {{tls.crt: x, tls.key: y}}\n"
    )
}

#[test]
fn a_bad_secret_keeps_serving_the_hosts_that_it_only_happens_to_cover() {
    let wild = secret("wild", &certificate_pem(&["*.w.test"]));
    let ingress = tls_ingress("i", "[{hosts: ['*.w.test'], secretName: wild}]").replace("a.test", "a.w.test");
    let mut followed = Followed::new(&joined(&[&wild, &ingress, service()]));
    assert_eq!(followed.served("a.w.test"), Some(vec!["*.w.test".to_owned()]));
    followed.put(&bad_secret("wild"));
    for host in ["a.w.test", "b.w.test"] {
        assert_eq!(followed.served(host), Some(vec!["*.w.test".to_owned()]), "{host}");
    }
}

#[test]
fn server_names_that_only_a_certificate_gave_live_as_long_as_its_last_good_form() {
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i, namespace: n}\nspec: {tls: [{secretName: t}], defaultBackend: {service: {name: s, port: {number: 80}}}}\n";
    let good = secret("t", &certificate_pem(&["shop.test"]));
    let mut followed = Followed::new(&joined(&[&good, ingress, service()]));
    assert!(followed.served("shop.test").is_some() && followed.table.has_tls("shop.test"));
    followed.put(&bad_secret("t"));
    assert!(followed.served("shop.test").is_some() && followed.table.has_tls("shop.test"), "kept");
    let restarted = RouteTable::<Unbound>::default().apply(&followed.replica.everything(), &mut Unbound);
    assert!(restarted.has_tls("shop.test"), "across a restart too");
    followed.put(&secret("t", &certificate_pem(&["other.test"])));
    assert!(
        followed.served("shop.test").is_none() && followed.served("other.test").is_some(),
        "good again, other names"
    );
    followed.put(&bad_secret("t"));
    followed.remove(Kind::Secret, "t");
    assert!(followed.served("other.test").is_none() && !followed.table.has_tls("other.test"), "deleted");
}

#[test]
fn a_last_good_certificate_is_not_served_to_a_host_that_it_does_not_name() {
    let ingress =
        |host: &str| tls_ingress("i", &format!("[{{hosts: [{host}], secretName: t}}]")).replace("a.test", host);
    let good = secret("t", &certificate_pem(&["old.test"]));
    let mut followed = Followed::new(&joined(&[&good, &ingress("old.test"), service()]));
    followed.put(&joined(&[&ingress("new.test"), &bad_secret("t")]));
    assert_eq!(followed.served("new.test"), None);
}

#[test]
fn the_names_in_a_certificate_do_not_take_a_host_away_from_the_ingress_that_serves_it() {
    let aged = |ingress: &str, time: &str| {
        ingress.replace("metadata: {", &format!("metadata: {{creationTimestamp: '{time}', "))
    };
    let both = secret("both", &certificate_pem(&["a.test", "b.test"]));
    let older = aged(
        &tls_ingress("older", "[{secretName: both}]").replace("host: a.test", "host: b.test"),
        "2020-01-01T00:00:00Z",
    );
    let plain = aged(&tls_ingress("young", "[]"), "2024-01-01T00:00:00Z");
    let followed = Followed::new(&joined(&[&both, &older, &plain, service()]));
    assert!(!followed.table.has_tls("a.test"), "a plain site is not redirected because of somebody else's certificate");
    let own = secret("own", &certificate_pem(&["a.test"]));
    let with_tls = aged(&tls_ingress("young", "[{hosts: [a.test], secretName: own}]"), "2024-01-01T00:00:00Z");
    let followed = Followed::new(&joined(&[&both, &own, &older, &with_tls, service()]));
    assert_eq!(followed.served("a.test"), Some(vec!["a.test".to_owned()]));
}

#[test]
fn a_wildcard_that_is_only_listed_redirects_no_site_with_rules_of_its_own() {
    let plain = tls_ingress("plain", "[]").replace("a.test", "shop.w.test");
    let listed = tls_ingress("listed", "[{hosts: ['*.w.test']}]").replace("namespace: n}", "namespace: m}");
    let followed = Followed::new(&joined(&[&plain, &listed, service()]));
    assert!(!followed.table.has_tls("shop.w.test") && followed.table.has_tls("other.w.test"));
    let ruled = listed.replace("host: a.test", "host: '*.w.test'");
    let followed = Followed::new(&joined(&[&plain, &ruled, service()]));
    assert!(followed.table.has_tls("shop.w.test"), "with a rule for it, as in ingress-nginx");
}

#[test]
fn a_certificate_that_loses_its_host_to_another_ingress_is_diagnosed() {
    let aged = |name: &str, secret: &str, time: &str| {
        tls_ingress(name, &format!("[{{hosts: [a.test], secretName: {secret}}}]"))
            .replace("metadata: {", &format!("metadata: {{creationTimestamp: '{time}', "))
            .replace("path: /,", &format!("path: /{name},"))
    };
    let good = certificate_pem(&["a.test"]);
    let old = aged("old", "t1", "2020-01-01T00:00:00Z");
    let young = aged("young", "t2", "2024-01-01T00:00:00Z");
    let world =
        world(Settings::default(), &joined(&[&secret("t1", &good), &secret("t2", &good), &old, &young, service()]));
    assert_eq!(reasons(&world), ["Ingress n/young CertificateConflict"]);
}

#[test]
fn names_that_no_object_can_have_are_refused_and_hurt_nobody() {
    // `80` as a name would be the same text as the number, and `a/b` could not be read back.
    let good = tls_ingress("good", "[]");
    let bad = |backend: &str| {
        tls_ingress("bad", "[{secretName: certs/wild}]")
            .replace("service: {name: s, port: {number: 80}}", backend)
            .replace("a.test", "b.test")
    };
    for backend in [
        "service: {name: s, port: {name: '80'}}",
        "service: {name: a/b, port: {number: 80}}",
        "service: {name: s, port: {name: http/1}}",
        "service: {name: s, port: {name: http, number: 80}}",
        "resource: {kind: ConfigMap, name: a/b}",
    ] {
        let world = world(Settings::default(), &joined(&[&good, &bad(backend), service()]));
        assert_eq!(reasons(&world), ["Ingress n/bad BackendInvalid", "Ingress n/bad SecretNotFound"], "{backend}");
        let text = serde_json::to_string(world.snapshot()).unwrap();
        let read: sluicegate_snapshot::Snapshot = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text, "{backend}");
        let table = RouteTable::<Unbound>::default()
            .apply(&Replica::default().apply(&Delta::full(world.snapshot())), &mut Unbound);
        let route = table.route("a.test", "/").unwrap();
        let sluicegate_snapshot::model::Target::Backend(key) = &route.target else { panic!("{route:?}") };
        assert_eq!(table.backend(key).unwrap().as_ref().unwrap().unavailable, None, "{backend}");
    }
}

#[test]
fn a_key_that_is_too_weak_to_be_served_is_diagnosed() {
    let weak = pem_with(&["a.test"], &PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap(), 10);
    let world = world(
        Settings::default(),
        &joined(&[&secret("t", &weak), &tls_ingress("i", "[{hosts: [a.test], secretName: t}]"), service()]),
    );
    assert_eq!(reasons(&world), ["Ingress n/i CertificateInvalid"]);
}

#[test]
fn what_the_settings_name_and_do_not_get_is_diagnosed() {
    let settings = Settings {
        default_certificate: Some(ObjectKey::new("n", "none")),
        default_backend: Some("n/none:80".parse().unwrap()),
        config_map: Some(ObjectKey::new("n", "none")),
        ..Settings::default()
    };
    let mut world = World::new(settings);
    world.apply([]);
    assert_eq!(
        reasons(&world),
        ["Service n/none ServiceNotFound", "Secret n/none SecretNotFound", "ConfigMap n/none ConfigMapNotFound"]
    );
    world.apply(objects(&service().replace("name: s", "name: none")).into_iter().map(Edit::Put));
    assert_eq!(reasons(&world).len(), 2);
}

#[test]
fn a_renewed_certificate_and_a_moved_pod_touch_nothing_but_themselves() {
    let mut yaml = joined(&[&secret("t", &certificate_pem(&["a.test", "*.w.test"])), service()]);
    for index in 0..50 {
        yaml.push_str("---\n");
        yaml.push_str(
            &tls_ingress(&format!("i{index}"), "[{secretName: t}]").replace("a.test", &format!("h{index}.w.test")),
        );
    }
    let mut followed = Followed::new(&yaml);
    let renewed = secret("t", &pem_with(&["a.test", "*.w.test"], &ec_key(), 10));
    let delta = followed.put(&renewed);
    assert_eq!(
        (delta.certificates.len(), delta.tls_hosts.len(), delta.hosts.len(), delta.backends.len()),
        (1, 0, 0, 0)
    );
    let outcome = followed.world.apply(objects(&service().replace("10.0.0.1", "10.0.0.2")).into_iter().map(Edit::Put));
    assert_eq!(outcome.delta.backends.len(), 1);
    assert!(outcome.diagnosed.is_empty(), "nobody's diagnostics change: {:?}", outcome.diagnosed);
}

#[test]
fn objects_print_as_their_name_and_never_as_their_content() {
    let objects = objects(&secret("t", &certificate_pem(&["a.test"])));
    assert_eq!(format!("{:?}", Edit::Put(objects[0].clone())), "Put(Secret n/t)");
}

#[test]
fn an_ending_certificate_is_told_in_time_and_a_renewed_one_not() {
    const DAY: i64 = 86_400;
    const START: i64 = 1_700_000_000;
    // A year: two weeks before its end. A week: a day before.
    for (days, warned) in [(365, 14), (7, 1)] {
        let end = START + i64::from(days) * DAY;
        let objects = joined(&[
            &secret("short", &pem_with(&["a.test"], &ec_key(), days)),
            &tls_ingress("i", "[{hosts: [a.test], secretName: short}]"),
            service(),
        ]);
        let mut world = world(Settings::default(), &objects);
        assert_eq!(reasons(&world), Vec::<String>::new(), "nobody told the time");
        for (now, said) in [
            (START, None),
            (end - warned * DAY - 1, None),
            (end - warned * DAY, Some("CertificateExpiring")),
            (end - 1, Some("CertificateExpiring")),
            (end, Some("CertificateExpired")),
            // A clock that was wrong.
            (START, None),
            (end + DAY, Some("CertificateExpired")),
        ] {
            let outcome = world.apply([Edit::Now(now)]);
            let expected: Vec<String> = said.iter().map(|reason| format!("Ingress n/i {reason}")).collect();
            assert_eq!(reasons(&world), expected, "{days} days, at {now}");
            assert!(outcome.delta.is_empty(), "what is served does not depend on the time");
        }
        let renewed = secret("short", &pem_with(&["a.test"], &ec_key(), days + 100));
        world.apply(crate::objects::objects(&renewed).into_iter().map(Edit::Put));
        assert_eq!(reasons(&world), Vec::<String>::new(), "renewed");
    }
}

/// The last good form of a certificate that turned bad stays, with the names that it named itself; but not for hosts of others.
#[test]
fn a_certificate_that_is_kept_is_not_served_for_a_host_of_another_namespace() {
    let of = |namespace: &str, text: String| text.replace("namespace: n}", &format!("namespace: {namespace}}}"));
    let victim = of("victim", tls_ingress("v", "[]")).replace("host: a.test", "host: a.example.test");
    let pair = certificate_pem(&["*.example.test", "b.example.test"]);
    let mallorys = joined(&[
        &of("mallory", secret("own", &pair)),
        &of("mallory", tls_ingress("m", "[{secretName: own}]")).replace("host: a.test", "host: m.test"),
    ]);
    let settings = Settings { host_policy: HostPolicy::PerNamespace, ..Settings::default() };
    let mut world = World::new(settings);
    let mut replica = Replica::default();
    let mut table = RouteTable::<Unbound>::default();
    let mut apply = |yaml: &str| {
        let delta = world.apply(crate::objects::objects(yaml).into_iter().map(Edit::Put)).delta;
        table = table.apply(&replica.apply(&delta), &mut Unbound);
        let served = |host: &str| !matches!(table.server_name(host), ServerName::Default);
        (served("a.example.test"), table.has_tls("a.example.test"), served("c.example.test"))
    };
    assert_eq!(apply(&victim), (false, false, false));
    assert_eq!(apply(&mallorys), (false, false, true), "names that nobody claims may be served");
    let broken = of("mallory", secret("own", &("rubbish".to_owned(), pair.1.clone())));
    assert_eq!(apply(&broken), (false, false, true), "what it was good for, it still is");
    // Broken first, and claimed afterwards.
    let late = of("victim", tls_ingress("late", "[]")).replace("host: a.test", "host: b.example.test");
    apply(&late);
    assert!(matches!(table.server_name("b.example.test"), ServerName::Default));
    assert!(!table.has_tls("b.example.test"));
}

/// Nobody makes somebody else's host, or the list of what is wrong, as large as they like.
#[test]
fn what_others_lose_is_remembered_up_to_a_limit() {
    let paths: Vec<String> = (0..150)
        .map(|n| format!("{{path: /{n}, pathType: Exact, backend: {{service: {{name: s, port: {{number: 80}}}}}}}}"))
        .collect();
    let ingress = |namespace: &str, second: u8| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: i, namespace: {namespace}, creationTimestamp: '2024-01-01T00:00:0{second}Z'}}\nspec: {{rules: [{{host: a.test, http: {{paths: [{}]}}}}]}}\n",
            paths.join(", ")
        )
    };
    let objects = joined(&[&ingress("first", 1), &ingress("second", 2)]);
    for host_policy in [HostPolicy::Shared, HostPolicy::PerNamespace] {
        let world = world(Settings { host_policy, ..Settings::default() }, &objects);
        let host = &world.snapshot().hosts[&"a.test".parse().unwrap()];
        assert_eq!((host.routes.len(), host.lost.len()), (150, 100));
    }
}

/// An Ingress of these paths of `a.test`.
fn paths(name: &str, paths: impl Iterator<Item = String>) -> String {
    let path = |path: String| {
        format!("{{path: '{path}', pathType: Exact, backend: {{service: {{name: s, port: {{number: 80}}}}}}}}")
    };
    let paths: Vec<String> = paths.map(path).collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: n}}\nspec: {{rules: [{{host: a.test, http: {{paths: [{}]}}}}]}}\n",
        paths.join(", ")
    )
}

/// A host that does not fit into a frame of the stream would keep everything from every gateway.
#[test]
fn a_host_has_so_many_paths_and_no_more() {
    let long = |number: usize| format!("/{number}/{}", "x".repeat(8000));
    let objects =
        joined(&[&paths("first", (0..2_500).map(long)), &paths("second", std::iter::once("/short".to_owned()))]);
    let world = world(Settings::default(), &objects);
    let host = &world.snapshot().hosts[&"a.test".parse().unwrap()];
    let bytes = serde_json::to_string(host).unwrap().len();
    assert!(
        host.routes.len() < 2_500 && bytes > 7 << 20 && bytes < 9 << 20,
        "{} routes, {bytes} bytes",
        host.routes.len()
    );
    // `second` sorts last, so it comes first.
    assert!(host.routes.iter().any(|route| *route.path == *"/short"));
    let full = |reason: &String| reason == "Ingress n/first HostFull";
    assert_eq!(reasons(&world).iter().filter(|reason| full(reason)).count(), 100, "the first of them are said");
}

#[test]
fn a_path_that_no_client_asks_for_is_skipped() {
    let of = |length: usize| format!("/{}", "x".repeat(length - 1));
    let world = world(Settings::default(), &paths("i", [8192, 8193].map(of).into_iter()));
    assert_eq!(world.snapshot().hosts[&"a.test".parse().unwrap()].routes.len(), 1);
    let wrong: Vec<_> =
        world.diagnostics().into_iter().filter(|wrong| wrong.reason.as_str() == "InvalidPath").collect();
    assert_eq!(wrong.len(), 1);
    assert!(
        wrong[0].message.contains("longer than 8192 bytes") && wrong[0].message.len() < 400,
        "{}",
        wrong[0].message
    );
}

#[test]
fn a_backend_has_so_many_endpoints_and_no_more() {
    let slice = |number: usize| {
        let endpoints: Vec<String> =
            (0..250).map(|last| format!("{{addresses: [10.{}.{}.{last}]}}", number / 256, number % 256)).collect();
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {{name: s{number}, namespace: n, labels: {{kubernetes.io/service-name: s}}}}\nports: [{{name: http, port: 80}}]\nendpoints: [{}]\n",
            endpoints.join(", ")
        )
    };
    let slices: Vec<String> = (0..100).map(slice).collect();
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\nspec: {ports: [{name: http, port: 80}]}\n";
    let objects =
        joined(&[service, &tls_ingress("i", "[]"), &joined(&slices.iter().map(String::as_str).collect::<Vec<_>>())]);
    let world = world(Settings::default(), &objects);
    let backend = world.snapshot().backends[&"n/s:80".parse().unwrap()].value().unwrap();
    assert_eq!(backend.endpoints.len(), 20_000);
    assert!(reasons(&world).contains(&"Ingress n/i EndpointInvalid".to_owned()), "{:?}", reasons(&world));
}

/// A hundred of one kind hide none of another.
#[test]
fn what_is_wrong_a_thousand_times_is_said_a_hundred_times() {
    let many = paths("i", (0..150).map(|number| format!("/{number}")))
        .replace("spec: {rules", "spec: {tls: [{hosts: [a.test], secretName: none}], rules");
    let all = reasons(&world(Settings::default(), &many));
    let count = |reason: &str| all.iter().filter(|line| line.ends_with(reason)).count();
    assert_eq!((count("ServiceNotFound"), count("SecretNotFound")), (100, 1), "{all:?}");
}

#[test]
fn a_server_name_has_so_many_secrets_and_no_more() {
    let entries: Vec<String> = (0..120).map(|n| format!("{{hosts: [a.test], secretName: s{n}}}")).collect();
    let world = world(Settings::default(), &tls_ingress("i", &format!("[{}]", entries.join(", "))));
    assert_eq!(world.snapshot().tls_hosts[&"a.test".parse().unwrap()].certificates.len(), 100);
    assert!(reasons(&world).contains(&"Ingress n/i CertificateConflict".to_owned()), "{:?}", reasons(&world));
}

#[test]
fn refused_endpoints_are_said_up_to_a_limit() {
    let endpoints: Vec<String> = (1..=40).map(|n| format!("{{addresses: [127.0.0.{n}]}}")).collect();
    let slice = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {{name: s, namespace: n}}\nports: [{{port: 80}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    );
    let world = world(Settings { mode: Mode::Cluster, ..Settings::default() }, &slice);
    assert_eq!(reasons(&world), vec!["EndpointSlice n/s EndpointRefused".to_owned(); 16]);
}
