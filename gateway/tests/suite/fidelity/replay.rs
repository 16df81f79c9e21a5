//! Sends a case's requests, and reduces answers to what is compared.

use std::collections::BTreeMap;

use openssl::ssl::{SslConnectorBuilder, SslVersion};
use serde_json::{Value, json};

use super::case::{Case, Request};
use super::echoes::{Echoes, Seen};
use crate::client::{self, Response, Tls, h2c};
use crate::harness::{Gateway, eventually};

/// What is compared of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Observed {
    /// One request.
    Single {
        status: Option<u64>,
        /// Name of the certificate's file; `default` for the gateway's own.
        certificate: Option<String>,
        location: Option<String>,
        upstream: Vec<Seen>,
    },
    /// Many equal requests: how many answers of each status.
    Many(BTreeMap<String, u64>),
}

/// A case in progress.
pub struct Replay<'a> {
    pub gateway: &'a Gateway,
    pub echoes: &'a Echoes,
    pub case: &'a Case,
}

impl Replay<'_> {
    /// Puts the objects in force. A host that no case had before shows that they are.
    pub fn apply(&self, index: usize) {
        let host = format!("ready-{index}.fidelity.test");
        let meta = json!({"namespace": "fidelity-ready", "name": "ready"});
        let mut objects = vec![
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}}),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "fidelity-ready", "name": "ready",
                "annotations": {"sluicegate.dev/endpoints": "127.0.1.12:8080"}}, "spec": {"ports": [{"port": 80}]}}),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": {"ingressClassName": "nginx",
                "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "ready", "port": {"number": 80}}}}]}}]}}),
        ];
        objects.extend(self.case.manifests.iter().cloned());
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        self.gateway.write("main.yaml", &documents.join("\n---\n"));
        eventually(&self.case.name, || self.gateway.admin_page("/table").text().contains(&host).then_some(()));
        self.echoes.take();
    }

    /// What was recorded.
    pub fn expected(&self, request: &Request) -> Observed {
        let expect = &request.expect;
        if let Some(statuses) = expect["statuses"].as_object() {
            return Observed::Many(
                statuses.iter().map(|(key, count)| (key.clone(), count.as_u64().unwrap())).collect(),
            );
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut upstream: Vec<Seen> = expect["upstream"].as_array().into_iter().flatten().map(recorded).collect();
        upstream.sort();
        Observed::Single {
            status: expect["status"].as_u64(),
            certificate: text(&expect["cert"]),
            location: text(&expect["headers"]["location"]),
            upstream,
        }
    }

    /// What the gateway does.
    pub fn send(&self, request: &Request) -> Observed {
        self.echoes.take();
        if request.count.is_some_and(|count| count > 1) {
            return self.send_many(request);
        }
        let (response, certificate) = self.exchange(request);
        let response = response.as_ref();
        Observed::Single {
            status: response.map(|response| response.status.into()),
            certificate,
            location: response.and_then(|response| response.header("location")).map(str::to_owned),
            upstream: self.echoes.take(),
        }
    }

    fn send_many(&self, request: &Request) -> Observed {
        let mut statuses = BTreeMap::new();
        let mut kept = request.keepalive.then(|| client::connect(self.gateway.http));
        for _ in 0..request.count.unwrap_or(1) {
            let status = match &mut kept {
                Some(connection) => {
                    connection.send(bytes(request));
                    connection.read(request.method == "HEAD").status.to_string()
                }
                None => match self.exchange(request).0 {
                    Some(response) => response.status.to_string(),
                    None => "error".to_owned(),
                },
            };
            *statuses.entry(status).or_default() += 1;
        }
        Observed::Many(statuses)
    }

    /// One request on a connection of its own; the second value names the certificate.
    fn exchange(&self, request: &Request) -> (Option<Response>, Option<String>) {
        if request.version.as_deref() == Some("2") {
            return self.exchange_h2(request);
        }
        let is_head = request.method == "HEAD";
        if request.scheme.as_deref() != Some("https") {
            let plain_on_tls = request.port.as_deref() == Some("https");
            let address = if plain_on_tls { self.gateway.https } else { self.gateway.http };
            let mut connection = client::connect(address);
            connection.send(proxy_header(request));
            connection.send(bytes(request));
            let answer = (request.expect["error"] != "closed").then(|| connection.read(is_head));
            assert!(answer.is_some() || connection.is_closed(), "{} is answered", request.name);
            return (answer, None);
        }
        let name = server_name(request);
        let tls = match request.tls_max.as_deref() {
            Some("1.2") => Tls::new().configure(|builder| only(builder, SslVersion::TLS1_2)),
            Some("1.1") => Tls::new().configure(|builder| {
                builder.set_security_level(0);
                only(builder, SslVersion::TLS1_1);
            }),
            _ => Tls::new(),
        };
        let mut tcp = client::connect(self.gateway.https);
        tcp.send(proxy_header(request));
        let Ok(mut connection) = tls.try_over(tcp.stream, name.as_deref()) else { return (None, None) };
        let certificate = certificate_name(&connection.certificate());
        connection.send(bytes(request));
        (Some(connection.read(is_head)), Some(certificate))
    }

    fn exchange_h2(&self, request: &Request) -> (Option<Response>, Option<String>) {
        let host = request.host.clone().unwrap_or_default();
        let certificate = Tls::new().connect(self.gateway.https, Some(&host)).certificate();
        let response = h2c::run(async {
            let (mut client, _connection) = h2c::connect(self.gateway.https, &host).await;
            let url = format!("https://{host}{}", request.target);
            let message = http::Request::builder().method(request.method.as_str()).uri(url).body(()).unwrap();
            let body = request.body.iter().map(|body| bytes::Bytes::from(body.clone())).collect();
            h2c::exchange(&mut client, message, body, None).await.unwrap().0
        });
        // The recording's h2 client does not look at certificates.
        let looked = request.expect.get("cert").is_some();
        (Some(response), looked.then(|| certificate_name(&certificate)))
    }
}

fn only(builder: &mut SslConnectorBuilder, version: SslVersion) {
    builder.set_min_proto_version(Some(version)).unwrap();
    builder.set_max_proto_version(Some(version)).unwrap();
}

fn recorded(upstream: &Value) -> Seen {
    let text = |key: &str| upstream[key].as_str().unwrap_or_default().to_owned();
    Seen {
        backend: text("backend"),
        target: text("target"),
        method: text("method"),
        port: upstream["port"].as_u64().unwrap_or_default() as u16,
    }
}

/// The request as the recording's client writes it.
fn bytes(request: &Request) -> Vec<u8> {
    let mut head =
        format!("{} {} HTTP/{}\r\n", request.method, request.target, request.version.as_deref().unwrap_or("1.1"));
    if let Some(host) = &request.host {
        head.push_str(&format!("Host: {host}\r\n"));
    }
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let made = "0123456789abcdef".bytes().cycle().take(request.body_size.unwrap_or(0));
    let body: Vec<u8> = request.body.iter().flat_map(|body| body.bytes()).chain(made).collect();
    if !body.is_empty() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    // Latin-1, so that a test can name any byte.
    let mut bytes: Vec<u8> = head.chars().map(|letter| letter as u8).collect();
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    bytes
}

fn proxy_header(request: &Request) -> String {
    request.proxy_protocol.as_ref().map(|line| format!("{line}\r\n")).unwrap_or_default()
}

fn server_name(request: &Request) -> Option<String> {
    let name = request.sni.as_ref().or(request.host.as_ref()).filter(|name| !name.is_empty())?;
    let port = name.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    Some(port.map_or(name.as_str(), |(name, _)| name).to_owned())
}

/// The file of the recording that holds the certificate, `default` where none does.
fn certificate_name(certificate: &openssl::x509::X509) -> String {
    for file in std::fs::read_dir(super::directory().join("certs")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "crt") {
            let known = openssl::x509::X509::from_pem(&std::fs::read(&path).unwrap()).unwrap();
            if known.to_der().unwrap() == certificate.to_der().unwrap() {
                return path.file_stem().unwrap().to_str().unwrap().to_owned();
            }
        }
    }
    "default".to_owned()
}
