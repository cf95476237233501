//! Worlds of text: objects in, and where flows go, one behaviour a file of `tests/worlds`. Where kube-proxy has a test of it, its rows
//! are there under its name; the answers are what its rules do to such a packet.
//!
//! ```text
//! # What it shows.
//! node n1 192.168.0.2 10.180.0.0/24 zone=a     a Node: addresses, podCIDRs, zone. The first is the one whose packets these are
//! options --cluster-cidr 10.0.0.0/8            of `millrace explain`
//! == objects [FILE]                            YAML here and in that file, created or replaced
//! == refused                                   of the last objects, exactly: KIND NAMESPACE/NAME FIELD
//! == delete                                    KIND NAMESPACE/NAME, one a line
//! == advance 30s
//! == flows
//! [host|uplink|pod:NS/NAME] SRC[/SPORT] > DST[/DPORT] PROTOCOL [FLAGS] = EXPECTED
//! ```
//! A line without SPORT sends 64 flows, which together use exactly the backends that are EXPECTED; with one it is this one flow, and
//! the next such line goes on with it. `answer SRC/SPORT > DST/DPORT PROTOCOL = SRC` is the backend's answer to it, and whom it seems to
//! come from. EXPECTED is backends, with `masq` if they see the node's first address of the family (`some-masq`: not all of them); or `reject`, `drop`, `punt`, `forward OUT`
//! (no service's); `error WORD` of a line that can't be asked.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use millrace_control::reflect::documents;
use serde_json::{Value, json};

#[test]
fn every_world_answers_as_it_says() {
    let mut paths: Vec<_> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() >= 20, "only {} worlds found", paths.len());
    let mut failed = String::new();
    for path in &paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if let Err(why) =
            World::read(&fs::read_to_string(path).unwrap()).and_then(|it| it.run(&name))
        {
            writeln!(failed, "{name}: {why}").unwrap();
        }
    }
    assert!(failed.is_empty(), "\n{failed}");
}

#[test]
fn a_world_that_answers_otherwise_says_where() {
    let flow = "node n1 192.168.0.2\n== flows\n203.0.113.2 > 192.168.0.2/80 TCP = reject\n";
    let why = World::read(flow).and_then(|it| it.run("otherwise")).unwrap_err();
    assert!(why.contains("192.168.0.2/80 TCP") && why.contains("punt"), "{why}");
    assert!(World::read("nonsense\n").is_err() && World::read("== nonsense\n").is_err());
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/worlds")
}

/// What is expected of the output, in its order.
enum Expected {
    Refused(Vec<String>),
    Flow { text: String, wanted: String },
}

#[derive(Default)]
struct World {
    /// The first node, and its addresses.
    node: String,
    addresses: Vec<String>,
    options: Vec<String>,
    lines: Vec<Value>,
    expected: Vec<Expected>,
}

impl World {
    fn read(text: &str) -> Result<World, String> {
        let mut world = World::default();
        let mut nodes = Vec::new();
        let mut parts = text.split("\n== ");
        for line in lines(parts.next().unwrap_or_default()) {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("node") => nodes.push(world.node(words.collect())?),
                Some("options") => world.options.extend(words),
                _ => return Err(format!("{line:?} is neither a node nor options")),
            }
        }
        world.lines.push(json!({ "objects": nodes }));
        world.expected.push(Expected::Refused(Vec::new()));
        for part in parts {
            let (verb, body) = part.split_once('\n').unwrap_or((part, ""));
            world.step(verb.trim(), body).map_err(|why| format!("== {verb}: {why}"))?;
        }
        Ok(world)
    }

    fn node(&mut self, words: Vec<String>) -> Result<Value, String> {
        let [name, rest @ ..] = words.as_slice() else { return Err("node: has no name".into()) };
        let (zone, rest): (Vec<&String>, Vec<&String>) =
            rest.iter().partition(|word| word.starts_with("zone="));
        let (ranges, addresses): (Vec<&String>, Vec<&String>) =
            rest.into_iter().partition(|word| word.contains('/'));
        if self.node.is_empty() {
            self.node.clone_from(name);
            self.addresses = addresses.iter().map(|it| (*it).clone()).collect();
        }
        let addresses: Vec<Value> = addresses
            .iter()
            .map(|address| json!({"type": "InternalIP", "address": address}))
            .collect();
        let labels = zone.first().map(|zone| json!({"topology.kubernetes.io/zone": &zone[5..]}));
        Ok(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "spec": {"podCIDRs": ranges}, "status": {"addresses": addresses},
        }))
    }

    fn step(&mut self, verb: &str, body: &str) -> Result<(), String> {
        match verb.split_once(' ').unwrap_or((verb, "")) {
            ("objects", file) => {
                let shared = match file {
                    "" => String::new(),
                    file => fs::read_to_string(folder().join(file))
                        .map_err(|e| format!("{file}: {e}"))?,
                };
                let objects: Result<Vec<Value>, _> = [body, &shared]
                    .into_iter()
                    .flat_map(documents::parse)
                    .map(|document| document.value)
                    .collect();
                let objects = objects.map_err(|error| error.why)?;
                self.lines.push(json!({ "objects": objects }));
                // Two lots of refusals in a row would look like one.
                if !matches!(self.expected.last(), Some(Expected::Refused(_))) {
                    self.expected.push(Expected::Refused(Vec::new()));
                }
            }
            ("refused", _) => match self.expected.last_mut() {
                Some(Expected::Refused(rows)) => rows.extend(lines(body).map(str::to_owned)),
                _ => return Err("comes after objects".into()),
            },
            ("delete", _) => {
                let gone: Option<Vec<Value>> = lines(body)
                    .map(|line| {
                        let (kind, name) = line.split_once(' ')?;
                        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
                        Some(json!({"kind": kind, "namespace": namespace, "name": name}))
                    })
                    .collect();
                self.lines.push(json!({ "delete": gone.ok_or("write KIND NAMESPACE/NAME")? }));
            }
            ("advance", by) => self.lines.push(json!({ "advance": by })),
            ("flows", _) => {
                for line in lines(body) {
                    self.flow(line).ok_or_else(|| format!("{line:?} is no flow"))?;
                }
            }
            _ => return Err("is no step".into()),
        }
        Ok(())
    }

    fn flow(&mut self, line: &str) -> Option<()> {
        let (text, wanted) = line.rsplit_once(" = ")?;
        let (left, right) = text.split_once(" > ")?;
        let (from, source) = left.rsplit_once(' ').unwrap_or(("", left));
        let (src, sport) = source.split_once('/').unwrap_or((source, ""));
        let mut words = right.split_whitespace();
        let destination = words.next()?;
        let (dst, dport) = destination.split_once('/').unwrap_or((destination, "0"));
        let (protocol, flags) = (words.next()?, words.next());
        let at = u16::try_from(self.lines.len()).ok()?;
        let flow = if from == "answer" {
            json!({"id": format!("{source}>{destination}/{protocol}"), "reverse": true, "flags": flags})
        } else {
            let (count, sport) = match sport.parse::<u16>() {
                Ok(sport) => (1, sport),
                Err(_) => (64, 10_000 + 64 * at),
            };
            let from = (!from.is_empty()).then_some(from);
            json!({
                "id": format!("{source}>{destination}/{protocol}"), "from": from, "src": src, "sport": sport, "dst": dst,
                "dport": dport.parse::<u16>().ok()?, "protocol": protocol, "count": count, "flags": flags.unwrap_or("SYN"),
            })
        };
        self.lines.push(json!({ "flow": flow }));
        self.expected.push(Expected::Flow { text: line.into(), wanted: wanted.trim().into() });
        Some(())
    }

    fn run(&self, name: &str) -> Result<(), String> {
        let file = std::env::temp_dir()
            .join(format!("millrace-worlds-{}-{name}.jsonl", std::process::id()));
        let text: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&file, text).map_err(|error| error.to_string())?;
        let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["explain", "--node", &self.node, "--script"])
            .arg(&file)
            .args(&self.options)
            .output();
        let _ = fs::remove_file(&file);
        let output = output.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        let mut answers = said
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap_or(Value::Null))
            .peekable();
        let mut faults = Vec::new();
        let mut is_good = true;
        for expected in &self.expected {
            match expected {
                Expected::Refused(wanted) => {
                    let mut rows = Vec::new();
                    while let Some(answer) = answers.next_if(|it| it.get("refused").is_some()) {
                        let of =
                            |key: &str| answer["refused"][key].as_str().unwrap_or("?").to_owned();
                        rows.push(format!(
                            "{} {}/{} {}",
                            of("kind"),
                            of("namespace"),
                            of("name"),
                            of("field")
                        ));
                    }
                    if rows != *wanted {
                        faults.push(format!("refused {rows:#?}, not {wanted:#?}"));
                    }
                }
                Expected::Flow { text, wanted } => {
                    let answer = answers.next().unwrap_or(Value::Null);
                    is_good &= answer.get("outcomes").is_some();
                    if let Err(why) = self.check(&answer, wanted) {
                        faults.push(format!("{text}\n    {why}"));
                    }
                }
            }
        }
        if answers.next().is_some() {
            faults.push("there are more answers than were asked for".into());
        }
        if output.status.success() != is_good {
            let errors = String::from_utf8_lossy(&output.stderr);
            faults.push(format!("the exit status is {}\n{errors}", output.status));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n  ")) }
    }

    fn check(&self, answer: &Value, wanted: &str) -> Result<(), String> {
        if let Some(word) = wanted.strip_prefix("error ") {
            let said = answer["error"].as_str().unwrap_or_default();
            return if said.contains(word) { Ok(()) } else { Err(answer.to_string()) };
        }
        let outcomes = answer["outcomes"].as_array().ok_or_else(|| answer.to_string())?;
        let described: BTreeSet<String> = outcomes.iter().map(|it| self.describe(it)).collect();
        let described: Vec<String> = described.into_iter().collect();
        let (mut backends, mut masqueraded) = (BTreeSet::new(), BTreeSet::new());
        for one in &described {
            let (backend, masq) =
                one.strip_suffix(" masq").map_or((one.as_str(), false), |it| (it, true));
            backends.insert(backend);
            masqueraded.insert(masq);
        }
        let mut seen = backends.into_iter().collect::<Vec<_>>().join(" ");
        if masqueraded.contains(&true) {
            seen.push_str(if masqueraded.len() == 1 { " masq" } else { " some-masq" });
        }
        let came_from = outcomes[0]["src"].as_str().is_some_and(|src| src == wanted);
        let mut words: Vec<&str> = wanted.split_whitespace().collect();
        if !wanted.starts_with("forward") {
            let last = words.pop_if(|word| word.ends_with("masq"));
            words.sort_unstable();
            words.extend(last);
        }
        if seen == words.join(" ") || came_from {
            Ok(())
        } else {
            Err(format!("{seen}\n    {answer}"))
        }
    }

    fn describe(&self, outcome: &Value) -> String {
        let text = |key: &str| outcome[key].as_str().unwrap_or_default();
        match (text("verdict"), text("reply")) {
            ("reply", "tcp-reset" | "icmp-port-unreachable") => "reject".into(),
            ("transmit", _) if outcome["service"].is_null() => format!("forward {}", text("out")),
            ("transmit", _) => {
                let v4 = !text("backend").starts_with('[');
                let own = self.addresses.iter().find(|address| address.contains(':') != v4);
                match outcome["snat"].as_str() {
                    None => text("backend").into(),
                    Some(snat) if own.is_some_and(|own| own == snat) => {
                        format!("{} masq", text("backend"))
                    }
                    Some(snat) => format!("{} as {snat}", text("backend")),
                }
            }
            (verdict, "") => verdict.into(),
            (verdict, reply) => format!("{verdict} {reply}"),
        }
    }
}

/// Those that say something.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}
