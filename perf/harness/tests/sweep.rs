//! Small sweeps on veth, from the command to its report and plot. Need root.

use millrace_harness::topology::{End, Namespace, join};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

const HARNESS: &str = env!("CARGO_BIN_EXE_millrace-harness");

static TURN: Mutex<()> = Mutex::new(());

/// This test's turn: each wants the CPUs for itself. None, with a message, where it can't run.
fn turn() -> Option<MutexGuard<'static, ()>> {
    if rustix::process::geteuid().is_root() {
        return Some(TURN.lock().unwrap_or_else(PoisonError::into_inner));
    }
    assert!(std::env::var_os("MILLRACE_PRIVILEGED").is_none(), "this is not root");
    eprintln!("SKIP sweep: network namespaces and AF_XDP need root");
    None
}

/// Runs a sweep whose cells all have to succeed; its report.
fn swept(command: &mut Command, words: &[&str]) -> Value {
    let short = ["--rounds", "1", "--seconds", "0.4", "--warm-up", "0.1", "--json"];
    let output = command.args(words).args(short).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "millrace-sweep/1");
    for row in report["rows"].as_array().unwrap() {
        assert_eq!(row["failed"], Value::Null, "{row}");
        assert!(row["pps"]["median"].as_f64().unwrap() > 0.0, "{row}");
    }
    report
}

/// Whether others keep this machine busy: then no rate is reached.
fn is_busy() -> bool {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = text.split(' ').next().unwrap().parse().unwrap();
    load > std::thread::available_parallelism().unwrap().get() as f64 * 1.5
}

fn nothing_is_left(report: &Value) {
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let left = String::from_utf8_lossy(&namespaces.stdout).into_owned();
    let pid = format!("millrace-perf-{}-", report["process"].as_u64().unwrap());
    assert!(!left.contains(&pid), "{left}");
}

#[test]
fn a_small_matrix_is_measured_on_veth() {
    let Some(_turn) = turn() else { return };
    let html = std::env::temp_dir().join(format!("millrace-sweep-{}.html", std::process::id()));
    let matrix = ["sweep", "--ring", "512,2048", "--burst", "64", "--busy-poll", "off,on"];
    let mut command = Command::new(HARNESS);
    let page = ["--need-wakeup", "on", "--rate", "100000", "--html", html.to_str().unwrap()];
    let report = swept(command.args(matrix), &page);
    assert_eq!(report["rows"].as_array().unwrap().len(), 4);
    // One round is no ground for advice.
    assert!(report["advice"]["keep"].is_object(), "{}", report["advice"]);
    // Watts where the machine counts them; else it is said.
    let power = report["about"]["power"].as_str().unwrap();
    let counted = report["rows"][0]["watts"].is_object();
    assert_ne!(counted, power.contains("not measurable here"), "{power}");
    let page = std::fs::read_to_string(&html).unwrap();
    std::fs::remove_file(&html).unwrap();
    assert_eq!(page.matches("<rect").count(), 4);
    nothing_is_left(&report);
}

#[test]
fn two_queues_have_two_workers() {
    let Some(_turn) = turn() else { return };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        eprintln!("SKIP: one CPU");
        return;
    }
    let matrix = ["--queues", "1,2", "--ring", "2048", "--burst", "64", "--busy-poll", "off"];
    let mut command = Command::new(HARNESS);
    command.arg("sweep").args(matrix);
    let report = swept(&mut command, &["--need-wakeup", "on", "--rate", "50000"]);
    let queues: Vec<u64> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["cell"]["queues"].as_u64().unwrap())
        .collect();
    assert_eq!(queues, [1, 2]);
    // Both of them carry: what a queue without a worker gets goes to the kernel, which forwards nothing here.
    let both = report["rows"][1]["pps"]["median"].as_f64().unwrap();
    assert!(both > 30_000.0 || is_busy(), "{both}");
    nothing_is_left(&report);
}

#[test]
fn a_command_of_the_user_s_stands_in_for_the_forwarder() {
    let Some(_turn) = turn() else { return };
    let own = format!(
        "{HARNESS} bare --from {{from}} --to {{to}} --cpu {{cpus}} --queues {{queues}} --ring {{ring}} --burst {{burst}}"
    );
    let mut command = Command::new(HARNESS);
    command.args(["sweep", "--command", &own, "--ring", "1024", "--burst", "32,64"]);
    let report =
        swept(&mut command, &["--busy-poll", "off", "--need-wakeup", "on", "--rate", "50000"]);
    assert_eq!(report["about"]["forwarder"], own);
    nothing_is_left(&report);
    // One that ends at once is named with what it said.
    let mut command = Command::new(HARNESS);
    command.args(["sweep", "--command", "sh -c 'echo no such license >&2; exit 3'", "--json"]);
    command.args(["--ring", "1024", "--burst", "32", "--busy-poll", "off", "--rounds", "1"]);
    let output = command.args(["--need-wakeup", "on"]).output().unwrap();
    assert!(!output.status.success());
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(report.contains("no such license"), "{report}");
}

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let child = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(child, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Interfaces that are there, with load from outside, and what they were set to is as before.
#[test]
fn interfaces_by_name_are_set_and_put_back() {
    let Some(_turn) = turn() else { return };
    let [source, dut, sink] =
        ["gen", "dut", "sink"].map(|role| Namespace::create(&format!("named-{role}")).unwrap());
    let end = |namespace, name, mac| End { namespace, name, mac };
    let to_dut = "02:00:00:00:01:01";
    join(end(&source, "gen0", "02:00:00:00:01:02"), end(&dut, "in0", to_dut), 2).unwrap();
    let to_sink = "02:00:00:00:02:02";
    join(end(&dut, "out0", "02:00:00:00:02:01"), end(&sink, "sink0", to_sink), 2).unwrap();
    // A veth takes an XDP program only with as many receive queues as its peer has to send.
    for (namespace, name) in [(&source, "gen0"), (&sink, "sink0")] {
        let less = namespace.command("ethtool").args(["-L", name, "tx", "1"]).status().unwrap();
        assert!(less.success());
    }
    let _drops = Running::start(sink.command(HARNESS).args(["sink", "--interface", "sink0"]));
    let mut offer = source.command(HARNESS);
    offer.args([
        "offer",
        "--interface",
        "gen0",
        "--src-mac",
        "02:00:00:00:01:02",
        "--dst-mac",
        to_dut,
    ]);
    offer.args([
        "--src",
        "10.0.1.2:10240",
        "--dst",
        "192.0.2.10:53",
        "--flows",
        "256",
        "--cpu",
        "0",
    ]);
    let _load = Running::start(offer.args(["--rate", "20000"]));
    let state = std::env::temp_dir().join(format!("millrace-sweep-{}", std::process::id()));
    let read = || {
        let channels = dut.command("ethtool").args(["-l", "in0"]).output().unwrap().stdout;
        let file = "/sys/class/net/in0/napi_defer_hard_irqs";
        let deferred = dut.command("cat").arg(file).output().unwrap().stdout;
        (String::from_utf8(channels).unwrap(), String::from_utf8(deferred).unwrap())
    };
    let before = read();
    let mut command = dut.command(HARNESS);
    command.args(["sweep", "--from", "in0", "--to", "out0", "--state", state.to_str().unwrap()]);
    command.args(["--queues", "1,2", "--ring", "1024", "--burst", "64", "--busy-poll", "off,on"]);
    let report = swept(&mut command, &["--need-wakeup", "on"]);
    assert_eq!(report["rows"].as_array().unwrap().len(), 4);
    assert_eq!(report["about"]["interfaces"], "in0 to out0, load from outside");
    assert_eq!(read(), before);
    let _ = std::fs::remove_dir_all(&state);
}
