//! The harness on real interfaces: what a forwarder did and what the generator counted, a search for a rate that is known, and what is
//! left behind. Needs root and `millrace-pktgen` (beside this program, in `MILLRACE_BIN` or in `PATH`).
//!
//! The tests take turns: each wants the CPUs for itself. Where a figure depends on a busy machine's mood, its bounds are wide; counts
//! are exact everywhere.

mod bench;

use bench::{HARNESS, is_busy, namespaces, stop, turn};
use millrace_harness::ends::Ends;
use millrace_harness::folder::Folder;
use millrace_harness::generator::{Source, Stream, wait_for_program};
use millrace_harness::impair::Truth;
use millrace_harness::programs;
use millrace_harness::results::Certificate;
use millrace_harness::scenario::{Cpus, Generator, Topology};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Packets through the impairing forwarder: what it says it did, and what the generator saw.
fn impaired(
    role: &str,
    flags: &[&str],
    rate: f64,
    seconds: f64,
) -> (Truth, millrace_harness::generator::Trial) {
    let ends = Ends::set_up(&Topology::Veth { queues: 1, mtu: 1500 }, role).unwrap();
    let logs = Folder::create(role).unwrap();
    let mut command = ends.inside.command(HARNESS);
    command.args(["impair", "--in", "in0", "--out", "out0"]).args(flags);
    let mut impair = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_program(&ends.inside, || Ok(())).unwrap();
    wait_for_program(&ends.outside, || Ok(())).unwrap();
    let source = Source {
        kind: Generator::Pktgen,
        ends: &ends,
        stream: Stream { frame: 128, flows: 1, services: 1, to_services: false },
        cpus: &Cpus::default(),
        logs: logs.path().to_owned(),
        stop: &AtomicBool::new(false),
    };
    let trial = source.trial(Some(rate), seconds);
    stop(&mut impair, rustix::process::Signal::TERM);
    let output = impair.wait_with_output().unwrap();
    let truth: Truth = serde_json::from_slice(&output.stdout).unwrap();
    (truth, trial.unwrap())
}

#[test]
fn the_generator_counts_what_the_forwarder_did_to_the_packet() {
    let Some(_turn) = turn() else { return };
    let flags = ["--loss", "0.02", "--duplicate", "0.03", "--reorder", "0.04", "--seed", "5"];
    let (truth, trial) = impaired("truth", &flags, 10_000.0, 1.0);
    assert!(truth.balances(), "{truth:?}");
    assert_eq!((truth.no_room, truth.kernel_dropped), (0, 0), "{truth:?}");
    assert!(truth.lost > 100 && truth.duplicated > 200 && truth.reordered > 250, "{truth:?}");
    let outcome = &trial.outcome;
    assert_eq!(outcome.sent, truth.received);
    assert_eq!(outcome.sent - outcome.received, truth.lost);
    assert_eq!((trial.duplicated, trial.reordered), (truth.duplicated, truth.reordered));
}

#[test]
fn a_delay_is_measured_within_a_twentieth() {
    let Some(_turn) = turn() else { return };
    let (truth, trial) = impaired("delay", &["--delay", "20ms"], 2_000.0, 1.0);
    assert!(truth.balances(), "{truth:?}");
    let p50 = trial.latency.unwrap().p50_ns as f64;
    assert!(p50 >= 20e6, "{p50}");
    assert!(p50 < 21e6 || is_busy(), "{p50}");
}

/// In T seconds a capacity of C with a queue of Q carries C·T + Q packets; half a percent more may be lost.
#[test]
fn the_search_finds_the_rate_of_a_device_whose_capacity_is_known() {
    let Some(_turn) = turn() else { return };
    let folder = Folder::create("known").unwrap();
    let file = folder.path().join("scenario.toml");
    let text = "name = \"known\"\n[measure]\nfind = [\"pdr\"]\nmax = \"40kpps\"\nlatency_trial = \"300ms\"\nwarm_up = \"300ms\"\n\
                [[device]]\nkind = \"impair\"\ncapacity = \"10kpps\"\nqueue = 1000\n";
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(HARNESS);
    command
        .args(["run", "--trial", "300ms", "--sum", "900ms", "--width", "3", "--json", "--quiet"]);
    let child = command.arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let certificate = Certificate::parse(&String::from_utf8_lossy(&output.stdout)).unwrap();
    let round = &certificate.devices[0].points[0].rounds[0];
    let bounds = &round.bounds[0].bounds;
    let truth = (10_000.0 + 1000.0 / 0.3) / 0.995;
    if bounds.irregular.is_some() && is_busy() {
        return;
    }
    assert_eq!(bounds.irregular, None);
    let (lower, upper) = (bounds.lower.unwrap(), bounds.upper.unwrap());
    assert!((upper - lower) / upper <= 0.03);
    // A generator that stops for a moment and catches up offers more for a while: the bound may be lower, never higher.
    assert!(lower <= truth * 1.01, "{lower}, truth {truth}");
    assert!(upper >= truth * 0.97 || is_busy(), "{upper}, truth {truth}");
    assert_eq!(certificate.devices[0].path.mode, "copy");
    let latency = &round.latency;
    assert_eq!(latency.iter().map(|l| l.share).collect::<Vec<_>>(), [0.1, 0.5, 0.9]);
    assert!(latency.iter().any(|l| l.percentiles.is_some_and(|p| p.p50_ns > 0)));
    assert!(certificate.calibration[0].limit > 40_000.0 && certificate.complete);
    assert_eq!(namespaces(pid), Vec::<String>::new());
}

#[test]
fn ctrl_c_ends_a_search_with_what_there_is_and_nothing_is_left() {
    let Some(_turn) = turn() else { return };
    let mut command = Command::new(HARNESS);
    command.args(["ndr", "--device", "bare", "--max", "20kpps", "--json", "--quiet"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    // Until the device's namespaces are there: calibration has its own.
    while !namespaces(child.id()).iter().any(|name| name.contains("-bare-")) {
        assert!(Instant::now() < deadline, "no namespaces");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500));
    stop(&mut child, rustix::process::Signal::INT);
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let certificate = Certificate::parse(&String::from_utf8_lossy(&output.stdout)).unwrap();
    assert!(!certificate.complete);
    assert_eq!(namespaces(pid), Vec::<String>::new());
}

#[test]
fn a_device_that_ends_at_once_is_named_and_nothing_is_left() {
    let Some(_turn) = turn() else { return };
    let device = r#"kind = "command", command = ["sh", "-c", "echo no such license >&2; exit 3"]"#;
    let mut command = Command::new(HARNESS);
    command.args(["ndr", "--device", device, "--max", "20kpps", "--quiet"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no such license") && said.contains("exit status: 3"), "{said}");
    assert_eq!(namespaces(pid), Vec::<String>::new());
}

/// A device that is there in the first round and gone in the second: the first is kept, and the file says why there is no more.
#[test]
fn a_round_that_was_finished_is_kept_when_a_later_one_fails() {
    let Some(_turn) = turn() else { return };
    let folder = Folder::create("rounds").unwrap();
    let (flag, result) = (folder.path().join("flag"), folder.path().join("result.json"));
    let script = format!(
        "test ! -e {0} || {{ echo the lease is over >&2; exit 3; }}; touch {0}; exec {HARNESS} bare --from $0 --to $1 --cpu $2",
        flag.display()
    );
    let device = format!(
        r#"kind = "command", command = ["sh", "-c", '{script}', "{{in}}", "{{out}}", "{{cpu}}"]"#
    );
    let mut command = Command::new(HARNESS);
    command.args(["soak", "--rate", "2kpps", "--duration", "1s", "--rounds", "2", "--quiet"]);
    command.args(["--device", &device, "--output"]).arg(&result);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("the generator can't keep to") && is_busy() {
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the lease is over"), "{said}");
    let text = std::fs::read_to_string(&result).unwrap();
    let certificate = Certificate::parse(&text).unwrap();
    let rounds = &certificate.devices[0].points[0].rounds;
    assert!(rounds.len() == 1 && rounds[0].soak.as_ref().is_some_and(|soak| soak.sent > 1000));
    assert!(!certificate.complete && certificate.warnings.iter().any(|w| w.contains("lease")));
}

/// The ramp of each step is verified before anything is measured, and the device says how many it tracks.
#[test]
fn sessions_are_open_before_they_are_kept_busy_and_connections_are_counted() {
    let Some(_turn) = turn() else { return };
    if programs::find("nft").is_err() {
        eprintln!("skipped: nft is not there");
        return;
    }
    let mut command = Command::new(HARNESS);
    command.args([
        "stateful",
        "--device",
        "nftables",
        "--protocols",
        "tcp",
        "--sessions",
        "1000,32k",
    ]);
    command.args(["--ramp", "20kpps", "--rate", "5kpps", "--sustain", "300ms", "--trial", "200ms"]);
    command.args(["--sum", "200ms", "--width", "20", "--json", "--quiet"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let certificate = Certificate::parse(&String::from_utf8_lossy(&output.stdout)).unwrap();
    let found = certificate.devices[0].points[0].rounds[0].stateful.as_ref().unwrap();
    let tcp = &found.connections[0];
    assert!(tcp.alone > Some(0.0) && tcp.closed_loop > 0.0 && !tcp.trials.is_empty());
    assert_eq!(found.ladder.iter().map(|step| step.sessions).collect::<Vec<_>>(), [1000, 32_768]);
    for step in &found.ladder {
        if !step.ramp.complete && is_busy() {
            assert!(step.sustain.is_none() && step.failed.is_some());
            continue;
        }
        assert!(step.ramp.complete, "{step:?}");
        assert!(step.ramp.tracked >= Some(step.sessions) && step.ramp.passes >= 1);
        let sustain = step.sustain.as_ref().unwrap();
        assert!(sustain.sent > 0 && sustain.most > 0.0 && sustain.tracked >= Some(step.sessions));
    }
    // What forwards one way only can't be asked.
    let mut command = Command::new(HARNESS);
    let output = command.args(["stateful", "--device", "bare", "--quiet"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("one way"), "{said}");
    assert_eq!(namespaces(pid), Vec::<String>::new());
}

/// Linux forwards and changes routes meanwhile; named interfaces that are there already do as well as ones made for it.
#[test]
fn changes_under_load_are_counted_on_interfaces_that_were_there() {
    let Some(_turn) = turn() else { return };
    let ends = Ends::set_up(&Topology::Veth { queues: 1, mtu: 1500 }, "named").unwrap();
    let netns = |place: &millrace_harness::ends::Place| place.netns.clone().unwrap();
    let folder = Folder::create("named").unwrap();
    let file = folder.path().join("scenario.toml");
    let text = format!(
        "name = \"named\"\n[topology]\nkind = \"nics\"\ntx = \"gen0\"\nrx = \"sink0\"\ndevice_in = \"in0\"\ndevice_out = \"out0\"\n\
         netns_tx = \"{}\"\nnetns_rx = \"{}\"\nnetns_device = \"{}\"\n[[device]]\nkind = \"linux\"\n",
        netns(&ends.generator),
        netns(&ends.sink),
        netns(&ends.inside)
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(HARNESS);
    command.args(["reconf", "--rate", "5kpps", "--changes", "1000", "--duration", "2s", "--json"]);
    let output = command.arg("--quiet").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("the generator can't keep to") && is_busy() {
        return;
    }
    assert!(output.status.success(), "{said}");
    let certificate = Certificate::parse(&String::from_utf8_lossy(&output.stdout)).unwrap();
    let reconf = certificate.devices[0].points[0].rounds[0].reconf.unwrap();
    assert_eq!((reconf.changes, reconf.confirmed), (1000, true));
    assert!(reconf.sent > 9_000 && reconf.lost <= reconf.sent / 10, "{reconf:?}");
    assert!(certificate.warnings.iter().any(|w| w.contains("generator_limit")));
    assert_eq!(certificate.devices[0].path.link, "veth");
}

/// A disk that is full when the result is to be written: it is printed instead, and no half of it is left.
#[test]
fn a_result_is_not_lost_for_a_full_disk() {
    let Some(_turn) = turn() else { return };
    let folder = Folder::create("full").unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |words: &[&str]| Command::new("mount").args(words).arg(&disk).status().unwrap();
    if !mount(&["-t", "tmpfs", "-o", "size=4k", "none"]).success() {
        eprintln!("skipped: no tmpfs can be mounted");
        return;
    }
    // Its only page.
    std::fs::write(disk.join("other"), "full").unwrap();
    let mut command = Command::new(HARNESS);
    command.args(["soak", "--rate", "1kpps", "--duration", "1s", "--quiet", "--device"]);
    command.args(["kind = \"impair\"", "--output"]).arg(disk.join("result.json"));
    let output = command.output().unwrap();
    let entries = std::fs::read_dir(&disk).unwrap();
    let left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    let unmounted = Command::new("umount").arg(&disk).status().unwrap();
    assert!(unmounted.success() && left == ["other"], "{left:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("the generator can't keep to") && is_busy() {
        return;
    }
    assert!(!output.status.success() && said.contains("on standard output instead"), "{said}");
    assert!(Certificate::parse(&String::from_utf8_lossy(&output.stdout)).is_ok());
}
