//! Who wrote a status, as `metadata.managedFields` has it (Kubernetes server-side apply: an entry per manager, also of writers that
//! do not apply).

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

/// Who wrote `status.loadBalancer` of an Ingress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writers {
    /// One of them is this controller's field manager.
    pub us: bool,
    /// The one that wrote last, where that is somebody else.
    pub foreign: Option<Arc<str>>,
}

impl Writers {
    /// Reads them; `us` is our field manager.
    pub fn of(meta: &ObjectMeta, us: &str) -> Self {
        let entries = || meta.managed_fields.iter().flatten().filter(|entry| writes_addresses(entry));
        let manager = |entry: &ManagedFieldsEntry| entry.manager.clone().unwrap_or_default();
        let when = |entry: &&ManagedFieldsEntry| entry.time.as_ref().map_or(Timestamp::MIN, |time| time.0);
        // Times have whole seconds: within one, what somebody else wrote counts as the later.
        let last = entries().max_by_key(|entry| (when(entry), manager(entry) != us));
        Writers {
            us: entries().any(|entry| manager(entry) == us),
            foreign: last.map(manager).filter(|manager| manager != us).map(Into::into),
        }
    }
}

fn writes_addresses(entry: &ManagedFieldsEntry) -> bool {
    let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
    fields.is_some_and(|fields| fields["f:status"]["f:loadBalancer"].is_object())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meta(entries: &[(&str, &str, &str)]) -> ObjectMeta {
        let entry = |(manager, time, field): &(&str, &str, &str)| {
            let fields = json!({*field: {"f:loadBalancer": {"f:ingress": {}}}});
            json!({"manager": manager, "time": time, "subresource": "status", "fieldsV1": fields, "operation": "Update"})
        };
        let entries: Vec<_> = entries.iter().map(entry).collect();
        serde_json::from_value(json!({"managedFields": entries})).unwrap()
    }

    #[test]
    fn the_last_writer_counts() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z");
        for (entries, us, foreign) in [
            (&[][..], false, None),
            (&[("us", early, "f:status")], true, None),
            (&[("us", early, "f:spec")], false, None),
            (&[("nginx", early, "f:status"), ("us", late, "f:status")], true, None),
            (&[("nginx", late, "f:status"), ("us", early, "f:status")], true, Some("nginx")),
            (&[("nginx", late, "f:status"), ("us", late, "f:status")], true, Some("nginx")),
            (&[("nginx", early, "f:status")], false, Some("nginx")),
        ] {
            let writers = Writers::of(&meta(entries), "us");
            assert_eq!((writers.us, writers.foreign.as_deref()), (us, foreign), "{entries:?}");
        }
    }
}
