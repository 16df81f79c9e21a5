//! The configuration file (`--config`): YAML, every key optional. `conf/sluicegate.yaml` shows each with its default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::LimitSettings;
use super::network::networks;
use sluicegate_process::settings::SettingsFile;
use sluicegate_process::{LogSettings, SettingsError};

/// Every key of the file, with its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Addresses for plain HTTP.
    pub http: Vec<SocketAddr>,
    /// Addresses for HTTPS.
    pub https: Vec<SocketAddr>,
    /// Address of the admin listener.
    pub admin: SocketAddr,
    /// Address of a second listener with only `/healthz`, `/readyz` and `/metrics`.
    pub metrics: Option<SocketAddr>,
    /// Directories (or files) with manifests.
    pub manifests: Vec<PathBuf>,
    /// Controllers to follow instead of files: `https://HOST:PORT`. The first that answers is followed.
    pub controllers: Vec<String>,
    /// Authorities that sign controllers' certificates: PEM file.
    pub controller_ca: Option<PathBuf>,
    /// Certificate that the gateway shows controllers: PEM file.
    pub client_cert: Option<PathBuf>,
    /// Its key: PEM file.
    pub client_key: Option<PathBuf>,
    /// A service account's token that the gateway shows controllers.
    pub token_file: Option<PathBuf>,
    /// Addresses at which clients reach this gateway, for statuses of Ingresses: IP addresses or host names.
    pub report_addresses: Vec<Arc<str>>,
    /// Where the last good snapshot is kept; without it nothing is.
    pub state_dir: Option<PathBuf>,
    /// File with the key that private keys in the state file are encrypted with; without it they are not in it.
    pub state_key: Option<PathBuf>,
    /// Worker threads; absent: the CPUs that the process may use.
    pub workers: Option<usize>,
    /// Pin each worker to a CPU.
    pub pin: bool,
    /// DNS server for ExternalName Services; absent: the system's.
    pub dns: Option<SocketAddr>,
    /// Serve this IngressClass only.
    pub ingress_class: Option<String>,
    /// Accepted `spec.controller` values besides `sluicegate.dev/ingress-controller`.
    pub controller_names: Vec<String>,
    /// Serve Ingresses that name no class.
    pub watch_without_class: bool,
    /// ConfigMap with settings for all classes: NAMESPACE/NAME.
    pub configmap: Option<String>,
    /// Secret NAMESPACE/NAME, or `CHAIN.pem,KEY.pem`; absent: self-signed, made at the start.
    pub default_certificate: Option<String>,
    /// NAMESPACE/SERVICE:PORT for requests that nothing else takes.
    pub default_backend: Option<String>,
    /// Redirect plain HTTP to https on hosts with TLS.
    pub ssl_redirect: bool,
    /// Answer 400 to paths with `%2F` or `%5C`.
    pub reject_encoded_slashes: bool,
    /// Bytes of a request's body; 0: however many. Classes and Ingresses may say otherwise.
    pub body_limit: u64,
    /// Networks whose forwarding headers are believed.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Networks, of `trustedProxies`, whose connections begin with a PROXY header.
    #[serde(deserialize_with = "networks")]
    pub proxy_protocol: Vec<IpNet>,
    /// A path that every listener answers with 200 by itself, for cloud load balancers; absent: none.
    pub traffic_health_path: Option<String>,
    /// Add `sluicegate-route` to responses.
    pub debug_header: bool,
    /// Value of the `Server` header on all responses; absent: the backend's, and none on the gateway's own.
    pub server_header: Option<String>,
    /// Port that clients see on plain HTTP and HTTPS listeners, for `X-Forwarded-Port`; absent: the listener's.
    pub public_ports: Option<PublicPorts>,
    /// Seconds that the gateway keeps accepting after SIGTERM while it is unready.
    pub lame_duck_seconds: u32,
    /// Seconds after that until open connections are cut.
    pub drain_seconds: u32,
    /// Access log.
    pub access_log: AccessLogSettings,
    /// Log of the gateway itself.
    pub log: LogSettings,
    /// Timeouts.
    pub timeouts: TimeoutSettings,
    /// How large and how many things may be.
    pub limits: LimitSettings,
    /// Idle upstream connections that each worker keeps.
    pub upstream_idle_connections: usize,
    /// A `route` label on the request counter. Costs a series per route.
    pub metrics_per_route: bool,
}

/// Ports that clients connect to where something in front maps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicPorts {
    /// For plain HTTP.
    pub http: u16,
    /// For HTTPS.
    pub https: u16,
}

/// `accessLog`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessLogSettings {
    /// Write it at all.
    pub enabled: bool,
    /// A file; absent: standard output. SIGHUP opens it again.
    pub path: Option<PathBuf>,
    /// Share of requests that are logged, 0 to 1. Requests with a reason other than success are always logged.
    pub sample: f64,
    /// Lines a second for each reason other than success; 0: however many.
    pub per_reason: u32,
}

impl Default for AccessLogSettings {
    fn default() -> Self {
        AccessLogSettings { enabled: true, path: None, sample: 1.0, per_reason: 100 }
    }
}

/// `timeouts`, all in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimeoutSettings {
    /// TLS handshake.
    pub handshake: u32,
    /// From the end of the handshake to the first byte of a connection's first request.
    pub first_byte: u32,
    /// From the first byte of a request's head to its last.
    pub head: u32,
    /// Between two requests of a client's connection.
    pub keep_alive: u32,
    /// The same for connections of `trustedProxies`, which use them again after longer.
    pub keep_alive_trusted: u32,
    /// Age at which a client's connection ends gracefully; 0: none.
    pub connection_age: u32,
    /// In which a client has to send `limits.bodyRate` bytes a second of a request's body, until the answer has begun.
    pub body: u32,
    /// For the client to take anything of an answer.
    pub client_write: u32,
    /// Connecting to an endpoint.
    pub connect: u32,
    /// For the head of an endpoint's answer, since the request last moved.
    pub upstream_read: u32,
    /// Without a byte either way, once an answer has begun.
    pub stream: u32,
    /// How long an unused upstream connection is kept.
    pub upstream_idle: u32,
    /// Without a byte either way on an upgraded connection.
    pub upgraded_idle: u32,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        TimeoutSettings {
            handshake: 10,
            first_byte: 10,
            head: 10,
            keep_alive: 75,
            keep_alive_trusted: 620,
            connection_age: 0,
            body: 30,
            client_write: 30,
            connect: 5,
            upstream_read: 60,
            stream: 300,
            upstream_idle: 55,
            upgraded_idle: 3600,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            http: vec![SocketAddr::from(([0, 0, 0, 0], 8080))],
            https: vec![SocketAddr::from(([0, 0, 0, 0], 8443))],
            admin: SocketAddr::from(([127, 0, 0, 1], 10254)),
            metrics: None,
            manifests: Vec::new(),
            controllers: Vec::new(),
            report_addresses: Vec::new(),
            controller_ca: None,
            client_cert: None,
            client_key: None,
            token_file: None,
            state_dir: None,
            state_key: None,
            workers: None,
            pin: false,
            dns: None,
            ingress_class: None,
            controller_names: Vec::new(),
            watch_without_class: false,
            configmap: None,
            default_certificate: None,
            default_backend: None,
            ssl_redirect: true,
            reject_encoded_slashes: false,
            body_limit: 0,
            trusted_proxies: Vec::new(),
            proxy_protocol: Vec::new(),
            traffic_health_path: None,
            debug_header: false,
            server_header: None,
            public_ports: None,
            lame_duck_seconds: 5,
            drain_seconds: 25,
            access_log: AccessLogSettings::default(),
            log: LogSettings::default(),
            timeouts: TimeoutSettings::default(),
            limits: LimitSettings::default(),
            upstream_idle_connections: 512,
            metrics_per_route: false,
        }
    }
}

impl SettingsFile for Settings {
    const EXAMPLE: &'static str = "conf/sluicegate.yaml";

    fn judge(&self) -> Result<(), SettingsError> {
        let wrong = |message: &str| Err(SettingsError(message.to_owned()));
        if !(0.0..=1.0).contains(&self.access_log.sample) {
            return wrong("accessLog.sample: must be from 0 to 1");
        }
        if self.workers == Some(0) || self.workers.is_some_and(|workers| workers > 1024) {
            return wrong("workers: must be from 1 to 1024");
        }
        if let Some(path) = &self.traffic_health_path
            && (sluicegate_snapshot::path::normalise(path.as_bytes()).as_deref() != Ok(path)
                || !path.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return wrong("trafficHealthPath: must be a normalised path that begins with `/`, without blanks");
        }
        if let Some(server) = &self.server_header
            && http::HeaderValue::from_str(server).is_err()
        {
            return wrong("serverHeader: must be visible ASCII");
        }
        let trusted = IpNet::aggregate(&self.trusted_proxies);
        let untrusted = |network: &&IpNet| !trusted.iter().any(|trusted| trusted.contains(*network));
        if let Some(network) = self.proxy_protocol.iter().find(untrusted) {
            let message = "is not in trustedProxies, and nobody else is believed who a client is";
            return wrong(&format!("proxyProtocol: {network} {message}"));
        }
        self.limits.judge()?;
        self.log.judge()?;
        let t = &self.timeouts;
        let timeouts = [
            ("handshake", t.handshake),
            ("firstByte", t.first_byte),
            ("head", t.head),
            ("keepAlive", t.keep_alive),
            ("keepAliveTrusted", t.keep_alive_trusted),
            ("body", t.body),
            ("clientWrite", t.client_write),
            ("connect", t.connect),
            ("upstreamRead", t.upstream_read),
            ("stream", t.stream),
            ("upstreamIdle", t.upstream_idle),
            ("upgradedIdle", t.upgraded_idle),
        ];
        if let Some((name, _)) = timeouts.iter().find(|(_, seconds)| !(1..=86_400).contains(seconds)) {
            return wrong(&format!("timeouts.{name}: must be from 1 to 86400 seconds"));
        }
        if t.connection_age > 30 * 86_400 {
            return wrong("timeouts.connectionAge: must be from 0 (none) to 2592000 seconds");
        }
        if !self.manifests.is_empty() && !self.controllers.is_empty() {
            return wrong("manifests and controllers are both given: a gateway has one source");
        }
        self.judge_reported()?;
        if self.state_key.is_some() && self.state_dir.is_none() {
            return wrong("stateKey has a meaning only with stateDir");
        }
        self.judge_credentials()?;
        let listeners: Vec<_> = self.http.iter().chain(&self.https).filter(|address| address.port() != 0).collect();
        if let Some(twice) =
            listeners.iter().enumerate().find_map(|(at, address)| listeners[..at].contains(address).then_some(address))
        {
            return wrong(&format!("http and https: {twice} is listed twice"));
        }
        if self.http.is_empty() && self.https.is_empty() {
            return wrong("http and https are both empty: nothing to listen on");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_process::settings::parse;

    use super::*;

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(parse::<Settings>("").unwrap(), Settings::default());
        assert_eq!(parse::<Settings>("# nothing\n").unwrap(), Settings::default());
    }

    #[test]
    fn the_example_file_shows_every_key_with_its_default() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/sluicegate.yaml")).unwrap();
        assert_eq!(parse::<Settings>(&text).unwrap(), Settings::default());
        let value = serde_json::to_value(Settings::default()).unwrap();
        for key in value.as_object().unwrap().keys() {
            assert!(text.contains(&format!("{key}:")), "conf/sluicegate.yaml lacks {key}");
        }
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        let networks = "trustedProxies: [10.0.0.1, '::1', '::ffff:192.0.2.0/120', 10.0.0.0/9, 10.128.0.0/9]";
        let settings = parse::<Settings>(&format!("{{{networks}, proxyProtocol: [10.0.0.0/8]}}")).unwrap();
        let networks: Vec<String> = settings.trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.1/32", "::1/128", "192.0.2.0/24", "10.0.0.0/9", "10.128.0.0/9"]);
        for (text, part) in [
            ("htttp: []", "`http`"),
            ("timeouts: {conect: 1}", "`timeouts.connect`"),
            ("workers: many", "workers"),
            ("timeouts: {connect: soon}", "timeouts.connect"),
            ("accessLog: {sample: 2}", "accessLog.sample"),
            ("http: [nowhere]", "http[0]"),
            ("stateKey: a", "stateDir"),
            ("controllers: ['https://a:1']", "controllerCa"),
            ("{controllers: ['http://a:1'], reportAddresses: [a b]}", "reportAddresses `a b`"),
            ("{controllers: ['http://a:1'], reportAddresses: ['::']}", "reportAddresses `::`"),
            ("reportAddresses: [192.0.2.1]", "controllers"),
            (
                "{controllers: ['http://a:1'], reportAddresses: [a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a]}",
                "at most 16",
            ),
            ("{controllers: ['https://a:1'], controllerCa: c}", "clientCert"),
            ("{controllers: ['https://a:1'], controllerCa: c, clientCert: d}", "clientKey"),
            ("{controllers: ['http://a:1'], tokenFile: t}", "https"),
            ("{controllers: ['http://a:1', 'https://a:1'], controllerCa: c, tokenFile: t}", "https"),
            ("trustedProxies: [10.0.0.0/33]", "trustedProxies[0]: `10.0.0.0/33`"),
            ("trustedProxies: [example.com]", "trustedProxies[0]: `example.com`"),
            ("trustedProxies: [10.0.1.7/24]", "10.0.1.0/24"),
            ("log: {level: warning}", "log.level"),
            ("log: {level: 'info,sluicegate'}", "log.level"),
            ("limits: [2048]", "limits: must be keys"),
            ("[a]", "must be keys"),
            ("timeouts: {head: 0}", "timeouts.head"),
            ("limits: {headBytes: 1024, targetBytes: 2048}", "targetBytes"),
            ("limits: {http2: {streams: 0}}", "limits.http2.streams"),
            ("limits: {http2: {connectionWindow: 65534}}", "limits.http2.connectionWindow"),
            ("limits: {http2: {stream: 5}}", "`limits.http2.streams`"),
            ("limits: {headBytes: 262144}", "limits.http2.heldBytes: must be at least 4 times limits.headBytes"),
            ("trafficHealthPath: /a b", "trafficHealthPath"),
            ("http: ['127.0.0.1:80', '127.0.0.1:80']", "127.0.0.1:80 is listed twice"),
            ("workers: -1", "a number"),
            ("proxyProtocol: [10.0.0.0/8]", "trustedProxies"),
            ("{proxyProtocol: [10.0.0.0/8], trustedProxies: [10.0.0.0/9]}", "10.0.0.0/8"),
            ("trafficHealthPath: health", "trafficHealthPath"),
            ("workers: 0", "workers"),
            ("timeouts: {connect: 0}", "timeouts"),
            ("a: b: c", "line 1"),
        ] {
            let error = parse::<Settings>(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
