//! Manifests: whatever a file says, what can be read of it is compiled, and the rest is told.

use rand::rngs::StdRng;
use sluicegate::manifests::read::read;
use sluicegate_snapshot::{Edit, Settings, World};

use super::{Taken, feed};

fn check(bytes: &[u8], _: &mut StdRng) -> Taken {
    let text = String::from_utf8_lossy(bytes);
    let (documents, _) = read("fuzz.yaml", &text);
    let taken = documents.iter().any(|document| document.object.is_some());
    let mut world = World::new(Settings::default());
    world.apply(documents.into_iter().filter_map(|document| Some(Edit::Put(document.object?.0))));
    // Every problem is told in words.
    for diagnostic in world.diagnostics() {
        assert!(!diagnostic.message.is_empty());
    }
    if taken { Taken::Yes } else { Taken::No }
}

#[test]
fn whatever_a_file_says_is_compiled_or_told() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/quickstart/manifests");
    let mut seeds: Vec<Vec<u8>> =
        std::fs::read_dir(directory).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    seeds.push(ANNOTATED.into());
    println!("{}", feed("manifests", seeds, 20, check));
}

const ANNOTATED: &str = "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  namespace: default
  annotations:
    nginx.ingress.kubernetes.io/proxy-body-size: 8m
    nginx.ingress.kubernetes.io/ssl-redirect: 'false'
    sluicegate.dev/stream-timeout: 30s
    sluicegate.dev/tls-passthrough: 'true'
spec:
  ingressClassName: sluicegate
  defaultBackend: {service: {name: web, port: {number: 80}}}
  tls: [{hosts: [a.test, '*.b.test'], secretName: web}]
  rules:
  - host: a.test
    http:
      paths:
      - {path: /a, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}
      - {path: /b, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, annotations: {sluicegate.dev/endpoints: '127.0.0.1:1,[::1]:2'}}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
";
