//! The rights that the controller uses, by the API server's audit log, against the shipped roles.

use std::collections::BTreeSet;
use std::sync::Mutex;

use serde_json::Value;

use crate::api::documents;
use crate::bed;

/// Audit logs of other servers than the shared one.
static OTHERS: Mutex<String> = Mutex::new(String::new());

/// Keeps the audit log of a server that ends.
pub fn keep(log: &str) {
    OTHERS.lock().unwrap().push_str(log);
}

/// Fails where the controller's user did something that the shipped roles do not allow, or the roles allow what it never did in the
/// whole run.
pub fn judge(log: &str) -> Result<(), String> {
    let others = OTHERS.lock().unwrap();
    let used: BTreeSet<String> = log.lines().chain(others.lines()).filter_map(used).collect();
    let granted: BTreeSet<String> = documents(&bed::manifest("20-rbac.yaml"))
        .iter()
        .filter(|document| matches!(document["kind"].as_str(), Some("ClusterRole" | "Role")))
        .flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default())
        .flat_map(|rule| granted(&rule))
        .collect();
    let list = |set: BTreeSet<&String>| set.into_iter().cloned().collect::<Vec<_>>().join(", ");
    println!("rights used: {}", list(used.iter().collect()));
    let parameters: BTreeSet<String> = log.lines().chain(others.lines()).flat_map(parameters).collect();
    let known: BTreeSet<String> = PARAMETERS.iter().map(|name| (*name).to_owned()).collect();
    if parameters != known {
        return Err(format!("parameters of lists and watches used: {parameters:?}; expected: {known:?}"));
    }
    let (more, less) = (list(used.difference(&granted).collect()), list(granted.difference(&used).collect()));
    match (more.is_empty(), less.is_empty()) {
        (true, true) => Ok(()),
        _ => Err(format!("rights used and not granted: [{more}]; granted and not used: [{less}]")),
    }
}

/// The answers to writes of an Ingress' status, by whomever, in order.
pub fn status_writes(log: &str, namespace: &str, name: &str) -> Vec<u64> {
    let answer = |line: &str| {
        let event: Value = serde_json::from_str(line).ok()?;
        let object = &event["objectRef"];
        let is_it = object["resource"] == "ingresses"
            && object["subresource"] == "status"
            && object["namespace"] == namespace
            && object["name"] == name
            && event["stage"] == "ResponseComplete";
        is_it.then(|| event["responseStatus"]["code"].as_u64())?
    };
    log.lines().filter_map(answer).collect()
}

/// The parameters that lists and watches are asked with: all of the reference's operation `list` but `pretty`, which is for
/// people.
const PARAMETERS: [&str; 10] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];

/// The names of the parameters of a list or watch by the controller's user.
fn parameters(line: &str) -> Vec<String> {
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    if event["user"]["username"] != bed::CONTROLLER || !matches!(event["verb"].as_str(), Some("list" | "watch")) {
        return Vec::new();
    }
    let (_, query) = event["requestURI"].as_str().and_then(|uri| uri.split_once('?')).unwrap_or_default();
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    query.split('&').filter(|pair| !pair.is_empty()).map(name).collect()
}

/// `verb group/resource/subresource` of a line that is about the controller's user.
fn used(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    if event["user"]["username"] != bed::CONTROLLER {
        return None;
    }
    let object = &event["objectRef"];
    let part = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    Some(right(event["verb"].as_str()?, &part("apiGroup"), &part("resource"), &part("subresource")))
}

fn right(verb: &str, group: &str, resource: &str, subresource: &str) -> String {
    match subresource.is_empty() {
        true => format!("{verb} {group}/{resource}"),
        false => format!("{verb} {group}/{resource}/{subresource}"),
    }
}

fn granted(rule: &Value) -> Vec<String> {
    let words = |key: &str| -> Vec<String> {
        rule[key].as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let mut rights = Vec::new();
    for group in words("apiGroups") {
        for resource in words("resources") {
            rights.extend(words("verbs").iter().map(|verb| right(verb, &group, &resource, "")));
        }
    }
    rights
}
