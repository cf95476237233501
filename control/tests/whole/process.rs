//! The released binary against an engine's socket: started, killed, restarted, refused, stopped.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use crate::common::TempDir;
use crate::engine::{FakeEngine, socket, wait};
use millrace_apiserver::ApiServer;
use millrace_control::serve::ask::ask;
use millrace_tables::{Route, Tables, session::Contract};
use serde_json::json;

/// The binary, killed when dropped, also on panic.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(dir: &Path, more: &[&str]) -> Process {
        let manifests = dir.join("m");
        Process::start_with(dir, &[&["--manifests", &manifests.to_string_lossy()], more].concat())
    }

    pub fn start_with(dir: &Path, flags: &[&str]) -> Process {
        let log = dir.join("log");
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_millrace-control"))
            .args(["--engine", &socket(dir).to_string_lossy()])
            .args(flags)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("RUST_LOG", "debug")
            .stderr(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Process { child, log }
    }

    /// One that was started in another way.
    pub fn of(child: Child, log: PathBuf) -> Process {
        Process { child, log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn wait_for_log(&self, text: &str) {
        wait(
            || self.log().contains(text),
            || format!("waited for {text:?} in the log:\n{}", self.log()),
        );
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn manifest(dir: &Path, name: &str, cluster_ip: &str, endpoint: &str) {
    let text = format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{clusterIP: {cluster_ip}, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [{endpoint}]}}]
"#
    );
    fs::write(dir.join("m").join(".new"), text).unwrap();
    fs::rename(dir.join("m").join(".new"), dir.join("m").join(format!("{name}.yaml"))).unwrap();
}

fn dir() -> TempDir {
    let dir = TempDir::new();
    fs::create_dir(dir.path().join("m")).unwrap();
    manifest(dir.path(), "web", "172.30.0.1", "10.0.0.1");
    dir
}

#[test]
fn manifests_reach_the_engine_and_changes_follow_in_the_same_segment() {
    let dir = dir();
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    let control = Process::start(dir.path(), &[]);
    engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080"]);
    manifest(dir.path(), "web", "172.30.0.1", "10.0.0.2");
    engine.wait_for(&["172.30.0.1:80=10.0.0.2:8080"]);
    manifest(dir.path(), "api", "172.30.0.2", "10.0.0.3");
    engine.wait_for(&["172.30.0.1:80=10.0.0.2:8080", "172.30.0.2:80=10.0.0.3:8080"]);
    fs::remove_file(dir.path().join("m/web.yaml")).unwrap();
    engine.wait_for(&["172.30.0.2:80=10.0.0.3:8080"]);
    assert_eq!(engine.counts(), (1, 1));
    control.wait_for_log("every worker uses it");
    // The engine's own interface is in the tables: its address and network.
    let tables = engine.tables().unwrap();
    let route = |addr: [u8; 4]| tables.snapshot().route(&std::net::IpAddr::from(addr).into());
    assert_eq!(route([192, 0, 2, 1]), Some(Route::Local));
    assert!(matches!(route([192, 0, 2, 9]), Some(Route::Forward(_))));
}

#[test]
fn killed_and_restarted_it_takes_over_with_what_the_files_say_by_then() {
    let dir = dir();
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    let first = Process::start(dir.path(), &[]);
    engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080"]);
    manifest(dir.path(), "api", "172.30.0.2", "10.0.0.3");
    engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080", "172.30.0.2:80=10.0.0.3:8080"]);
    let before = engine.tables().unwrap();
    let id = |tables: &Tables, key| {
        tables
            .snapshot()
            .services()
            .find(|service| tables.snapshot().service_key(service.id) == key)
            .map(|service| service.id)
    };
    let api = id(&before, "default/api");
    first.kill();
    assert_eq!(engine.frontends().len(), 2, "the segment outlives its writer");
    fs::remove_file(dir.path().join("m/web.yaml")).unwrap();
    manifest(dir.path(), "new", "172.30.0.9", "10.0.0.9");
    let _second = Process::start(dir.path(), &[]);
    engine.wait_for(&["172.30.0.2:80=10.0.0.3:8080", "172.30.0.9:80=10.0.0.9:8080"]);
    let after = engine.tables().unwrap();
    assert!(after.snapshot().generation() > before.snapshot().generation());
    assert!(
        api.is_some() && id(&after, "default/api") == api,
        "connections keep their service's number"
    );
    assert_eq!(engine.counts(), (2, 2));
}

#[test]
fn a_new_engine_gets_everything_and_an_old_one_is_waited_for() {
    let dir = dir();
    let control = Process::start(dir.path(), &[]);
    control.wait_for_log("trying again");
    for _ in 0..3 {
        let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
        engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080"]);
        assert_eq!(engine.counts().1, 1);
    }
    // Changes while there is no engine are in what the next one gets.
    manifest(dir.path(), "web", "172.30.0.1", "10.0.0.7");
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    engine.wait_for(&["172.30.0.1:80=10.0.0.7:8080"]);
}

#[test]
fn an_engine_of_another_release_is_refused_with_both_versions_and_the_next_one_served() {
    let dir = dir();
    let foreign = Contract { tables_abi: u64::MAX, version: "9.9.9".into(), ..Contract::ours() };
    let engine = FakeEngine::start(&socket(dir.path()), foreign);
    let control = Process::start(dir.path(), &[]);
    control.wait_for_log("run control and engine of one release");
    assert!(control.log().contains("release 9.9.9") && engine.tables().is_none());
    drop(engine);
    FakeEngine::start(&socket(dir.path()), Contract::ours())
        .wait_for(&["172.30.0.1:80=10.0.0.1:8080"]);
}

#[test]
fn a_bad_document_is_logged_by_file_document_and_field_and_the_rest_stays_in_force() {
    let dir = dir();
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    let control = Process::start(dir.path(), &["--log", "json"]);
    engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080"]);
    let good = fs::read_to_string(dir.path().join("m/web.yaml")).unwrap();
    fs::write(dir.path().join("m/web.yaml"), good.replace("[10.0.0.1]", "{}")).unwrap();
    manifest(dir.path(), "api", "172.30.0.2", "10.0.0.3");
    engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080", "172.30.0.2:80=10.0.0.3:8080"]);
    control.wait_for_log("web.yaml, document 2: EndpointSlice default/web-1: endpoints[0].addresses: invalid type: map");
    let lines = control.log();
    assert!(
        lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{lines}"
    );
}

#[test]
fn the_configuration_is_followed_and_its_bad_entries_are_named() {
    let dir = dir();
    let config = dir.path().join("control.toml");
    fs::write(&config, "[[route]]\nprefix = '10.0.0.0/8'\nvia = '192.0.2.9'\n[[neighbor]]\ninterface = 'eth0'\naddress = '192.0.2.9'\nmac = '02:00:00:00:00:09'\n").unwrap();
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    let control = Process::start(dir.path(), &["--config", &config.to_string_lossy()]);
    engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080"]);
    let tables = engine.tables().unwrap();
    let gateway =
        |addr: [u8; 4]| match tables.snapshot().route(&std::net::IpAddr::from(addr).into()) {
            Some(Route::Forward(group)) => tables
                .snapshot()
                .next_hop(group, 0)
                .and_then(|hop| hop.gateway)
                .map(|via| via.to_string()),
            other => Some(format!("{other:?}")),
        };
    assert_eq!(gateway([10, 1, 2, 3]).as_deref(), Some("192.0.2.9"));
    assert_eq!(tables.snapshot().static_neighbors().count(), 1);
    let entries = "[[route]]\nprefix = '10.0.0.0/8'\nvia = '192.0.2.10'\n[[route]]\nprefix = '11.0.0.0/8'\nvia = '203.0.113.1'\n[[route]]\nprefix = '12.0.0.0/8'\ntype = 'blackhole'\n[[neighbor]]\ninterface = 'eth7'\naddress = '192.0.2.9'\nmac = '02:00:00:00:00:09'\n";
    fs::write(dir.path().join("new"), entries).unwrap();
    fs::rename(dir.path().join("new"), &config).unwrap();
    wait(|| gateway([10, 1, 2, 3]).as_deref() == Some("192.0.2.10"), || control.log());
    assert_eq!(gateway([12, 1, 2, 3]).as_deref(), Some("Some(Blackhole)"));
    assert_eq!(tables.snapshot().static_neighbors().count(), 0);
    control.wait_for_log(
        "control.toml: [[route]] 2: via: 203.0.113.1 is in the network of no interface",
    );
    control.wait_for_log("control.toml: [[neighbor]] 1: interface: the engine has no interface \"eth7\"; it has eth0");
}

#[test]
fn memory_is_used_again_only_when_the_worker_has_passed() {
    let dir = dir();
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    let _control = Process::start(dir.path(), &["--tables", "4"]);
    engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080"]);
    let tables = engine.tables().unwrap();
    let mut worker = engine.slots().reader(0).unwrap();
    let seen = worker.enter(&tables);
    for round in 0..40 {
        manifest(dir.path(), "web", "172.30.0.1", &format!("10.0.1.{round}"));
        engine.wait_for(&[&format!("172.30.0.1:80=10.0.1.{round}:8080")]);
        // What the worker pinned still says what it said.
        let service = seen.services().next().unwrap();
        assert_eq!(seen.backends(&service.cluster).next().unwrap().addr.to_string(), "10.0.0.1");
    }
}

#[test]
fn a_signal_ends_it_cleanly_and_the_engine_keeps_its_tables() {
    let dir = dir();
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    let control = Process::start(dir.path(), &[]);
    engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080"]);
    assert!(control.terminate().success());
    assert_eq!(engine.frontends(), ["172.30.0.1:80=10.0.0.1:8080"]);
}

#[test]
fn once_writes_an_image_and_its_exit_status_tells_of_refusals() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    fs::write(path("dataplane.toml"), "mode = 'router'\nnewer = true\n[[interface]]\nname = 'a'\naddresses = ['192.0.2.1/24']\ndriver = 'pcap'\nmac = '02:00:00:00:00:01'\n").unwrap();
    let once = || {
        let flags = [
            "--once",
            "--manifests",
            &path("m"),
            "--output",
            &path("image"),
            "--engine-config",
            &path("dataplane.toml"),
        ];
        Command::new(env!("CARGO_BIN_EXE_millrace-control")).args(flags).output().unwrap()
    };
    assert!(once().status.success());
    let image = Tables::open_image(&dir.path().join("image")).unwrap();
    assert_eq!(image.snapshot().frontends().count(), 1);
    assert_eq!(image.snapshot().interfaces().next().unwrap().name, "a");
    fs::write(path("m/bad.yaml"), "kind: Service\n").unwrap();
    let output = once();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("bad.yaml, document 1: Service: apiVersion: is missing or not a string")
    );
}

#[test]
fn a_missing_directory_or_a_broken_configuration_ends_the_start_with_the_reason() {
    let dir = TempDir::new();
    let fails = |flags: &[&str]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_millrace-control"))
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        assert!(!child.wait().unwrap().success());
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    };
    let missing = dir.path().join("missing").to_string_lossy().into_owned();
    assert!(
        fails(&["--manifests", &missing]).contains("give a readable directory with --manifests")
    );
    assert!(fails(&[]).contains("give --manifests DIR"));
    fs::write(dir.path().join("c.toml"), "route = [[\n").unwrap();
    let config = dir.path().join("c.toml").to_string_lossy().into_owned();
    assert!(fails(&["--manifests", &missing, "--config", &config]).contains("c.toml: line "));
}

fn api_objects(server: &ApiServer, slice: &str, endpoints: &[&str]) {
    let endpoints: Vec<_> =
        endpoints.iter().map(|address| json!({"addresses": [address]})).collect();
    server.apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"port": 8080}],
        "metadata": {"name": slice, "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}}, "endpoints": endpoints}));
}

/// A server with one Service, and the file that leads to it.
fn api(dir: &Path) -> (ApiServer, String) {
    let server = ApiServer::start().unwrap();
    server.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "172.30.0.1", "ports": [{"port": 80}]}}));
    api_objects(&server, "web-1", &["10.0.0.1"]);
    let path = dir.join("kubeconfig");
    fs::write(&path, server.kubeconfig()).unwrap();
    (server, path.to_string_lossy().into_owned())
}

#[test]
fn an_api_server_reaches_the_engine_and_its_absence_changes_nothing() {
    let dir = dir();
    let (server, kubeconfig) = api(dir.path());
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    let control =
        Process::start_with(dir.path(), &["--kubeconfig", &kubeconfig, "--node", "node-a"]);
    engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080"]);
    api_objects(&server, "web-1", &["10.0.0.2"]);
    engine.wait_for(&["172.30.0.1:80=10.0.0.2:8080"]);
    server.set_up(false);
    control.wait_for_log("trying again, what was heard stays in force");
    // A restart during an outage leaves the engine with what it has.
    control.kill();
    let control =
        Process::start_with(dir.path(), &["--kubeconfig", &kubeconfig, "--node", "node-a"]);
    control.wait_for_log("trying again");
    assert_eq!(
        (engine.frontends(), engine.counts().0),
        (vec!["172.30.0.1:80=10.0.0.2:8080".to_owned()], 1)
    );
    api_objects(&server, "web-1", &["10.0.0.3"]);
    server.set_up(true);
    engine.wait_for(&["172.30.0.1:80=10.0.0.3:8080"]);
    assert!(control.terminate().success());
}

#[test]
fn an_endpoint_that_moves_between_slices_is_never_gone() {
    let dir = dir();
    let (server, kubeconfig) = api(dir.path());
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    let _control = Process::start_with(dir.path(), &["--kubeconfig", &kubeconfig]);
    let there = ["172.30.0.1:80=10.0.0.1:8080"];
    engine.wait_for(&there);
    let mut here = ["web-1", "web-2"];
    for round in 0..30 {
        let [from, to] = here;
        let pause = std::time::Duration::from_millis(round % 4);
        // Of the two words either may come first, at once or a little later.
        if round % 2 == 0 {
            api_objects(&server, from, &[]);
            std::thread::sleep(pause);
            api_objects(&server, to, &["10.0.0.1"]);
        } else {
            api_objects(&server, to, &["10.0.0.1"]);
            std::thread::sleep(pause);
            api_objects(&server, from, &[]);
        }
        for _ in 0..20 {
            assert_eq!(engine.frontends(), there, "round {round}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        here = [to, from];
    }
    // One that is really gone is gone.
    api_objects(&server, "web-1", &[]);
    api_objects(&server, "web-2", &[]);
    engine.wait_for(&["172.30.0.1:80="]);
}

/// What the control process answers on its socket.
fn asked(dir: &Path, path: &str) -> Option<String> {
    ask(&socket(dir).with_file_name("control.sock"), path).ok()
}

#[test]
fn receipts_name_the_version_the_generation_and_when_every_worker_had_it() {
    let dir = dir();
    let (server, kubeconfig) = api(dir.path());
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    let control =
        Process::start_with(dir.path(), &["--kubeconfig", &kubeconfig, "--node", "node-a"]);
    engine.wait_for(&["172.30.0.1:80=10.0.0.1:8080"]);
    let receipt = |version: u64| {
        let text = asked(dir.path(), "/receipts").unwrap_or_default();
        let all: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let found = all.as_array()?.iter().find(|receipt| receipt["name"] == "web-1")?.clone();
        let of = found["resource_version"].as_str()?.parse().ok();
        (of == Some(version)).then_some(found)
    };
    let version = server.version();
    wait(|| receipt(version).is_some(), || format!("{:?}", asked(dir.path(), "/receipts")));
    wait(|| receipt(version).is_some_and(|receipt| receipt["applied"] == true), || control.log());
    let before = receipt(version).unwrap();
    api_objects(&server, "web-1", &["10.0.0.2"]);
    let version = server.version();
    wait(|| receipt(version).is_some_and(|receipt| receipt["applied"] == true), || control.log());
    let after = receipt(version).unwrap();
    assert!(after["generation"].as_u64() > before["generation"].as_u64(), "{before} {after}");
    assert!(after["applied_after_us"].as_u64().is_some_and(|micros| micros > 0), "{after}");
    let metrics = asked(dir.path(), "/metrics").unwrap();
    assert!(
        metrics.contains("millrace_control_propagation_recent_seconds{quantile=\"0.99\"} "),
        "{metrics}"
    );
    assert!(metrics.contains("millrace_control_objects{kind=\"EndpointSlice\"} 1\n"), "{metrics}");
    assert!(metrics.contains("millrace_control_objects{kind=\"NetworkPolicy\"} 0\n"), "{metrics}");
    assert!(
        metrics.contains("millrace_control_api_lists_total{kind=\"Service\"} 1\n"),
        "{metrics}"
    );
    assert!(control.terminate().success());
    assert!(!socket(dir.path()).with_file_name("control.sock").exists());
}

/// Status line, weight header and body of `GET /` at a port of this machine.
fn get(port: u16) -> Option<(String, String, String)> {
    get_path(port, "/healthz")
}

fn get_path(port: u16, path: &str) -> Option<(String, String, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let weight =
        head.lines().find_map(|line| line.strip_prefix("x-load-balancing-endpoint-weight: "));
    Some((head.lines().next()?.into(), weight.unwrap_or_default().into(), body.into()))
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn load_balancers_are_told_of_local_endpoints_and_probes_of_the_node() {
    let dir = dir();
    let (server, kubeconfig) = api(dir.path());
    let (port, healthz) = (free_port(), free_port());
    let node = |taints: serde_json::Value| {
        server.apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}, "spec": {"taints": taints}}));
    };
    let endpoints = |ready: bool| {
        server.apply(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"port": 80}],
            "metadata": {"name": "lb-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "lb"}}, "endpoints": [
                {"addresses": ["10.0.1.1"], "nodeName": "node-a", "conditions": {"ready": ready, "serving": true, "terminating": !ready}},
                {"addresses": ["10.0.1.2"], "nodeName": "node-a"}, {"addresses": ["10.0.2.1"], "nodeName": "node-b"}]}));
    };
    node(json!([]));
    endpoints(true);
    server.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "lb", "namespace": "shop"}, "spec": {
        "type": "LoadBalancer", "clusterIP": "172.30.0.7", "externalTrafficPolicy": "Local", "healthCheckNodePort": port, "ports": [{"port": 80}]}}));
    let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
    let flags = [
        "--kubeconfig",
        &kubeconfig,
        "--node",
        "node-a",
        "--healthz-bind-address",
        &format!("127.0.0.1:{healthz}"),
    ];
    let control = Process::start_with(dir.path(), &flags);
    let says = |port: u16, code: &str, weight: &str| {
        wait(
            || get(port).is_some_and(|(line, found, _)| line.contains(code) && found == weight),
            || {
                format!(
                    "waited for {code} with weight {weight:?}, have {:?}\n{}",
                    get(port),
                    control.log()
                )
            },
        );
    };
    says(port, "200", "2");
    says(healthz, "200", "");
    let (_, _, body) = get(port).unwrap();
    assert!(
        body.contains("\"namespace\": \"shop\"") && body.contains("\"localEndpoints\": 2"),
        "{body}"
    );
    endpoints(false);
    says(port, "200", "1");
    server.delete("EndpointSlice", "shop", "lb-1");
    says(port, "503", "0");
    node(json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]));
    says(healthz, "503", "");
    node(json!([]));
    says(healthz, "200", "");
    server.delete("Node", "", "node-a");
    says(healthz, "503", "");
    node(json!([]));
    says(healthz, "200", "");
    // Without an engine no packet gets anywhere.
    drop(engine);
    says(healthz, "503", "");
    assert!(get_path(healthz, "/livez").unwrap().0.contains("200"), "nothing to restart for");
    server.delete("Service", "shop", "lb");
    wait(|| get(port).is_none_or(|(line, ..)| !line.contains("200")), || control.log());
}

#[test]
fn without_any_source_it_says_what_to_give() {
    let dir = TempDir::new();
    let control = Process::start_with(dir.path(), &[]);
    control.wait_for_log("no objects: give --manifests DIR or --kubeconfig FILE");
    let control = Process::start_with(dir.path(), &["--kubeconfig", "/nowhere"]);
    control.wait_for_log("kubeconfig /nowhere: ");
}
