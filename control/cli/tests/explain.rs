//! `millrace explain` as a user runs it: the real binary, files in, JSON lines out.

mod common;

use std::fs;
use std::process::Command;

use common::{Folder, flow, with};
use serde_json::{Value, json};

#[test]
fn many_flows_to_a_vip_are_spread_over_its_backends() {
    let folder = Folder::new("spread");
    let many = json!({"from": "uplink", "count": 200, "flags": "SYN"});
    let (answers, good) =
        folder.flows(&[with(flow("f1", "203.0.113.2", ("172.30.0.41", 80), "TCP"), many)]);
    assert!(good);
    let outcomes = answers[0]["outcomes"].as_array().unwrap();
    let to = |backend: &str| outcomes.iter().find(|o| o["backend"] == backend).unwrap();
    let (here, there) = (to("10.0.1.7:8080"), to("10.0.2.9:8080"));
    assert_eq!(here["count"].as_u64().unwrap() + there["count"].as_u64().unwrap(), 200);
    assert!(
        here["count"].as_u64().unwrap() > 50 && there["count"].as_u64().unwrap() > 50,
        "{outcomes:?}"
    );
    assert_eq!(here["out"], "pod:default/web-1");
    assert_eq!(here.get("next_hop"), None);
    assert_eq!((&there["out"], &there["next_hop"]), (&json!("uplink"), &json!("192.168.0.3")));
    for outcome in [here, there] {
        assert_eq!(
            (&outcome["verdict"], &outcome["service"]),
            (&json!("transmit"), &json!("default/web:http"))
        );
        assert_eq!(outcome["dst"], outcome["backend"]);
        assert!(outcome["src"].as_str().unwrap().starts_with("203.0.113.2:"));
        assert!(outcome["snat"].is_null());
    }
    let stops: Vec<&str> = answers[0]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["stop"].as_str().unwrap())
        .collect();
    assert_eq!(stops[..3], ["parse", "conntrack", "service"]);
    assert!(
        stops.contains(&"fib")
            && stops.contains(&"policy")
            && stops.ends_with(&["rewrite", "verdict"])
    );
    assert_eq!(answers[0]["steps"][2]["said"], "frontend 172.30.0.41:80/TCP of default/web:http");
}

#[test]
fn refusals_punts_and_routes_are_told_apart() {
    let folder = Folder::new("verdicts");
    let (answers, good) = folder.flows(&[
        flow("empty", "10.0.1.5", ("172.30.0.42", 80), "TCP"),
        flow("port", "10.0.1.5", ("172.30.0.41", 81), "UDP"),
        with(flow("ssh", "203.0.113.2", ("192.168.0.2", 22), "TCP"), json!({"from": "uplink"})),
        with(
            flow("node-port", "203.0.113.2", ("192.168.0.2", 30080), "TCP"),
            json!({"from": "uplink"}),
        ),
        flow("remote", "10.0.1.5", ("10.0.2.9", 9), "UDP"),
        flow("nobody", "10.0.1.5", ("10.0.1.200", 9), "UDP"),
    ]);
    assert!(good);
    let outcome = |n: usize| &answers[n]["outcomes"][0];
    assert_eq!(
        (&outcome(0)["verdict"], &outcome(0)["reply"]),
        (&json!("reply"), &json!("tcp-reset"))
    );
    assert_eq!(outcome(0)["service"], "default/empty:http");
    assert_eq!(outcome(1)["reply"], "icmp-port-unreachable");
    assert_eq!(outcome(2)["verdict"], "punt");
    assert_eq!(outcome(3)["service"], "default/web:http");
    assert_eq!(
        (&outcome(4)["out"], &outcome(4)["next_hop"]),
        (&json!("uplink"), &json!("192.168.0.3"))
    );
    assert!(outcome(4)["service"].is_null() && outcome(4)["backend"].is_null());
    assert_ne!(outcome(5)["verdict"], "transmit");
}

#[test]
fn a_line_that_is_wrong_is_answered_and_the_rest_go_on() {
    let folder = Folder::new("wrong");
    let (answers, good) = folder.flows(&[
        with(
            flow("pod", "10.0.1.5", ("172.30.0.41", 80), "TCP"),
            json!({"from": "pod:default/none"}),
        ),
        flow("address", "10.0.1.500", ("172.30.0.41", 80), "TCP"),
        json!("garbage"),
        flow("good", "10.0.1.5", ("172.30.0.41", 80), "TCP"),
    ]);
    assert!(!good);
    assert_eq!(answers[0]["id"], "pod");
    assert!(answers[0]["error"].as_str().unwrap().contains("default/none"));
    assert!(answers[1]["error"].as_str().unwrap().contains("src"));
    assert!(answers[2]["error"].is_string());
    assert_eq!(answers[3]["outcomes"][0]["verdict"], "transmit");
}

#[test]
fn a_flow_keeps_its_backend_while_objects_change_and_its_answer_comes_back() {
    let folder = Folder::new("history");
    let slice = |addresses: &[&str]| {
        let endpoints: Vec<Value> = addresses
            .iter()
            .map(|a| json!({"addresses": [a], "conditions": {"ready": true}}))
            .collect();
        json!({"objects": [{
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
        }]})
    };
    let ask = flow("a", "10.0.1.5", ("172.30.0.41", 80), "TCP");
    let (answers, good) = folder.script(&[
        slice(&["10.0.2.9"]),
        json!({"flow": ask}),
        slice(&["10.0.1.7", "10.0.2.9"]),
        json!({"flow": with(ask.clone(), json!({"flags": "ACK"}))}),
        json!({"flow": {"id": "a", "reverse": true}}),
        json!({"advance": "30s"}),
        json!({"show": "conntrack"}),
        json!({"delete": [{"kind": "EndpointSlice", "namespace": "default", "name": "web-1"}]}),
        json!({"delete": [{"kind": "EndpointSlice", "namespace": "default", "name": "never-was"}]}),
        json!({"flow": with(flow("b", "10.0.1.5", ("172.30.0.41", 80), "TCP"), json!({"sport": 41000}))}),
        json!({"show": "frontends"}),
    ]);
    assert!(good, "{answers:?}");
    assert_eq!(answers[0]["outcomes"][0]["backend"], "10.0.2.9:8080");
    assert_eq!(answers[1]["outcomes"][0]["backend"], "10.0.2.9:8080");
    let back = &answers[2]["outcomes"][0];
    assert_eq!((&back["src"], &back["dst"]), (&json!("172.30.0.41:80"), &json!("10.0.1.5:40000")));
    assert_eq!(
        (&back["out"], &back["backend"]),
        (&json!("pod:default/web-0"), &json!("10.0.2.9:8080"))
    );
    let tracked = &answers[3]["conntrack"][0];
    assert_eq!(
        (&tracked["src"], &tracked["dst"]),
        (&json!("10.0.1.5:40000"), &json!("172.30.0.41:80"))
    );
    assert_eq!((&tracked["backend"], &tracked["age"]), (&json!("10.0.2.9:8080"), &json!("30s")));
    assert_eq!(answers[4]["outcomes"][0]["reply"], "tcp-reset");
    let frontends = answers[5]["frontends"].as_array().unwrap();
    let web: Vec<&Value> =
        frontends.iter().filter(|f| f["service"] == "default/web:http").collect();
    assert_eq!(
        web.iter().map(|f| f["type"].as_str().unwrap()).collect::<Vec<_>>(),
        ["ClusterIP", "NodePort"]
    );
    assert_eq!(
        (&web[0]["address"], &web[0]["port"], &web[0]["protocol"]),
        (&json!("172.30.0.41"), &json!(80), &json!("TCP"))
    );
    assert_eq!(web[0]["backends"], json!([]));
}

#[test]
fn a_refused_object_is_answered_in_its_place() {
    let folder = Folder::new("refused");
    let bad = json!({"objects": [{
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad", "namespace": "default"},
        "spec": {"clusterIP": "172.030.0.50", "clusterIPs": ["172.030.0.50"], "ports": [{"port": 80, "protocol": "TCP"}]},
    }]});
    let (answers, good) =
        folder.script(&[bad, json!({"flow": flow("a", "10.0.1.5", ("172.30.0.41", 80), "TCP")})]);
    assert!(good, "it is an answer");
    let refused = &answers[0]["refused"];
    assert_eq!((&refused["kind"], &refused["name"]), (&json!("Service"), &json!("bad")));
    assert!(refused["field"].as_str().unwrap().contains("clusterIP"), "{refused}");
    assert_eq!(answers.last().unwrap()["outcomes"][0]["verdict"], "transmit");
}

#[test]
fn a_routers_configuration_gives_its_interfaces() {
    let folder = Folder::new("router");
    let config = folder.0.join("router.toml");
    let text = "mode = \"router\"\n[[interface]]\nname = \"left\"\naddresses = [\"10.0.1.1/24\"]\n\
                [[interface]]\nname = \"right\"\naddresses = [\"10.0.2.1/24\", \"fd00:2::1/64\"]\n";
    fs::write(&config, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(["explain", "udp", "10.0.1.5:4000", "172.30.0.41:80", "--manifests"])
        .arg(folder.0.join("manifests"))
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    // The service speaks TCP on that port: the service address answers that nobody listens.
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["outcomes"][0]["reply"], "icmp-port-unreachable", "{answer}");
    let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args([
            "explain",
            "udp",
            "[fd00:1::5]:4000",
            "[fd00:2::7]:80",
            "--from",
            "interface:left",
            "--manifests",
        ])
        .arg(folder.0.join("manifests"))
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["outcomes"][0]["out"], "uplink:right", "{answer}");
    assert_eq!(answer["outcomes"][0]["dst"], "[fd00:2::7]:80");
}

#[test]
fn flags_hold_beside_the_files_and_a_node_beside_a_configuration() {
    let folder = Folder::new("flags");
    let config = folder.0.join("router.toml");
    let text = "mode = \"router\"\n[[interface]]\nname = \"left\"\naddresses = [\"10.0.1.1/24\"]\n\
                [[interface]]\nname = \"right\"\naddresses = [\"10.0.2.1/24\"]\n";
    fs::write(&config, text).unwrap();
    let control = folder.0.join("control.toml");
    fs::write(&control, "[[route]]\nprefix = \"0.0.0.0/0\"\nvia = \"10.0.2.9\"\n").unwrap();
    let local = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "near", "namespace": "default"},
        "spec": {"clusterIP": "172.30.0.43", "clusterIPs": ["172.30.0.43"], "internalTrafficPolicy": "Local",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "near-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "near"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.0.2.9"], "conditions": {"ready": true}, "nodeName": "node-b"}]});
    folder.write("manifests/near.yaml", &[local]);
    folder.write("manifests/near-slice.json", &[slice]);
    let explain = |destination: &str, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["explain", "tcp", "10.0.1.5:4000", destination, "--from", "interface:left"])
            .arg("--manifests")
            .arg(folder.0.join("manifests"))
            .arg("--config")
            .arg(&config)
            .arg("--control-config")
            .arg(&control)
            .args(more)
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["outcomes"][0].clone()
    };
    // In the range, and nobody's.
    assert_eq!(explain("172.30.0.99:80", &[])["verdict"], "transmit");
    let outcome = explain("172.30.0.99:80", &["--service-cidr", "172.30.0.0/16"]);
    assert_eq!((&outcome["verdict"], &outcome["reason"]), (&json!("drop"), &json!("blackhole")));
    let outcome = explain("172.30.0.41:80", &["--masquerade-all"]);
    assert!(outcome["snat"].is_string(), "{outcome}");
    // Whose endpoints are local, and who said to drop.
    let outcome = explain("172.30.0.43:80", &["--node", "node-b"]);
    assert_eq!(outcome["backend"], "10.0.2.9:8080", "{outcome}");
    let outcome = explain("172.30.0.43:80", &["--node", "node-a"]);
    assert_eq!(outcome["by"], "Service default/near (internalTrafficPolicy)", "{outcome}");
}
