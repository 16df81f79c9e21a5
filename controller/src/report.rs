//! `sluicegate-controller status`: class, addresses and diagnostics of Ingresses, read from the cluster with the user's own rights.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;
use sluicegate_process::EXIT_USAGE;
use sluicegate_snapshot::compile::Access;
use sluicegate_snapshot::{Diagnostic, Edit, Kind, ObjectKey, ObjectRef, Severity, World};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::admin::IN_FORCE;
use crate::cli::Output;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::shared::InForce;
use crate::watch::{Feed, Listed, Needs, News, Trouble, Watcher, follow_needs};
use crate::{clock, connect, status};

/// Exit code of a cluster that cannot be read.
const UNREADABLE: u8 = 2;

/// How long the cluster may take to be read.
const LIMIT: Duration = Duration::from_secs(30);

/// One Ingress.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    namespace: Arc<str>,
    name: Arc<str>,
    /// Name of the class; absent where the Ingress is not ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<Arc<str>>,
    addresses: Vec<String>,
    /// Where it is in force; absent where no controller was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force: Option<InForce>,
    diagnostics: Vec<Diagnostic>,
}

/// Prints the status of one Ingress or of all.
pub fn report(settings: &Settings, ingress: Option<&str>, output: Output) -> ExitCode {
    let fail = |message: String, code: u8| {
        eprintln!("sluicegate-controller: {message}");
        ExitCode::from(code)
    };
    let only = match ingress.map(str::parse::<ObjectKey>).transpose() {
        Ok(Some(key)) if key.namespace.is_empty() => Some(ObjectKey::new("default", key.name)),
        Ok(only) => only,
        Err(error) => return fail(format!("`{}`: {error}", ingress.unwrap_or_default()), EXIT_USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error.to_string(), 1),
    };
    match runtime.block_on(read(settings)) {
        Err(Unread { message, code }) => fail(message, code),
        Ok(lines) => {
            let shown: Vec<&Line> = lines
                .iter()
                .filter(|line| {
                    only.as_ref().is_none_or(|only| *only == ObjectKey::new(line.namespace.clone(), line.name.clone()))
                })
                .collect();
            if let (Some(only), true) = (&only, shown.is_empty()) {
                return fail(format!("Ingress {only} does not exist"), 1);
            }
            let errors = shown
                .iter()
                .flat_map(|line| &line.diagnostics)
                .any(|diagnostic| diagnostic.severity == Severity::Error);
            print(&shown, output);
            ExitCode::from(u8::from(errors))
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
fn print(lines: &[&Line], output: Output) {
    if output == Output::Json {
        if let Ok(text) = serde_json::to_string_pretty(lines) {
            println!("{text}");
        }
        return;
    }
    if lines.is_empty() {
        println!("no Ingress");
    }
    for line in lines {
        let class = match line.class.as_deref() {
            None => "not ours".to_owned(),
            Some("") => "no class".to_owned(),
            Some(class) => format!("class {class}"),
        };
        let addresses = match line.addresses.is_empty() {
            true => "no address".to_owned(),
            false => line.addresses.join(", "),
        };
        let in_force = match &line.in_force {
            Some(InForce { gateways, of, version, .. }) => {
                format!("; in force on {gateways} of {of} gateways, version {version}")
            }
            None => String::new(),
        };
        println!("{}/{}: {class}; {addresses}{in_force}", line.namespace, line.name);
        for diagnostic in &line.diagnostics {
            let Diagnostic { severity, field, reason, message, .. } = diagnostic;
            println!("  {}: {field}: {reason}: {message}", severity.as_str());
        }
    }
}

struct Unread {
    message: String,
    code: u8,
}

async fn read(settings: &Settings) -> Result<Vec<Line>, Unread> {
    let usage = |message| Unread { message, code: EXIT_USAGE };
    let client = connect::client(settings.kubeconfig.as_deref()).await.map_err(usage)?;
    let compile = settings.compile().map_err(|error| usage(error.to_string()))?;
    let metrics = Metrics::new().map_err(|error| Unread { message: error.to_string(), code: 1 })?;
    let (news, received) = channel();
    let trouble = Arc::<Trouble>::default();
    let (_generations, relists) = watch::channel(0);
    let watcher = Watcher {
        client: client.clone(),
        news,
        metrics: Arc::new(metrics),
        trouble: trouble.clone(),
        relists,
        field_manager: "".into(),
    };
    let feeds = settings.feeds(&compile);
    let mut tasks = tokio::task::JoinSet::new();
    for feed in &feeds {
        tasks.spawn(watcher.clone().follow(feed.clone()));
    }
    let (needs, needed) = watch::channel(Needs::default());
    tasks.spawn(follow_needs(watcher, needed));
    let unlisted = feeds.into_iter().collect();
    let world = tokio::task::spawn_blocking(move || listed(World::new(compile), &received, unlisted, &needs));
    let world = world.await.map_err(|error| Unread { message: error.to_string(), code: 1 })?;
    let Some(world) = world else {
        let why = match trouble.sentences() {
            none if none.is_empty() => "it does not answer".to_owned(),
            some => some.join("; "),
        };
        return Err(Unread {
            message: format!("the cluster could not be read within {} s: {why}", LIMIT.as_secs()),
            code: UNREADABLE,
        });
    };
    let addresses = addresses(&client, settings).await?;
    let mut in_force = in_force(settings.admin).await;
    let mut line = |key: &ObjectKey| Line {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        class: world.class_of(key).cloned(),
        addresses: addresses.get(key).cloned().unwrap_or_default(),
        in_force: in_force.remove(key),
        diagnostics: world.diagnostics_of(&ObjectRef::new(Kind::Ingress, key)).into_iter().cloned().collect(),
    };
    Ok(world.ingresses().map(&mut line).collect())
}

/// Takes news until everything is listed; `None`: that took too long.
fn listed(
    mut world: World,
    news: &Receiver<News>,
    mut unlisted: BTreeSet<Feed>,
    needs: &watch::Sender<Needs>,
) -> Option<World> {
    let started = Instant::now();
    world.apply([Edit::Now(clock::unix_seconds())]);
    loop {
        let wanted = Needs::of(&world);
        if unlisted.is_empty() && wanted.are_settled(&world) {
            return Some(world);
        }
        needs.send_if_modified(|current| std::mem::replace(current, wanted.clone()) != wanted);
        let edit = match news.recv_timeout(LIMIT.saturating_sub(started.elapsed())) {
            Ok(News::Put(object, ..)) => Edit::PutTrimmed(object),
            Ok(News::Remove(kind, key, _)) => Edit::Remove(kind, key),
            Ok(News::Listed(Listed { feed, .. })) => {
                unlisted.remove(&feed);
                let Some(namespace) = feed.namespace.clone() else { continue };
                Edit::Access(feed.kind, namespace, Access::Granted)
            }
            // Who may not read them sees what the age of Ingresses says.
            Ok(News::Denied(feed, _)) if feed.kind == Kind::HostOwners => {
                unlisted.remove(&feed);
                continue;
            }
            Ok(News::Denied(Feed { kind, namespace: Some(namespace), .. }, user)) => {
                Edit::Access(kind, namespace, Access::Denied { user })
            }
            // Of no interest to somebody who looks once.
            Ok(_) => continue,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        };
        world.apply([edit]);
    }
}

/// How long a controller may take to answer.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Where Ingresses are in force, as the controller at this admin address says; nothing where there is none.
async fn in_force(admin: SocketAddr) -> BTreeMap<ObjectKey, InForce> {
    let asked = timeout(ASK_LIMIT, ask(admin)).await.ok().flatten().unwrap_or_default();
    asked.into_iter().map(|found| (ObjectKey::new(found.namespace.clone(), found.name.clone()), found)).collect()
}

async fn ask(admin: SocketAddr) -> Option<Vec<InForce>> {
    let tcp = TcpStream::connect(admin).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.ok()?;
    tokio::spawn(connection);
    let request = Request::builder().uri(IN_FORCE).header(HOST, admin.to_string()).body(Empty::<Bytes>::new()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let body = response.into_body().collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}

/// The addresses that the statuses say.
async fn addresses(client: &Client, settings: &Settings) -> Result<BTreeMap<ObjectKey, Vec<String>>, Unread> {
    let mut found = BTreeMap::new();
    let apis: Vec<Api<Ingress>> = match settings.watch_namespaces.is_empty() {
        true => vec![Api::all(client.clone())],
        false => settings.watch_namespaces.iter().map(|name| Api::namespaced(client.clone(), name)).collect(),
    };
    for api in apis {
        let list = api.list(&ListParams::default()).await;
        let list =
            list.map_err(|error| Unread { message: crate::watch::Failure::of(&error).sentence(), code: UNREADABLE })?;
        for ingress in list.items {
            let name = |text: &Option<String>| text.clone().unwrap_or_default();
            let key = ObjectKey::new(name(&ingress.metadata.namespace), name(&ingress.metadata.name));
            found.insert(key, status::texts(&ingress));
        }
    }
    Ok(found)
}
