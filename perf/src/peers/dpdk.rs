//! DPDK's own programs on its memory-only devices: started, and their rate read from what they print.
//!
//! | program | device | rate |
//! |---|---|---|
//! | testpmd io, macswap, csum | `net_pcap` with `infinite_rx`: frames of a file over and over, copied; sent ones end | `Tx-pps` of its statistics, which it takes every one or two seconds |
//! | l3fwd lpm, fib | the same | packets sent, counted by the port, over the time between two lines of it (`l3fwd.rs`) |
//! | dpdk-test-fib | none | cycles a lookup, over the TSC's rate as DPDK measures it |
//!
//! All run on one core; their main thread, which only prints, shares it.

use super::{apt, l3fwd};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where it is unpacked, and what it was built to.
#[derive(Debug)]
pub struct Dpdk {
    /// As its packages say, without the distribution's part.
    pub version: String,
    root: PathBuf,
    libraries: PathBuf,
    l3fwd: PathBuf,
}

/// Where nothing else is said.
pub fn default_cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("millrace")
}

/// Drivers that the packages have as plugins.
const PLUGINS: [&str; 3] = ["librte_mempool_ring.so", "librte_net_pcap.so", "librte_bus_vdev.so"];

impl Dpdk {
    /// What is unpacked in `cache`; with `fetch`, apt's present version is downloaded unless it is there.
    pub fn prepare(cache: &Path, fetch: bool) -> Result<Self, String> {
        let folder = match unpacked(cache) {
            Some(folder) if !fetch => folder,
            None if !fetch => {
                return Err(format!(
                    "DPDK is not unpacked in {}: let --fetch do it (about 25 MB from apt's mirrors, 170 MB unpacked; nothing is installed)",
                    cache.display()
                ));
            }
            _ => download(cache)?,
        };
        let root = folder.join("root");
        let libraries = libraries_under(&root)?;
        let l3fwd = l3fwd::build(&root, &libraries, &folder.join("l3fwd"))?;
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        let version = name.as_deref().and_then(version_of).unwrap_or_default();
        Ok(Self { version, root, libraries, l3fwd })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let name = self.libraries.file_name().unwrap_or_default();
        let folders = [self.libraries.clone(), self.root.join("lib").join(name)];
        let paths = folders.map(|path| path.display().to_string()).join(":");
        command.env("LD_LIBRARY_PATH", paths).stdin(Stdio::null());
        command.args(["--no-huge", "--no-pci", "--no-telemetry", "--no-shconf"]);
        for plugin in PLUGINS {
            command.args(["-d", plugin]);
        }
        command
    }

    /// testpmd in a mode, on one core.
    pub fn testpmd(&self, mode: &str, capture: &Path, cpu: usize) -> Command {
        let mut command = self.command(&self.root.join("usr/bin/dpdk-testpmd"));
        command.args(["-m", "1024", "--main-lcore", "0", "--lcores", &format!("0@{cpu},1@{cpu}")]);
        command.arg(device(capture)).args(["--", "--nb-cores=1", "--no-flush-rx"]);
        command.args([&format!("--forward-mode={mode}"), "--stats-period=1"]);
        command
    }

    /// l3fwd with a lookup method and two files of routes, on one core.
    pub fn l3fwd(
        &self,
        lookup: &str,
        capture: &Path,
        rules: (&Path, &Path),
        cpu: usize,
    ) -> Command {
        let mut command = self.command(&self.l3fwd);
        command.args(["-m", "1024", "--lcores", &format!("0@{cpu}")]);
        command.arg(device(capture)).args(["--", "-p", "1", "-P", "--parse-ptype"]);
        command.args(["--config", "(0,0,0)", &format!("--lookup={lookup}"), "--rule_ipv4"]);
        command.arg(rules.0).arg("--rule_ipv6").arg(rules.1);
        command
    }

    /// dpdk-test-fib with files of routes and of addresses, on one core; `groups` is the number of its second-level tables.
    pub fn test_fib(
        &self,
        routes: &Path,
        addresses: &Path,
        v6: bool,
        groups: usize,
        cpu: usize,
    ) -> Command {
        let mut command = self.command(&self.root.join("usr/bin/dpdk-test-fib"));
        // Routes as it keeps them beside, up to twice as many, and 1 KiB a group.
        let megabytes = 1536 + groups / 1024;
        command.args(["-m", &megabytes.to_string(), "--lcores", &format!("0@{cpu}")]);
        command
            .args(["--log-level=lib.eal:debug", "--", "-f"])
            .arg(routes)
            .arg("-t")
            .arg(addresses);
        command.args(["-b", if v6 { "trie" } else { "dir" }, "-g", &groups.to_string()]);
        if v6 {
            command.arg("-6");
        }
        command
    }
}

fn device(capture: &Path) -> String {
    format!("--vdev=net_pcap0,rx_pcap={},infinite_rx=1", capture.display())
}

/// The newest version unpacked.
fn unpacked(cache: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(cache).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let version = |path: &PathBuf| version_of(path.file_name()?.to_str()?);
    folders
        .filter(|path| version(path).is_some())
        .max_by_key(|path| numbers(&version(path).unwrap_or_default()))
}

/// `dpdk-22.11.11` is one; one that is being unpacked has another name.
fn version_of(folder: &str) -> Option<String> {
    let version = folder.strip_prefix("dpdk-")?;
    version.chars().all(|c| c.is_ascii_digit() || c == '.').then(|| version.to_owned())
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').filter_map(|part| part.parse().ok()).collect()
}

/// Finds, downloads and unpacks the packages.
fn download(cache: &Path) -> Result<PathBuf, String> {
    let roots = ["dpdk-dev".to_owned(), "libdpdk-dev".to_owned()];
    let known = apt::show(&roots)?;
    let dev = known.get("dpdk-dev").ok_or(
        "apt knows no package dpdk-dev: run apt-get update; Debian and Ubuntu have it (Ubuntu in universe)",
    )?;
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let version: String = dev.version.chars().take_while(|&c| digits(c)).collect();
    let folder = cache.join(format!("dpdk-{version}"));
    if folder.exists() {
        return Ok(folder);
    }
    // The programs depend on all libraries but on drivers that they load by name.
    let plugin = |name: &&String| {
        ["librte-net-pcap", "librte-bus-vdev", "librte-mempool-ring"]
            .iter()
            .any(|plugin| name.starts_with(plugin))
    };
    let plugins = known.get("libdpdk-dev").map(|package| &package.depends);
    let mut programs = vec!["dpdk-dev".to_owned()];
    programs.extend(plugins.into_iter().flatten().filter(plugin).cloned());
    // l3fwd's source, and the headers that it is built with.
    let files = ["libdpdk-dev", "dpdk-doc", "libbsd-dev"].map(str::to_owned);
    let names = apt::closure(&programs, &files, &apt::installed()?, apt::show)?;
    eprintln!("downloading DPDK {version} ({} packages) into {}", names.len(), folder.display());
    let partial = cache.join(format!("partial-{}", std::process::id()));
    let result = apt::unpack(&names, &partial.join("debs"), &partial.join("root")).and_then(|()| {
        let _ = fs::remove_dir_all(partial.join("debs"));
        fs::rename(&partial, &folder).map_err(|e| format!("{}: {e}", folder.display()))
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    result.map(|()| folder)
}

/// `usr/lib/x86_64-linux-gnu`, or what another architecture calls it.
fn libraries_under(root: &Path) -> Result<PathBuf, String> {
    let all = root.join("usr/lib");
    let entries = fs::read_dir(&all).map_err(|e| format!("{}: {e}", all.display()))?;
    let mut folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    folders.find(|path| path.join("librte_eal.so").exists()).ok_or_else(|| {
        format!("{} has no librte_eal.so; remove the folder and use --fetch again", all.display())
    })
}

/// Runs a program for so long, or to its end, and returns all that it printed. It is asked to end as by a key press.
pub fn run_for(
    command: &mut Command,
    log: &Path,
    time: Option<Duration>,
) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let file = fs::File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
    let errors = file.try_clone().map_err(|e| e.to_string())?;
    let mut child =
        command.stdout(file).stderr(errors).spawn().map_err(|e| format!("{name}: {e}"))?;
    let wait = |child: &mut std::process::Child, limit: Duration| -> Result<bool, String> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if child.try_wait().map_err(|e| e.to_string())?.is_some() {
                return Ok(true);
            }
            sleep(Duration::from_millis(10));
        }
        Ok(false)
    };
    let mut ended = wait(&mut child, time.unwrap_or(Duration::from_secs(180)))?;
    if !ended {
        let pid = rustix::process::Pid::from_child(&child);
        // Not SIGINT: whoever was started in the background has it ignored, and so have its children.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        ended = wait(&mut child, Duration::from_secs(5))?;
    }
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let text = fs::read_to_string(log).map_err(|e| format!("{}: {e}", log.display()))?;
    if ended && status.success() {
        return Ok(text);
    }
    let tail: Vec<&str> = text.trim().lines().rev().take(6).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Err(format!("{name} failed ({status}): {}", tail.join("\n")))
}

/// Packets per microsecond from testpmd's statistics: the mean of its periods, all but the first, which warms up.
pub fn testpmd_rate(output: &str) -> Option<f64> {
    let periods = output.lines().filter_map(|line| {
        let (_, rest) = line.split_once("Tx-pps:")?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    });
    let periods: Vec<f64> = periods.skip_while(|&rate| rate == 0.0).skip(1).collect();
    (!periods.is_empty()).then(|| periods.iter().sum::<f64>() / periods.len() as f64 / 1e6)
}

/// Packets per microsecond from our l3fwd's lines, after half a second of warm-up.
pub fn l3fwd_rate(output: &str) -> Option<f64> {
    let lines = output.lines().filter_map(|line| {
        let (sent, at) = line.strip_prefix("sent ")?.split_once(" at ")?;
        Some((sent.parse::<f64>().ok()?, at.trim().parse::<f64>().ok()?))
    });
    let lines: Vec<(f64, f64)> = lines.skip_while(|line| line.0 == 0.0).collect();
    let first = lines.iter().find(|line| line.1 >= lines[0].1 + 0.45)?;
    let last = lines.last()?;
    (last.1 > first.1).then(|| (last.0 - first.0) / (last.1 - first.1) / 1e6)
}

/// Lookups per microsecond from dpdk-test-fib.
pub fn test_fib_rate(output: &str) -> Option<f64> {
    let number = |before: &str| {
        let (_, rest) = output.split_once(before)?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    };
    let kilohertz = number("TSC frequency is ~")?;
    let cycles = number("AVG FIB lookup ")?;
    (cycles > 0.0).then(|| kilohertz / 1000.0 / cycles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn testpmds_rate_is_the_mean_without_the_start() {
        let shown = "
  ######################## NIC statistics for port 0  ########################
  RX-packets: 192        RX-missed: 0          RX-bytes:  11520
  Throughput (since last show)
  Rx-pps:            0          Rx-bps:            0
  Tx-pps:            0          Tx-bps:            0
  ############################################################################
\u{1b}[2J\u{1b}[1;1H
  Rx-pps:     24752920          Rx-bps:  11881402072
  Tx-pps:     10000000          Tx-bps:  11881432744
  Tx-pps:     24000000          Tx-bps:  11955365456
  Tx-pps:     25000000          Tx-bps:  11955365456
Telling cores to stop...
  TX-packets: 124555968      TX-dropped: 0             TX-total: 124555968
";
        assert_eq!(testpmd_rate(shown), Some(24.5));
        assert_eq!(testpmd_rate("  Tx-pps:    0  Tx-bps: 0\n  Tx-pps:    5  Tx-bps: 0\n"), None);
        assert_eq!(testpmd_rate("EAL: Error - exiting with code: 1"), None);
    }

    #[test]
    fn l3fwds_rate_is_between_the_first_warm_line_and_the_last() {
        let shown = "Port 0 Link up at 10 Gbps FDX Fixed
sent 0 at 11696.908581475
L3FWD: entering main loop on lcore 1
sent 10000000 at 11697.400000000
sent 20000000 at 11697.900000000
sent 30000000 at 11698.400000000
sent 50000000 at 11698.900000000
Signal 2 received, preparing to exit...
";
        assert_eq!(l3fwd_rate(shown).map(|rate| (rate * 1000.0).round()), Some(30_000.0));
        assert_eq!(l3fwd_rate("sent 0 at 1.0\nsent 0 at 2.0\n"), None);
        assert_eq!(l3fwd_rate("sent 10 at 1.0\n"), None);
    }

    #[test]
    fn test_fibs_cycles_become_lookups_per_microsecond() {
        let shown = "EAL: TSC frequency is ~2600000 KHz\nRoutes total: 1000000\nAVG FIB add 5905\nAVG FIB lookup 26.0\nAVG FIB delete 40\n";
        assert_eq!(test_fib_rate(shown), Some(100.0));
        assert_eq!(test_fib_rate("AVG FIB lookup 26.0"), None);
    }

    #[test]
    fn folders_being_unpacked_are_no_version_and_the_newest_one_wins() {
        assert_eq!(version_of("dpdk-22.11.11").as_deref(), Some("22.11.11"));
        assert_eq!(version_of("partial-77"), None);
        assert_eq!(version_of("dpdk-22.11.partial"), None);
        assert!(numbers("22.11.11") > numbers("22.11.7"));
    }

    #[test]
    fn a_program_that_goes_on_is_interrupted_and_one_that_fails_is_quoted() {
        let folder = std::env::temp_dir().join(format!("millrace-perf-run-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let log = folder.join("log");
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let script = "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.01; done";
        let text = run_for(&mut shell(script), &log, Some(Duration::from_millis(200))).unwrap();
        assert_eq!(text, "hello\nbye\n");
        let error = run_for(&mut shell("echo no such device; exit 4"), &log, None).unwrap_err();
        assert!(error.contains("no such device"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
