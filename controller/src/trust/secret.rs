//! The authority in the cluster: its key in a Secret, its certificate in a ConfigMap of the same name, which gateways mount.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use sluicegate_snapshot::ObjectKey;

use super::authority::{Authority, Pair};
use crate::status::FIELD_MANAGER;
use crate::watch::Failure;

/// Key of the ConfigMap.
const PUBLISHED: &str = "ca.crt";

/// Tries where another controller writes at the same time.
const TRIES: usize = 5;

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// The authority of this Secret; makes one where there is none yet.
///
/// # Errors
/// A sentence: what cannot be read or written, or what is wrong with it.
pub(super) async fn load(client: &Client, key: &ObjectKey) -> Result<Authority, String> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    for _ in 0..TRIES {
        let found = api.get_opt(&key.name).await.map_err(|error| sentence("read", "Secret", key, &error))?;
        if let Some(pair) = found.as_ref().and_then(pair) {
            return Authority::read(&pair)
                .map_err(|error| format!("Secret {key}: {error}. Mend it, or delete its data for a new authority"));
        }
        let pair = Authority::make().map_err(|error| format!("no authority can be made: {error}"))?;
        let written = match found {
            Some(mut secret) => {
                secret.data = Some(data(&pair));
                api.replace(&key.name, &params(), &secret).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(key.name.to_string()), ..ObjectMeta::default() };
                let secret = Secret { metadata, data: Some(data(&pair)), ..Secret::default() };
                api.create(&params(), &secret).await
            }
        };
        match written {
            Ok(_) => {
                tracing::info!(secret = %key, "a new authority for the certificates of controllers and gateways was made");
                return Authority::read(&pair);
            }
            // Another controller was faster: its authority is everybody's.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(sentence("written", "Secret", key, &error)),
        }
    }
    Err(format!("Secret {key} is written by somebody else all the time"))
}

/// The authority of this Secret, without making one.
///
/// # Errors
/// A sentence.
pub(super) async fn read(client: &Client, key: &ObjectKey) -> Result<Authority, String> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    let found = api.get_opt(&key.name).await.map_err(|error| sentence("read", "Secret", key, &error))?;
    let pair = found.as_ref().and_then(pair).ok_or_else(|| {
        format!("Secret {key} holds no authority: a controller that runs with `authority: {key}` makes it")
    })?;
    Authority::read(&pair).map_err(|error| format!("Secret {key}: {error}"))
}

/// Publishes the authority's certificates in the ConfigMap.
///
/// # Errors
/// A sentence.
pub(super) async fn publish(client: &Client, key: &ObjectKey, pem: &str) -> Result<(), String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &key.namespace);
    for _ in 0..TRIES {
        let found = api.get_opt(&key.name).await.map_err(|error| sentence("read", "ConfigMap", key, &error))?;
        let is_published =
            |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get(PUBLISHED)).is_some_and(|text| text == pem);
        let written = match found {
            Some(map) if is_published(&map) => return Ok(()),
            Some(mut map) => {
                map.data.get_or_insert_default().insert(PUBLISHED.to_owned(), pem.to_owned());
                api.replace(&key.name, &params(), &map).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(key.name.to_string()), ..ObjectMeta::default() };
                let data = BTreeMap::from([(PUBLISHED.to_owned(), pem.to_owned())]);
                api.create(&params(), &ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }).await
            }
        };
        match written {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(sentence("written", "ConfigMap", key, &error)),
        }
    }
    Err(format!("ConfigMap {key} is written by somebody else all the time"))
}

fn pair(secret: &Secret) -> Option<Pair> {
    let data = secret.data.as_ref()?;
    let part = |key: &str| data.get(key).map(|ByteString(bytes)| bytes.clone()).filter(|bytes| !bytes.is_empty());
    Some(Pair { certificate: part("tls.crt")?, key: part("tls.key")? })
}

fn data(pair: &Pair) -> BTreeMap<String, ByteString> {
    let Pair { certificate, key } = pair.clone();
    BTreeMap::from([("tls.crt".to_owned(), ByteString(certificate)), ("tls.key".to_owned(), ByteString(key))])
}

fn sentence(what: &str, kind: &str, key: &ObjectKey, error: &kube::Error) -> String {
    format!("{kind} {key} (setting authority) cannot be {what}: {}", Failure::of(error).sentence())
}
