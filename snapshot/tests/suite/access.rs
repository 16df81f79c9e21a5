//! Secrets and ConfigMaps that may not be read are unknown, not absent.

use std::sync::Arc;

use sluicegate_snapshot::compile::Access;
use sluicegate_snapshot::model::Resource;
use sluicegate_snapshot::{DiagnosticReason, Edit, Kind, Mode, ObjectKey, Settings, World};

use crate::objects;

const OBJECTS: &str = "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i, namespace: shop, annotations: {kubernetes.io/ingress.class: sluicegate}}
spec:
  tls: [{hosts: [a.test], secretName: tls}]
  rules: [{host: a.test, http: {paths: [{path: /, pathType: Prefix, backend: {resource: {kind: ConfigMap, name: files}}}]}}]
";

fn guarded() -> World {
    objects::world(Settings { mode: Mode::Cluster, guarded: true, ..Settings::default() }, OBJECTS)
}

fn access(kind: Kind, access: Access) -> Edit {
    Edit::Access(kind, Arc::from("shop"), access)
}

fn reasons(world: &World) -> Vec<DiagnosticReason> {
    world.diagnostics().iter().map(|diagnostic| diagnostic.reason).collect()
}

#[test]
fn what_is_being_listed_is_not_complained_about() {
    let world = guarded();
    assert_eq!(reasons(&world), []);
    let key = ObjectKey::new("shop", "tls");
    assert!(matches!(world.snapshot().certificates[&key], Resource::Invalid(_)), "a gateway keeps what it had");
    assert_eq!(world.namespaces_of_secrets().into_iter().collect::<Vec<_>>(), [Arc::from("shop")]);
    assert_eq!(world.namespaces_of_config_maps().into_iter().collect::<Vec<_>>(), [Arc::from("shop")]);
}

#[test]
fn what_is_granted_and_not_there_does_not_exist() {
    let mut world = guarded();
    world.apply([access(Kind::Secret, Access::Granted), access(Kind::ConfigMap, Access::Granted)]);
    let mut found = reasons(&world);
    found.sort();
    assert_eq!(found, [DiagnosticReason::ConfigMapNotFound, DiagnosticReason::SecretNotFound]);
    assert!(world.snapshot().certificates.is_empty());
}

#[test]
fn what_is_denied_is_told_with_the_command_that_grants_it() {
    for (user, whom) in [
        (Some("system:serviceaccount:edge:controller"), "--serviceaccount edge:controller"),
        (Some("jane"), "--user jane"),
        (None, "--serviceaccount NAMESPACE:NAME"),
    ] {
        let mut world = guarded();
        let denied = || Access::Denied { user: user.map(Into::into) };
        world.apply([access(Kind::Secret, denied()), access(Kind::ConfigMap, denied())]);
        let mut found = reasons(&world);
        found.sort();
        assert_eq!(found, [DiagnosticReason::ConfigMapAccessDenied, DiagnosticReason::SecretAccessDenied]);
        for diagnostic in world.diagnostics() {
            let command = format!(
                "kubectl create rolebinding sluicegate --namespace shop --clusterrole sluicegate-secret-reader {whom}"
            );
            assert!(diagnostic.message.ends_with(&command), "{}", diagnostic.message);
        }
    }
}

#[test]
fn a_denial_removes_nothing_that_was_read() {
    let mut world = guarded();
    let (certificate, key) = crate::compile::certificate_pem(&["a.test"]);
    let secret = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls", "namespace": "shop"}, "stringData": {"tls.crt": certificate, "tls.key": key}});
    world.apply([Edit::Put(objects::object(secret)), access(Kind::Secret, Access::Granted)]);
    world.apply([access(Kind::Secret, Access::Denied { user: None })]);
    assert!(matches!(world.snapshot().certificates[&ObjectKey::new("shop", "tls")], Resource::Valid(_)));
    assert!(!reasons(&world).contains(&DiagnosticReason::SecretAccessDenied), "what it names is known");
}
