//! The scripted API server's objects and their history.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A collection: plural and namespace of its objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub plural: String,
    pub namespace: String,
    pub name: String,
}

/// One change, as a watch says it.
#[derive(Debug, Clone)]
pub struct Event {
    pub version: u64,
    pub id: Id,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub what: &'static str,
    pub object: Value,
}

/// Objects and their history, as an etcd has them.
#[derive(Debug, Clone)]
pub struct Store {
    pub version: u64,
    pub objects: BTreeMap<Id, Value>,
    pub history: Vec<Event>,
    /// What is as old as this is forgotten.
    pub compacted: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store { version: 1000, objects: BTreeMap::new(), history: Vec::new(), compacted: 0 }
    }
}

impl Store {
    /// Creates or replaces an object.
    pub fn put(&mut self, id: Id, mut object: Value) {
        self.version += 1;
        object["metadata"]["name"] = json!(id.name);
        if !id.namespace.is_empty() {
            object["metadata"]["namespace"] = json!(id.namespace);
        }
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let what = if self.objects.contains_key(&id) { "MODIFIED" } else { "ADDED" };
        self.history.push(Event { version: self.version, id: id.clone(), what, object: object.clone() });
        self.objects.insert(id, object);
    }

    /// Deletes an object, if it is there.
    pub fn delete(&mut self, id: &Id) {
        let Some(mut object) = self.objects.remove(id) else { return };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push(Event { version: self.version, id: id.clone(), what: "DELETED", object });
    }

    /// Something happened that nobody here watches.
    pub fn pass(&mut self) {
        self.version += 1;
    }

    /// Forgets the history: nobody can begin to watch in it any more. Who watches already still hears of it, since a real server
    /// ends a watch rather than leave something out.
    pub fn compact(&mut self) {
        self.compacted = self.version;
    }
}
