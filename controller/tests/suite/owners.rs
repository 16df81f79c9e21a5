//! Whose hosts are is recorded, and the record outlives edits, restarts, and an owner's short absence.

use serde_json::json;

use crate::Test;
use crate::harness::{Cluster, Controller, Gateway, Pod, eventually, rule};

pub const TESTS: &[Test] = &[
    ("a_record_outlives_edits_and_restarts", a_record_outlives_edits_and_restarts),
    ("a_host_is_given_away_by_editing_its_record", a_host_is_given_away_by_editing_its_record),
    ("who_makes_an_ingress_anew_keeps_its_hosts", who_makes_an_ingress_anew_keeps_its_hosts),
    ("who_may_not_read_records_is_not_ready", who_may_not_read_records_is_not_ready),
    ("without_rights_the_age_decides_and_that_is_said", without_rights_the_age_decides_and_that_is_said),
];

/// Namespace `NAME` with an older Ingress for `old.NAME.test`, and `NAME-young` with a younger one for `NAME.test`.
struct Scene {
    cluster: Cluster,
    young: String,
    host: String,
    pods: [Pod; 2],
}

impl Scene {
    fn set(name: &str) -> Scene {
        let cluster = Cluster::new(name);
        let (young, host) = (format!("{name}-young"), format!("{name}.test"));
        let pods = [Pod::start(name), Pod::start(&young)];
        cluster.api.create(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {young}}}\n"));
        let old = cluster.host("old", &format!("old.{host}"), "web");
        cluster.api.create(&[cluster.service("web", &[&pods[0]]), old].join("---\n"));
        crate::attacks::a_moment();
        let scene = Scene { cluster, young, host, pods };
        scene.cluster.api.create(&scene.in_young(&scene.cluster.service("web", &[&scene.pods[1]])));
        scene.create_young();
        scene
    }

    fn in_young(&self, yaml: &str) -> String {
        yaml.replace(&format!("namespace: {}", self.cluster.namespace), &format!("namespace: {}", self.young))
    }

    fn create_young(&self) {
        self.cluster.api.create(&self.in_young(&self.cluster.host("young", &self.host, "web")));
    }

    /// The older Ingress claims a host of the younger one's namespace.
    fn edit_old(&self, host: &str) {
        let rules = rule(host, "web");
        let patch: serde_json::Value = serde_saphyr::from_str(&format!("spec: {{{rules}}}")).unwrap();
        self.cluster.api.merge(&self.cluster.path("Ingress", "old"), &patch);
    }

    fn await_record(&self) {
        eventually("the record", || self.cluster.recorded(&self.young).contains(&self.host).then_some(()));
    }

    #[track_caller]
    fn await_refusal(&self, controller: &Controller) {
        let begin = format!("Ingress {}/old HostOwned", self.cluster.namespace);
        let told = eventually("what is lost to be said", || {
            controller.diagnostics().into_iter().find(|line| line.starts_with(&begin))
        });
        assert!(told.contains(&format!("belongs to namespace {}", self.young)), "{told}");
    }
}

fn a_record_outlives_edits_and_restarts() {
    let scene = Scene::set("owners");
    let [_, young] = &scene.pods;
    let (controller, gateway) = scene.cluster.start(json!({}));
    gateway.answers(&scene.host, "/", young);
    scene.await_record();
    scene.edit_old(&scene.host);
    scene.await_refusal(&controller);
    gateway.answers(&scene.host, "/", young);
    // One that knows nothing but what is recorded.
    drop(controller);
    let controller = scene.cluster.controller(json!({}));
    let gateway = Gateway::start(&[controller.publish], json!({})).ready();
    assert_eq!(gateway.get(&scene.host, "/").header("x-echo"), Some(&*young.name));
    scene.await_refusal(&controller);
    // And one that does not lead.
    let second = scene.cluster.controller(json!({}));
    let digest = |page: crate::client::Response| page.json()["version"]["digest"].clone();
    assert_eq!(digest(second.page("/table")), digest(controller.page("/table")));
}

fn a_host_is_given_away_by_editing_its_record() {
    let scene = Scene::set("given");
    let [old, young] = &scene.pods;
    let (controller, gateway) = scene.cluster.start(json!({}));
    scene.await_record();
    scene.edit_old(&scene.host);
    scene.await_refusal(&controller);
    gateway.answers(&scene.host, "/", young);
    let record = scene.cluster.record_of(&scene.host);
    let lines = format!("{}\n", scene.host);
    scene.cluster.api.merge(&record, &json!({"data": {&scene.young: null, &scene.cluster.namespace: lines}}));
    gateway.answers(&scene.host, "/", old);
    // A record that nobody has is made anew, from what is so then.
    scene.cluster.api.delete(&record);
    eventually("the record", || scene.cluster.recorded(&scene.cluster.namespace).contains(&scene.host).then_some(()));
    gateway.answers(&scene.host, "/", old);
}

fn who_makes_an_ingress_anew_keeps_its_hosts() {
    let scene = Scene::set("anew");
    let [_, young] = &scene.pods;
    let (controller, gateway) = scene.cluster.start(json!({}));
    scene.await_record();
    scene.edit_old(&scene.host);
    scene.await_refusal(&controller);
    scene.cluster.api.delete(&crate::api::path("Ingress", &scene.young, "young"));
    // Meanwhile it is nobody's: who waits for a host must not have a moment in which to prove that it is his.
    gateway.answers(&scene.host, "/", 404);
    let begin = format!("Ingress {}/old HostOwned", scene.cluster.namespace);
    let kept = |line: &String| line.starts_with(&begin) && line.contains("is kept for namespace anew-young");
    eventually("that to be said", || controller.diagnostics().iter().any(kept).then_some(()));
    scene.create_young();
    gateway.answers(&scene.host, "/", young);
    scene.await_refusal(&controller);
}

fn who_may_not_read_records_is_not_ready() {
    let cluster = Cluster::new("unread");
    let controller = cluster.starting_controller(json!({"lease": "unread-elsewhere/lease"}));
    let answer = eventually("the reason", || {
        let answer = controller.page("/readyz");
        answer.text().contains("HostOwners in namespace unread-elsewhere: 403").then_some(answer)
    });
    assert_eq!(answer.status, 503);
}

fn without_rights_the_age_decides_and_that_is_said() {
    let scene = Scene::set("unrecorded");
    let [old, _] = &scene.pods;
    let role = format!("sluicegate-controller-{}-hosts", scene.cluster.class);
    scene.cluster.api.delete(&crate::api::path("RoleBinding", "sluicegate", &role));
    let (controller, gateway) = scene.cluster.start(json!({}));
    // Creating them is allowed to every controller, writing them again is not.
    scene.await_record();
    let more = scene.host.replace("unrecorded", "more.unrecorded");
    scene.cluster.api.create(&scene.in_young(&scene.cluster.host("more", &more, "web")));
    let more = scene.host.replace("unrecorded", "again.unrecorded");
    scene.cluster.api.create(&scene.in_young(&scene.cluster.host("again", &more, "web")));
    eventually("the trouble to be said", || {
        let trouble = controller.page("/diagnostics").json()["trouble"].to_string();
        (trouble.contains("records whose hosts are") && trouble.contains("403")).then_some(())
    });
    scene.edit_old(&more);
    gateway.answers(&more, "/", old);
}
