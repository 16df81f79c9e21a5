//! Following files: edits, broken documents, broken files, directories that come and go.

use crate::backends::{echo, everything_to, host_to_web, ingress, service};
use crate::harness::{Start, eventually};

#[test]
fn an_edit_is_in_force_without_a_restart() {
    let (one, two) = (echo(), echo());
    let gateway = Start::with(&everything_to(&[one])).ready();
    assert_eq!(gateway.get("a.test", "/").header("x-echo"), Some(one.to_string().as_str()));
    gateway.apply(&everything_to(&[two]));
    assert_eq!(gateway.get("a.test", "/").header("x-echo"), Some(two.to_string().as_str()));
}

#[test]
fn an_edit_under_load_fails_no_request() {
    let (one, two) = (echo(), echo());
    let gateway = Start::with(&everything_to(&[one])).ready();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut connection = crate::client::connect(gateway.http);
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                assert_eq!(connection.request("GET", "a.test", "/", &[]).status, 200);
                count += 1;
            }
            count
        });
        for round in 0..10 {
            gateway.apply(&everything_to(&[if round % 2 == 0 { two } else { one }]));
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(load.join().unwrap() > 0);
    });
}

#[test]
fn a_broken_document_keeps_its_last_good_meaning_and_hurts_nobody_else() {
    let backend = echo();
    let good = |host: &str| host_to_web(host.split('.').next().unwrap(), host, "[]");
    let web = service("web", &backend.to_string());
    let gateway = Start::with(&[web.clone(), good("a.test"), good("b.test")].join("---\n")).ready();
    let broken = good("a.test").replace("pathType: Prefix", "pathType: 7").replace("number: 80", "number: eighty");
    gateway.apply(&[web.clone(), broken, good("b.test"), good("c.test")].join("---\n"));
    let line = gateway.wait_log("Ingress default/a");
    assert!(line.contains("spec.rules[0].http.paths[0]") && line.contains("stays in force"), "{line}");
    for host in ["a.test", "b.test", "c.test"] {
        assert_eq!(gateway.get(host, "/").status, 200, "{host}");
    }
    gateway.apply(&[web, good("b.test")].join("---\n"));
    assert_eq!(gateway.get("a.test", "/").status, 404, "what is removed goes");
}

#[test]
fn a_file_that_is_no_yaml_keeps_all_it_said() {
    let backend = echo();
    let gateway = Start::with(&everything_to(&[backend])).ready();
    gateway.write("main.yaml", "kind: [unclosed\n");
    gateway.wait_log("no readable YAML");
    assert_eq!(gateway.get("a.test", "/").status, 200);
    gateway.wait_metric("sluicegate_diagnostics", &["Manifest", "error"], 1.0);
    gateway.write("main.yaml", &everything_to(&[backend]));
    eventually("the repair", || (gateway.metric("sluicegate_diagnostics", &["Manifest"]) == 0.0).then_some(()));
}

#[test]
fn a_directory_that_vanishes_keeps_all_it_said() {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    let directory = gateway.directory.path().join("manifests");
    std::fs::rename(&directory, gateway.directory.path().join("away")).unwrap();
    gateway.signal("HUP");
    gateway.wait_log("cannot be read");
    assert_eq!(gateway.get("a.test", "/").status, 200);
    std::fs::rename(gateway.directory.path().join("away"), &directory).unwrap();
}

#[test]
fn deleting_a_file_deletes_what_it_said() {
    let gateway =
        Start::with(&everything_to(&[echo()])).file("more.yaml", &host_to_web("more", "more.test", "[]")).ready();
    assert_eq!(
        gateway.get("more.test", "/").header("sluicegate-route").unwrap().split(';').next(),
        Some("default/more")
    );
    std::fs::remove_file(gateway.directory.path().join("manifests/more.yaml")).unwrap();
    eventually("the deletion", || {
        gateway.get("more.test", "/").header("sluicegate-route")?.starts_with("default/web").then_some(())
    });
}

#[test]
fn sighup_reads_again() {
    let gateway = Start::with(&everything_to(&[echo()])).ready();
    gateway.signal("HUP");
    gateway.wait_log("SIGHUP");
    assert_eq!(gateway.get("a.test", "/").status, 200);
}

#[test]
fn mounted_config_maps_with_their_links_are_followed() {
    let (one, two) = (echo(), echo());
    let start = Start::with("");
    let mount = start.manifests();
    let version = |name: &str, endpoint| {
        std::fs::create_dir(mount.join(name)).unwrap();
        std::fs::write(mount.join(name).join("x.yaml"), everything_to(&[endpoint])).unwrap();
    };
    version("..1", one);
    std::os::unix::fs::symlink("..1", mount.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/x.yaml", mount.join("x.yaml")).unwrap();
    let gateway = start.ready();
    assert_eq!(gateway.get("a.test", "/").header("x-echo"), Some(one.to_string().as_str()));
    version("..2", two);
    std::os::unix::fs::symlink("..2", mount.join("..tmp")).unwrap();
    std::fs::rename(mount.join("..tmp"), mount.join("..data")).unwrap();
    eventually("the new version", || (gateway.get("a.test", "/").header("x-echo")? == two.to_string()).then_some(()));
}

#[test]
fn diagnostics_are_listed_and_counted() {
    let gateway =
        Start::with(&ingress("i", "spec: {defaultBackend: {service: {name: gone, port: {number: 80}}}}")).ready();
    let page = gateway.admin_page("/diagnostics").json();
    assert_eq!(
        (&page["diagnostics"][0]["reason"], &page["diagnostics"][0]["object"]["name"]),
        (&"ServiceNotFound".into(), &"i".into())
    );
    gateway.wait_metric("sluicegate_diagnostics", &["ServiceNotFound"], 1.0);
}

#[test]
fn a_file_that_is_rewritten_in_place_loses_nothing_while_it_is_half_written() {
    use std::io::Write;
    let backend = echo();
    let manifests = everything_to(&[backend]);
    let gateway = Start::with(&manifests).ready();
    let path = gateway.directory.path().join("manifests/main.yaml");
    let mut file = std::fs::File::create(&path).unwrap();
    // Another file is written meanwhile, so that a look that comes too early can be noticed.
    gateway.write("more.yaml", &host_to_web("more", "more.test", "[]"));
    eventually("the other file", || {
        let response = gateway.get("more.test", "/");
        response.header("sluicegate-route")?.starts_with("default/more").then_some(())
    });
    assert_eq!(gateway.get("a.test", "/").status, 200, "emptied, and not finished");
    file.write_all(manifests.as_bytes()).unwrap();
    drop(file);
    gateway.write("last.yaml", &host_to_web("last", "last.test", "[]"));
    eventually("the file after it", || (gateway.table()["hosts"]["last.test"].is_object()).then_some(()));
    assert_eq!(gateway.get("a.test", "/").status, 200);
}

#[test]
fn an_old_api_version_keeps_what_the_object_said() {
    let web = service("web", &echo().to_string());
    let a = host_to_web("a", "a.test", "[]");
    let gateway = Start::with(&[web.clone(), a.clone()].join("---\n")).ready();
    gateway.write("main.yaml", &[web, a.replace("networking.k8s.io/v1", "networking.k8s.io/v1beta1")].join("---\n"));
    gateway.wait_log("use networking.k8s.io/v1");
    assert_eq!(gateway.get("a.test", "/").status, 200);
}

#[test]
fn a_busy_directory_does_not_keep_changes_waiting() {
    let (one, two) = (echo(), echo());
    let gateway = Start::with(&everything_to(&[one])).ready();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let noisy = gateway.directory.path().join("manifests/noisy.yaml");
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                std::fs::write(&noisy, "# nothing\n").unwrap();
            }
        });
        gateway.apply(&everything_to(&[two]));
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert_eq!(gateway.get("a.test", "/").header("x-echo"), Some(two.to_string().as_str()));
}

#[test]
fn roots_may_be_relative_and_may_be_files() {
    let (one, two) = (echo(), echo());
    for root in ["manifests", "manifests/main.yaml"] {
        let start = Start::with(&everything_to(&[one])).set("manifests", serde_json::json!([root])).in_own_directory();
        let gateway = start.ready();
        assert_eq!(gateway.get("a.test", "/").header("x-echo"), Some(one.to_string().as_str()));
        gateway.apply(&everything_to(&[two]));
        assert_eq!(gateway.get("a.test", "/").header("x-echo"), Some(two.to_string().as_str()));
        // Were the file of a notification another one than the listed one, it would stand twice.
        assert!(!gateway.log().iter().any(|line| line.contains("also stands in")));
    }
}
