//! The binary beside a kernel: what `ip` changes is in the engine's tables, node ports included.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use millrace_tables::{
    Route, Snapshot,
    session::{Contract, Interface, Mode},
};

use crate::{
    engine::{FakeEngine, socket},
    netns::{Namespace, Process},
    require_root,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of its own, gone when dropped.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The kernel's index and MAC of a device.
fn device(namespace: &Namespace, name: &str) -> (u32, String) {
    let text = namespace.ip(&format!("-j link show {name}"));
    let link: serde_json::Value = serde_json::from_str(&text).unwrap();
    let index = link[0]["ifindex"].as_u64().unwrap();
    (index.try_into().unwrap(), link[0]["address"].as_str().unwrap().into())
}

fn interface(namespace: &Namespace, id: u16, name: &str, kind: &str) -> Interface {
    let (index, mac) = device(namespace, name);
    let mac = if kind == "host" { "02:00:00:00:00:63" } else { &mac };
    let addresses = match kind {
        "host" => vec!["169.254.77.1/30".parse().unwrap(), "fd4d::1/126".parse().unwrap()],
        _ => Vec::new(),
    };
    Interface {
        id,
        name: name.into(),
        mac: mac.parse().unwrap(),
        mtu: 1500,
        addresses,
        kind: kind.into(),
        index,
        mode: String::new(),
    }
}

/// Each route as `prefix: interface [via gateway] weight`, each neighbor and each node port.
fn lines(snapshot: Snapshot<'_>) -> Vec<String> {
    let name = |id| snapshot.interface(id).map_or("?".into(), |row| row.name);
    let routes = snapshot.routes().map(|(prefix, route)| match route {
        Route::Forward(group) => {
            let hops = snapshot.next_hops(group).into_iter().map(|(hop, weight)| {
                let via = hop.gateway.map_or(String::new(), |via| format!(" via {via}"));
                format!(" {}{via} {weight}", name(hop.interface))
            });
            format!("{prefix}:{}", hops.collect::<String>())
        }
        other => format!("{prefix}: {other:?}").to_lowercase(),
    });
    let neighbors = snapshot
        .static_neighbors()
        .map(|row| format!("neighbor {} {} {}", name(row.interface), row.addr, row.mac));
    let frontends = snapshot.frontends().map(|row| format!("frontend {}:{}", row.addr, row.port));
    routes.chain(neighbors).chain(frontends).collect()
}

#[test]
fn what_the_kernel_does_is_in_the_engine() {
    require_root!();
    let namespace = Namespace::new("mirror-process");
    for command in [
        "link add eth0 type veth peer name far0",
        "link add eth1 type veth peer name far1",
        "link add millrace0 type veth peer name engine0",
        "link add cni0 type bridge",
        "link add pod0 type veth peer name pod0p",
        "link set pod0 master cni0",
    ] {
        namespace.ip(command);
    }
    for name in ["eth0", "far0", "eth1", "far1", "millrace0", "engine0", "cni0", "pod0", "pod0p"] {
        namespace.ip(&format!("link set {name} up"));
    }
    for command in [
        "addr add 192.0.2.2/24 dev eth0",
        "addr add 198.51.100.2/24 dev eth1",
        "addr add 169.254.77.2/30 dev millrace0",
        "addr add 10.1.0.1/24 dev cni0",
        "route add default via 192.0.2.1",
    ] {
        namespace.ip(command);
    }
    let dir = Dir(std::env::temp_dir().join(format!("millrace-mirror-{}", std::process::id())));
    fs::create_dir_all(dir.0.join("m")).unwrap();
    fs::write(
        dir.0.join("m/web.yaml"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, clusterIP: 172.30.0.1, ports: [{port: 80, nodePort: 30080}]}\n",
    )
    .unwrap();
    let interfaces = vec![
        interface(&namespace, 0, "eth0", "uplink"),
        interface(&namespace, 1, "eth1", "uplink"),
        interface(&namespace, 2, "millrace0", "host"),
    ];
    let engine =
        FakeEngine::with(&socket(&dir.0), Contract::ours(), Mode::ServiceProxy, interfaces);
    let log = fs::File::create(dir.0.join("log")).unwrap();
    let child = namespace
        .command(env!("CARGO_BIN_EXE_millrace-control"))
        .args(["--manifests", dir.0.join("m").to_str().unwrap()])
        .args(["--engine", socket(&dir.0).to_str().unwrap()])
        .env("RUST_LOG", "debug")
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let _control = Process(child);
    let mut longest = Duration::ZERO;
    let mut expect = |after: &str, has: &[&str], hasnt: &[&str]| {
        let begun = Instant::now();
        loop {
            let now = engine.tables().map(|tables| lines(tables.snapshot())).unwrap_or_default();
            let there = |line: &&str| now.iter().any(|it| it == line);
            if has.iter().all(there) && !hasnt.iter().any(there) {
                break;
            }
            let log = || fs::read_to_string(dir.0.join("log")).unwrap();
            assert!(begun.elapsed() < PATIENCE, "after {after}: {now:#?}\n{}", log());
            std::thread::sleep(Duration::from_millis(1));
        }
        if !after.is_empty() {
            longest = longest.max(begun.elapsed());
        }
    };
    let trunk = device(&namespace, "millrace0").1;
    expect(
        "",
        &[
            "0.0.0.0/0: eth0 via 192.0.2.1 1",
            "192.0.2.0/24: eth0 1",
            "192.0.2.2/32: local",
            "10.1.0.0/24: millrace0 1",
            "10.1.0.1/32: local",
            "169.254.77.1/32: vip",
            &format!("neighbor millrace0 169.254.77.2 {trunk}"),
            "frontend 192.0.2.2:30080",
            "frontend 10.1.0.1:30080",
            // Where the kernel sends what this node itself asks of node ports.
            "frontend 169.254.77.1:30080",
        ],
        &["frontend 169.254.77.2:30080", "169.254.77.0/30: millrace0 1"],
    );
    let mut change = |command: &str, has: &[&str], hasnt: &[&str]| {
        namespace.ip(command);
        expect(command, has, hasnt);
    };
    // D4: a node port answers on a new address at once, and no longer on one that is gone.
    change(
        "addr add 192.0.2.9/24 dev eth0",
        &["192.0.2.9/32: local", "frontend 192.0.2.9:30080"],
        &[],
    );
    change(
        "addr del 192.0.2.9/24 dev eth0",
        &[],
        &["192.0.2.9/32: local", "frontend 192.0.2.9:30080"],
    );
    change(
        "route add 10.9.0.0/16 nexthop via 192.0.2.7 weight 2 nexthop via 198.51.100.7",
        &["10.9.0.0/16: eth0 via 192.0.2.7 2 eth1 via 198.51.100.7 1"],
        &[],
    );
    change(
        "route add 10.2.0.0/16 via 10.1.0.7",
        &["10.2.0.0/16: millrace0 via 169.254.77.2 1"],
        &[],
    );
    change(
        "route add default via 198.51.100.1 metric 9",
        &["0.0.0.0/0: eth0 via 192.0.2.1 1"],
        &[],
    );
    change(
        "link set far0 down",
        &["0.0.0.0/0: eth1 via 198.51.100.1 1", "10.9.0.0/16: eth1 via 198.51.100.7 1"],
        &[],
    );
    change("link set far0 up", &["0.0.0.0/0: eth0 via 192.0.2.1 1"], &[]);
    change(
        "neigh replace 192.0.2.1 lladdr 02:00:00:00:00:07 dev eth0 nud reachable",
        &["neighbor eth0 192.0.2.1 02:00:00:00:00:07"],
        &[],
    );
    change(
        "neigh replace 192.0.2.1 lladdr 02:00:00:00:00:08 dev eth0 nud reachable",
        &["neighbor eth0 192.0.2.1 02:00:00:00:00:08"],
        &["neighbor eth0 192.0.2.1 02:00:00:00:00:07"],
    );
    change(
        "neigh change 192.0.2.1 dev eth0 nud failed",
        &[],
        &["neighbor eth0 192.0.2.1 02:00:00:00:00:08"],
    );
    change("route del 10.2.0.0/16", &[], &["10.2.0.0/16: millrace0 via 169.254.77.2 1"]);
    println!("each change in the tables within {longest:?} at most");
    // Another engine, which greets before the kernel has said that its trunk is there.
    drop(engine);
    namespace.ip("link del millrace0");
    let interfaces = vec![
        interface(&namespace, 0, "eth0", "uplink"),
        Interface { index: 777, ..interface(&namespace, 2, "eth1", "host") },
    ];
    let interfaces = interfaces.into_iter().map(|it| match it.kind.as_str() {
        "host" => Interface { name: "millrace0".into(), ..it },
        _ => it,
    });
    let engine = FakeEngine::with(
        &socket(&dir.0),
        Contract::ours(),
        Mode::ServiceProxy,
        interfaces.collect(),
    );
    while engine.counts().0 == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(engine.tables().is_none());
    namespace.ip("link add index 777 name millrace0 type veth peer name engine0");
    let begun = Instant::now();
    let on_link = |line: &String| line == "10.1.0.0/24: millrace0 1";
    while !engine.tables().is_some_and(|tables| lines(tables.snapshot()).iter().any(on_link)) {
        assert!(begun.elapsed() < PATIENCE, "{}", fs::read_to_string(dir.0.join("log")).unwrap());
        std::thread::sleep(Duration::from_millis(1));
    }
    let log = fs::read_to_string(dir.0.join("log")).unwrap();
    assert!(!log.contains("the kernel has no such device"), "{log}");
}
