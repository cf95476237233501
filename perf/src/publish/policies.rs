//! Policies at full size: what loading them takes, what they hold in memory, and how soon a pod's new label is in every worker's hands.
//!
//! The pods are all of this node, which is the hardest case: every policy is in force, and every pod is a subject. A namespace has 50 pods
//! with one of ten applications and one of five roles each; its policies select an application each, and allow some roles of it,
//! some pods of another namespace, ports, and in every tenth policy a block of addresses. `--distinct` gives every pod an application of its own: there are
//! as many sets of rules as pods then, and as many kinds of peers, and every second policy names all pods of the cluster beside one of them.

use super::{Changes, Control, Load, Socket, engine, milliseconds, objects, within};
use clap::Args;
use engine::Engine;
use millrace_control::desired::Row;
use millrace_tables::Table;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What can be chosen.
#[derive(Args)]
pub struct Options {
    /// Pods
    #[arg(long, default_value_t = 5_000)]
    pods: u32,
    /// NetworkPolicies
    #[arg(long, default_value_t = 10_000)]
    policies: u32,
    /// Label changes of one pod
    #[arg(long, default_value_t = 2_000)]
    changes: usize,
    /// Microseconds between two packets to each worker
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pace: u64,
    /// Give every pod policies and a label of its own
    #[arg(long)]
    distinct: bool,
    /// CPUs of the workers
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1])]
    cpus: Vec<usize>,
    /// Exit with an error unless a label's change takes at most 5 ms (p99), a rule 1 KiB and a pod 1 KiB of the tables
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Pods of a namespace.
const SPACE: u32 = 50;
const APPS: u32 = 10;
const ROLES: u32 = 5;

#[derive(Serialize)]
struct Report {
    pods: u32,
    policies: u32,
    rules: u32,
    /// Objects in JSON values to judged rows, once.
    judge_ms: f64,
    load: Load,
    /// Bytes of the tables for all policies and pods, names included.
    bytes: u64,
    /// Those bytes without the pods' rows, a rule.
    per_rule: f64,
    /// Bytes of a pod's row, without policies that tell it from others.
    per_pod: f64,
    /// Bytes of this process that are resident, before the load and after it, with the objects.
    resident: [u64; 2],
    /// Classes, subjects, port maps, decisions, peers, questions remembered.
    counts: [usize; 6],
    changes: Changes,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<(), String> {
    let socket = Socket::new();
    // No Service answers there; the workers turn all the same.
    let engine = Engine::start(&socket.0, &options.cpus, (0..64).map(objects::vip))?;
    let mut control = Control::new(&socket.0);
    let empty = control.connect()?;
    let began = Instant::now();
    let judged = |values: Vec<Value>| {
        values.into_iter().map(objects::judge).collect::<Result<Vec<Row>, _>>()
    };
    let spaces = options.pods.div_ceil(SPACE).max(1);
    let app_of = |number: u32| if options.distinct { number } else { number % APPS };
    let policy = |number: u32| match options.distinct {
        true => own_policy(number, options.pods),
        false => policy(number, spaces),
    };
    let mut objects: Vec<Value> = (0..spaces).map(namespace).collect();
    objects.extend((0..options.pods).map(|number| pod(number, app_of(number))));
    // One policy, so that pods have rows: what they cost by themselves.
    objects.push(policy(0));
    let pods = judged(objects)?;
    let policies = judged((1..options.policies).map(policy).collect())?;
    let judge_ms = milliseconds(began);
    let before = resident();
    control.load(&pods)?;
    let alone = control.usage()?;
    // Everything once more, as after a start.
    let mut control = Control::new(&socket.0);
    control.connect()?;
    let load = control.load(&[pods, policies].concat())?;
    let full = control.usage()?;
    let after = resident();
    let tables = |usage: &millrace_tables::Usage| usage.of(Table::Policy) + usage.of(Table::Names);
    let rules = match options.distinct {
        true => options.policies,
        false => (0..options.policies).map(rules_of).sum::<u32>(),
    };

    engine.offer(engine::Load::Pace(Duration::from_micros(options.pace)))?;
    std::thread::sleep(Duration::from_millis(300));
    let mut random = super::Random(1);
    let mut change = |number: usize| {
        let pod_number = random.below(options.pods);
        // Another application than it had, mostly; and every so often one that no policy knows.
        let app = match options.distinct {
            // That of another pod of its namespace.
            true => pod_number / SPACE * SPACE + (pod_number + 1 + number as u32) % SPACE,
            false => (pod_number + 1 + number as u32) % (APPS + 1),
        };
        objects::judge(pod(pod_number, app))
    };
    let changes = control.measure(&engine, options.changes, &mut change)?;
    engine.offer(engine::Load::None)?;
    let report = Report {
        pods: options.pods,
        policies: options.policies,
        rules,
        judge_ms,
        load,
        bytes: tables(&full) - tables(&empty),
        per_rule: (tables(&full) - tables(&alone)) as f64 / f64::from(rules.max(1)),
        per_pod: (tables(&alone) - tables(&empty)) as f64 / f64::from(options.pods.max(1)),
        resident: [before, after],
        counts: control.compiler.policy_counts(),
        changes,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?);
    } else {
        report.print();
    }
    if options.check { report.check() } else { Ok(()) }
}

impl Report {
    fn print(&self) {
        let Self { pods, policies, rules, load, .. } = self;
        println!("{policies} policies with {rules} rules, {pods} pods");
        println!(
            "full load     {:8.0} ms  ({:.0} store, {:.0} compile, {:.0} publish; JSON to judged rows before it: {:.0} ms)",
            load.total_ms, load.store_ms, load.compile_ms, load.publish_ms, self.judge_ms
        );
        println!(
            "tables        {:8} bytes: {:.0} a pod, and with the policies {:.0} a rule",
            self.bytes, self.per_pod, self.per_rule
        );
        let [before, after] = self.resident;
        println!(
            "this process  {:8} KiB before, {} KiB after, objects included",
            before >> 10,
            after >> 10
        );
        let [classes, subjects, maps, decisions, peers, remembered] = self.counts;
        println!(
            "compiled to   {classes:8} classes, {subjects} subjects, {maps} port maps, {decisions} decisions, {peers} peers, {remembered} answers remembered"
        );
        self.changes.print("a pod's label");
    }

    fn check(&self) -> Result<(), String> {
        within(&[
            ("µs of a label's change (p99)", self.changes.p99_us, 5000.0),
            ("bytes a rule", self.per_rule, 1024.0),
            ("bytes a pod", self.per_pod, 1024.0),
        ])
    }
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

fn space(number: u32) -> String {
    format!("space-{number}")
}

fn namespace(number: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": space(number), "labels": {"team": format!("team-{}", number % 20)}}})
}

fn pod(number: u32, app: u32) -> Value {
    let [_, a, b, c] = (0x0a20_0000 + number).to_be_bytes();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": space(number / SPACE), "labels": {
            "app": format!("app-{app}"), "role": format!("role-{}", number % ROLES), "statefulset.kubernetes.io/pod-name": format!("pod-{number}")}},
        "spec": {"nodeName": "node-a", "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": format!("10.{a}.{b}.{c}"), "podIPs": [{"ip": format!("10.{a}.{b}.{c}")}]}})
}

/// A policy of one pod.
fn own_policy(number: u32, pods: u32) -> Value {
    let (of, nth) = (number % pods.max(1), number / pods.max(1));
    let beside = of / SPACE * SPACE + (of + 1 + nth) % SPACE;
    let mut from = vec![json!({"podSelector": {"matchLabels": {"app": format!("app-{beside}")}}})];
    if number.is_multiple_of(2) {
        from.push(json!({"namespaceSelector": {}}));
    }
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("policy-{number}"), "namespace": space(of / SPACE)},
        "spec": {"podSelector": {"matchLabels": {"app": format!("app-{of}")}},
            "ingress": [{"from": from, "ports": [{"port": 8000 + number % 1000}, {"port": "http"}]}]}})
}

fn rules_of(number: u32) -> u32 {
    if number.is_multiple_of(10) { 2 } else { 1 }
}

fn policy(number: u32, spaces: u32) -> Value {
    let (of, nth) = (number % spaces, number / spaces);
    let other = (of + 1 + nth) % spaces;
    let mut ingress = vec![json!({
        "from": [
            {"podSelector": {"matchLabels": {"app": format!("app-{}", (nth + 3) % APPS), "role": format!("role-{}", nth % ROLES)}}},
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space(other)}}, "podSelector": {"matchLabels": {"app": format!("app-{}", nth % APPS)}}}],
        "ports": [{"port": 8000 + nth % 50}, {"port": "http"}]})];
    if rules_of(number) == 2 {
        let third = number / 10 % 256;
        ingress.push(json!({"from": [{"ipBlock": {"cidr": format!("192.168.{third}.0/24"), "except": [format!("192.168.{third}.128/25")]}}]}));
    }
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("policy-{number}"), "namespace": space(of)},
        "spec": {"podSelector": {"matchLabels": {"app": format!("app-{}", nth % APPS)}}, "ingress": ingress}})
}
