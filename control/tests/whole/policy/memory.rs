//! What policies cost in the tables: a pod, and a rule with a peer and a port of its own.

use millrace_tables::Table;
use serde_json::{Value, json};

use super::worlds::Control;

const PODS: u64 = 1000;
const POLICIES: u64 = 1000;

/// A pod of another node: it has no interface here.
fn far(number: u64) -> Value {
    let mut pod = pod(number);
    pod["metadata"]["name"] = format!("far-{number}").into();
    pod["spec"]["nodeName"] = "node-1".into();
    pod["status"]["podIPs"][0]["ip"] = format!("10.1.{}.{}", number / 250, number % 250 + 1).into();
    pod
}

fn pod(number: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": format!("pod-{number}"),
            "labels": {"app": format!("app-{}", number % 10), "name": format!("pod-{number}")}},
        "spec": {"nodeName": "node-0", "containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.{}.{}", number / 250, number % 250 + 1)}]}})
}

/// Each selects a tenth of the pods, and allows one pod at one port.
fn policy(number: u64) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "default", "name": format!("policy-{number}")},
        "spec": {"podSelector": {"matchLabels": {"app": format!("app-{}", number % 10)}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"name": format!("pod-{number}")}}}], "ports": [{"port": 1000 + number}]}]}})
}

fn bytes(control: &mut Control) -> u64 {
    control.publish();
    let usage = control.writer.usage();
    usage.of(Table::Policy) + usage.of(Table::Names)
}

#[test]
fn a_pod_and_a_rule_take_what_they_are_said_to_take() {
    let mut control = Control::new();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0"}, "spec": {"podCIDRs": ["10.0.0.0/16"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}});
    control.set(&node);
    control.set(&policy(0));
    let empty = bytes(&mut control);
    (0..PODS).for_each(|number| control.set(&far(number)));
    let per_pod = (bytes(&mut control) - empty) / PODS;
    (0..PODS).for_each(|number| control.set(&pod(number)));
    let with_pods = bytes(&mut control);
    (1..POLICIES).for_each(|number| control.set(&policy(number)));
    let per_rule = (bytes(&mut control) - with_pods) / (POLICIES - 1);
    println!("{per_pod} bytes a pod, {per_rule} bytes a rule");
    assert!(per_pod <= 160, "{per_pod} bytes a pod");
    assert!(per_rule <= 640, "{per_rule} bytes a rule");
    // A change of one pod's label takes up no more than it did before.
    let before = bytes(&mut control);
    let mut changed = pod(7);
    changed["metadata"]["labels"]["app"] = "app-3".into();
    control.set(&changed);
    control.publish();
    control.set(&pod(7));
    assert!(bytes(&mut control) <= before + 4096);
}
