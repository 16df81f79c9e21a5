//! `sluicegate explain`: the answer of `/explain`, from manifests.

use std::path::PathBuf;
use std::process::ExitCode;

use sluicegate_snapshot::replica::Replica;
use sluicegate_snapshot::{Delta, Mode};

use crate::admin::{Explanation, Question, explain as answer};
use crate::check::{compile, print};
use crate::cli::{Output, USAGE};
use crate::settings::Settings;
use crate::table::{GatewayBind, Table};
use crate::upstream::Registry;
use crate::upstream::probe::Prober;
use crate::upstream::resolve::Resolver;

/// Explains one request.
pub fn explain(
    manifests: &[PathBuf],
    settings: &Settings,
    mode: Mode,
    method: &str,
    url: &str,
    headers: &[String],
    output: Output,
) -> ExitCode {
    let question = match Question::new(method, url, headers) {
        Ok(question) => question,
        Err(message) => {
            eprintln!("sluicegate: {message}");
            return ExitCode::from(USAGE);
        }
    };
    let (world, source, complete) = match compile(manifests, settings, mode) {
        Ok(compiled) => compiled,
        Err(code) => return code,
    };
    source.problems().filter(|problem| problem.error).for_each(|problem| eprintln!("{problem}"));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        eprintln!("sluicegate: no runtime can be started");
        return ExitCode::FAILURE;
    };
    // Entered, never driven: nothing is resolved or probed for an explanation.
    let _guard = runtime.enter();
    let control = runtime.handle().clone();
    let mut bind = GatewayBind::new(Registry::new(
        Default::default(),
        Resolver::new(settings.dns, control.clone()),
        Prober::new(control),
    ));
    let change = Replica::default().apply(&Delta::full(world.snapshot()));
    let table = Table::default().apply(&change, &mut bind);
    let explanation = answer(&table, settings, &question);
    match output {
        Output::Json => match serde_json::to_string_pretty(&explanation) {
            Ok(text) => print(&text),
            Err(error) => eprintln!("sluicegate: {error}"),
        },
        Output::Text => text(&explanation),
    }
    if complete { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

fn text(explanation: &Explanation) {
    let Explanation {
        reason,
        status,
        location,
        tls_passthrough,
        ingress,
        host,
        path,
        path_type,
        is_default,
        backend,
        endpoints,
        policy,
        lost,
        upstream,
        version,
    } = explanation;
    let status = status.map(|status| format!(" ({status})")).unwrap_or_default();
    print(&format!("reason:   {reason}{status}"));
    let named = |value: &serde_json::Value, keys: &[&str]| {
        let parts: Vec<String> =
            keys.iter().filter_map(|key| value.get(*key)).map(|part| part.to_string().replace('"', "")).collect();
        parts.join("/")
    };
    if let Some(location) = location {
        print(&format!("location: {location}"));
    }
    if *tls_passthrough {
        print("tls:      passed through to the backend by server name; nothing else of a connection is looked at");
    }
    if let Some(ingress) = ingress {
        print(&format!("ingress:  {}", named(ingress, &["namespace", "name"])));
    }
    if let (Some(host), Some(path), Some(path_type)) = (host, path, path_type) {
        let kind = if *is_default { "default backend".to_owned() } else { format!("{path_type} {path}") };
        print(&format!("rule:     host {host}, {kind}"));
    }
    if let Some(backend) = backend {
        print(&format!("backend:  {}", named(backend, &["namespace", "service", "configMap", "port"])));
    }
    for endpoint in endpoints {
        print(&format!("endpoint: {}", named(endpoint, &["address", "port"])));
    }
    for setting in policy {
        print(&format!(
            "policy:   {} = {} ({})",
            named(setting, &["name"]),
            named(setting, &["value"]),
            named(setting, &["source"])
        ));
    }
    for loser in lost {
        print(&format!("lost:     {}: {}", named(loser, &["ingress"]), named(loser, &["why"])));
    }
    if let Some(upstream) = upstream {
        print(&format!("forwards: {}", named(upstream, &["target"])));
    }
    print(&format!("version:  {version}"));
}
