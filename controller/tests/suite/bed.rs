//! The API server that tests share.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sluicegate_testbed::ApiServer;
use tempfile::TempDir;

use crate::api::Api;

/// The user that controllers of tests are: the service account of the shipped manifests.
pub const CONTROLLER: &str = "system:serviceaccount:sluicegate:sluicegate-controller";

/// Its groups.
pub const GROUPS: [&str; 2] = ["system:serviceaccounts", "system:authenticated"];

struct Bed {
    server: ApiServer,
    _directory: TempDir,
}

static BED: Mutex<Option<Bed>> = Mutex::new(None);

/// Starts the API server and grants the controller what the manifests grant it.
pub fn set_up() {
    let directory = tempfile::tempdir().unwrap();
    let server = ApiServer::start(directory.path());
    prepare(&server);
    *BED.lock().unwrap() = Some(Bed { server, _directory: directory });
}

/// Applies the shipped roles.
pub fn prepare(server: &ApiServer) {
    let api = Api::of(&server.admin());
    for file in ["00-namespace.yaml", "20-rbac.yaml"] {
        api.apply(&manifest(file));
    }
    server.user(CONTROLLER, &GROUPS, 1);
}

/// Text of a shipped manifest.
pub fn manifest(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Ends the API server.
pub fn tear_down() {
    drop(BED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// A look at the server; keep it short.
pub struct Look(MutexGuard<'static, Option<Bed>>);

impl std::ops::Deref for Look {
    type Target = ApiServer;

    fn deref(&self) -> &ApiServer {
        &self.0.as_ref().unwrap().server
    }
}

/// The shared API server.
pub fn bed() -> Look {
    Look(BED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Kubeconfig of the controller's user.
pub fn controller_kubeconfig(server: &ApiServer) -> PathBuf {
    server.directory().join(format!("{}.kubeconfig", CONTROLLER.replace(':', "-")))
}
