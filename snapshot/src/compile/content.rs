//! One ConfigMap that is served as static files.

use std::sync::Arc;

use crate::facts::ConfigMapFacts;
use crate::model::{Resource, StaticContent, StaticFile};
use crate::settings::Mode;

/// Builds the content of a ConfigMap. In cluster mode only a ConfigMap with the label `sluicegate.dev/publish` gives its
/// files away: the right to write an Ingress is not the right to read ConfigMaps.
pub fn build(config_map: &ConfigMapFacts, mode: Mode) -> Resource<StaticContent> {
    if mode == Mode::Cluster && !config_map.published {
        return Resource::valid(StaticContent { not_published: true, ..StaticContent::default() });
    }
    let text = config_map.data.iter().map(|(key, value)| (key.clone(), StaticFile::new(value.as_bytes())));
    let binary = config_map.binary.iter().map(|(key, value)| (key.clone(), StaticFile::new(Arc::clone(value))));
    Resource::valid(StaticContent { files: text.chain(binary).collect(), not_published: false })
}
