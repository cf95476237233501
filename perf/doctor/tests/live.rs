//! The doctor and its transactions on real veth pairs, in a namespace that each test makes and removes.

use millrace_doctor::setting::{Change, Setting};
use millrace_doctor::tune::journal::FileStore;
use millrace_doctor::tune::live::Live;
use millrace_doctor::tune::trial::{Sample, Trial};
use millrace_doctor::tune::{Applied, Backend, apply, undo};
use std::path::PathBuf;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_millrace-doctor");

/// A namespace with a pair of veths, `wire` and `peer`, of two queues; and a folder for journals.
struct World {
    namespace: String,
    state: PathBuf,
}

impl World {
    /// None, with a message, where a privilege is missing; then a run that asks for privileges fails.
    fn new(label: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("MILLRACE_PRIVILEGED").is_none(), "this is not root");
            eprintln!("SKIP {label}: network namespaces need root");
            return None;
        }
        let namespace = format!("millrace-doctor-{}-{label}", std::process::id());
        let state = std::env::temp_dir().join(&namespace);
        let world = Self { namespace, state };
        ip(&format!("netns add {}", world.namespace));
        ip(&format!(
            "-n {} link add wire numrxqueues 2 numtxqueues 2 type veth peer name peer numrxqueues 2 numtxqueues 2",
            world.namespace
        ));
        for device in ["wire", "peer"] {
            ip(&format!("-n {} link set {device} up", world.namespace));
        }
        Some(world)
    }

    fn inside(&self, program: &str, words: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]).args(words);
        command.output().unwrap()
    }

    fn doctor(&self, words: &str) -> Output {
        self.inside(PROGRAM, &words.split_whitespace().collect::<Vec<_>>())
    }

    fn tune(&self, words: &str, trial: &str) -> Output {
        let state = self.state.to_string_lossy();
        let mut all = vec!["tune", "wire", "--state", &state];
        all.extend(words.split_whitespace());
        if !trial.is_empty() {
            all.extend(["--watch", "0.05", "--trial", trial]);
        } else if words.contains("--apply") {
            all.extend(["--watch", "0.05"]);
        }
        self.inside(PROGRAM, &all)
    }

    /// What the doctor observes of the interface, without the machine.
    fn observed(&self) -> serde_json::Value {
        let output = self.doctor("doctor wire --json");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
        let mut nic = report["nic"].clone();
        nic.as_object_mut().unwrap().remove("host");
        nic
    }
}

impl Drop for World {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.namespace));
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", text(&output));
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

#[test]
fn the_doctor_sees_a_veth_as_it_is() {
    let Some(world) = World::new("see") else { return };
    let nic = world.observed();
    assert_eq!(nic["answers"]["driver"], "veth");
    assert_eq!(nic["answers"]["channels"]["rx_max"], 2);
    assert_eq!(nic["answers"]["link"]["uppers"], serde_json::json!([]));
    let can = nic["answers"]["xdp"]["features"].as_array().unwrap();
    assert!(can.iter().any(|ability| ability == "basic"));
    assert!(!can.iter().any(|ability| ability == "xsk-zerocopy"));
    let listed = world.doctor("doctor");
    assert!(listed.status.success() && text(&listed).contains("\nwire "), "{}", text(&listed));
    assert!(!text(&listed).contains('\x1b'), "colors without a terminal");
    let three = world.doctor("doctor wire --workers 3");
    assert_eq!(three.status.code(), Some(2));
    assert!(text(&three).contains("2 queues for 3 workers"), "{}", text(&three));
    let none = world.doctor("doctor no-such-if");
    assert_eq!(none.status.code(), Some(3));
    assert!(text(&none).contains("interface no-such-if: there is none"), "{}", text(&none));
    ip(&format!("-n {} link set wire down", world.namespace));
    assert!(text(&world.doctor("doctor wire")).contains("ENETDOWN"));
}

#[test]
fn a_capture_shows_what_the_machine_showed() {
    let Some(world) = World::new("capture") else { return };
    std::fs::create_dir_all(&world.state).unwrap();
    let file = world.state.join("capture.txt");
    let live = world.doctor(&format!("doctor wire --capture {}", file.display()));
    let again = Command::new(PROGRAM).args(["doctor", "--from"]).arg(&file).output().unwrap();
    assert_eq!(text(&live), text(&again));
}

const WORDS: &str = "--workers 1 --busy-poll";

#[test]
fn what_is_applied_is_in_force_and_what_is_undone_is_as_before() {
    let Some(world) = World::new("apply") else { return };
    let before = world.observed();
    let plan = world.tune(&format!("--plan {WORDS}"), "");
    assert!(text(&plan).contains("ethtool -L wire rx 1"), "{}", text(&plan));
    assert_eq!(world.observed(), before, "--plan changed something");
    let applied = world.tune(&format!("--apply {WORDS}"), "");
    assert!(applied.status.success(), "{}", text(&applied));
    let tuned = world.observed();
    assert_eq!(tuned["answers"]["channels"]["rx"], 1);
    assert_eq!(tuned["napi"]["napi_defer_hard_irqs"], 2);
    assert_eq!(tuned["napi"]["gro_flush_timeout"], 200_000);
    let found = text(&world.doctor(&format!("doctor wire {WORDS}")));
    assert!(!found.contains("channels") && !found.contains("busy-poll"), "{found}");
    let again = world.tune(&format!("--apply {WORDS}"), "");
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
    let undone = world.tune("--undo", "");
    assert!(undone.status.success(), "{}", text(&undone));
    assert_eq!(world.observed(), before);
    let nothing = world.tune("--undo", "");
    assert!(
        nothing.status.success() && text(&nothing).contains("0 settings"),
        "{}",
        text(&nothing)
    );
}

#[test]
fn a_trial_that_fails_or_gets_worse_reverts() {
    let Some(world) = World::new("trial") else { return };
    let before = world.observed();
    let counter = world.state.with_extension("count");
    let file = counter.display();
    // The second time it is another outcome than the first.
    for (first, second, why) in [
        ("true", "false", "exit status: 1"),
        ("echo 100", "echo 90", "fell from 100 to 90"),
        ("echo 100", "sleep 60", "longer than"),
    ] {
        let trial =
            format!("if [ -e {file} ]; then rm {file}; {second}; else touch {file}; {first}; fi");
        let output = world.tune(&format!("--apply {WORDS} --trial-limit 1"), &trial);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(why), "{}", text(&output));
        assert_eq!(world.observed(), before);
    }
}

#[test]
fn killed_in_the_middle_it_is_undone_exactly() {
    let Some(world) = World::new("kill") else { return };
    let before = world.observed();
    let flag = world.state.with_extension("flag");
    let trial = format!("if [ -e {0} ]; then rm {0}; kill -9 $PPID; fi; touch {0}", flag.display());
    for words in ["--undo".to_owned(), format!("--apply {WORDS}")] {
        let killed = world.tune(&format!("--apply {WORDS}"), &trial);
        assert!(!killed.status.success(), "{}", text(&killed));
        let between = world.observed();
        assert_eq!(
            between["answers"]["channels"]["rx"], 1,
            "it was killed before it changed anything"
        );
        let after = world.tune(&words, "");
        assert!(after.status.success(), "{}", text(&after));
        if words != "--undo" {
            // The next transaction began with what was before the one that was cut off.
            assert!(world.tune("--undo", "").status.success());
        }
        assert_eq!(world.observed(), before);
        let _ = std::fs::remove_file(&flag);
    }
}

/// Passes.
struct Pass;

impl Trial for Pass {
    fn measure(&mut self) -> Result<Sample, String> {
        Ok(Sample::default())
    }

    fn judge(&mut self, _: &Sample, _: &Sample) -> Result<(), String> {
        Ok(())
    }
}

/// Runs in a process inside a namespace, since `/sys` shows the namespace of the process that mounted it.
#[test]
#[ignore = "run by the next test, inside a namespace"]
fn inside_all_that_a_veth_can_change_is_changed_and_undone() {
    let state =
        PathBuf::from(std::env::var_os("MILLRACE_DOCTOR_STATE").expect("run by the next test"));
    let mut live = Live::of("wire").unwrap();
    let mut store = FileStore::open(&state, "wire").unwrap();
    let before = live.snapshot().unwrap();
    let interface = |file: &str, to: u64| Change::new(Setting::Interface(file.into()), to);
    let plan = [
        Change::new(Setting::Mtu, 1400),
        Change::new(Setting::Channels("rx".into()), 1),
        Change::new(Setting::Channels("tx".into()), 1),
        Change::new(Setting::Feature("rx-gro".into()), "on"),
        Change::new(Setting::Feature("tx-tcp-segmentation".into()), "off"),
        // A checksum offload takes others with it.
        Change::new(Setting::Feature("tx-checksum-ip-generic".into()), "off"),
        interface("napi_defer_hard_irqs", 2),
        interface("gro_flush_timeout", 200_000),
        interface("queues/rx-0/rps_cpus", 1),
    ];
    let result = apply(&mut live, &mut store, &mut Pass, &plan).unwrap();
    assert!(matches!(result, Applied::Kept(_)), "{result:?}");
    let tuned = live.snapshot().unwrap();
    for change in &plan {
        assert_eq!(tuned[&change.setting], change.to, "{change:?}");
    }
    let undone = undo(&mut live, &mut store, false).unwrap();
    assert_eq!(live.snapshot().unwrap(), before, "{undone:?}");
    assert!(undone.left.is_empty());
}

#[test]
fn all_that_a_veth_can_change_is_changed_and_undone() {
    let Some(world) = World::new("all") else { return };
    let before = world.observed();
    let program = std::env::current_exe().unwrap();
    let output = Command::new("ip")
        .args(["netns", "exec", &world.namespace])
        .arg(program)
        .args(["--ignored", "--exact", "inside_all_that_a_veth_can_change_is_changed_and_undone"])
        .env("MILLRACE_DOCTOR_STATE", &world.state)
        .output()
        .unwrap();
    assert!(output.status.success() && text(&output).contains("1 passed"), "{}", text(&output));
    assert_eq!(world.observed(), before);
}
