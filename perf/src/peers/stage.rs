//! A device under test between a generator and a sink, in namespaces of their own.
//!
//! ```text
//! generator ── gen0 │ in0  device  out0 │ sink0 ── sink
//! 10.0.1.2, clients 10.200.0.0/16       10.0.2.2, pods 10.64.0.0/10
//! ```
//! Packets come by XDP redirect, so that in0's receiving side (NAPI) runs on the generator's CPU: with AF_XDP the XDP program and the copy into
//! the ring, for Linux what [`Receive`] says. What the device sends is taken by sink0's NAPI on the device's CPU, whoever the
//! device is.

use crate::folder::Folder;
use crate::running::Running;
use crate::topology::{End, Namespace, join};
use crate::{kernel, services};
use clap::ValueEnum;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The engine's rings, MACs swapped, nothing else
    Bare,
    /// Linux forwarding, without conntrack
    #[value(name = "linux")]
    Forward,
    /// Linux with the rules of kube-proxy's nftables mode
    Nftables,
    /// Linux with the rules of kube-proxy's iptables mode
    Iptables,
    /// The engine
    #[value(name = "millrace")]
    Engine,
}

impl Device {
    /// In the order of a round; ours last, next to what it is compared with.
    pub const ALL: [Device; 5] =
        [Device::Bare, Device::Forward, Device::Nftables, Device::Iptables, Device::Engine];

    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Device::Bare => "bare AF_XDP forwarder",
            Device::Forward => "Linux forwarding",
            Device::Nftables => "nftables (kube-proxy)",
            Device::Iptables => "iptables-legacy (kube-proxy)",
            Device::Engine => "millrace",
        }
    }

    /// Whether it translates addresses and tracks flows.
    pub fn has_services(self) -> bool {
        matches!(self, Device::Nftables | Device::Iptables | Device::Engine)
    }
}

/// Where Linux makes packets of what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Receive {
    /// On the generator's CPU, as AF_XDP does; RPS hands them over to the device's
    Generator,
    /// On the device's CPU, in a kernel thread (threaded NAPI)
    Dut,
}

/// What all stages have in common.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Services, each with four endpoints.
    pub services: u16,
    /// Flows of established traffic.
    pub flows: u32,
    /// The generator's CPU.
    pub generator_cpu: usize,
    /// The device's.
    pub cpu: usize,
    /// Where Linux receives.
    pub receive: Receive,
}

/// What is offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// The same flows over and over, so many a second, or as many as the generator can.
    Established(Option<f64>),
    /// Every packet another flow, as many as the generator can.
    New,
}

/// Counters of the two ends.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Sent towards the device, whether it had room or not.
    pub offered: u64,
    /// Arrived at the sink.
    pub arrived: u64,
    /// Come back to the generator.
    pub answered: u64,
    /// Of the device's CPU.
    pub ticks: kernel::Ticks,
    /// When.
    pub at: Instant,
}

const GENERATOR_MAC: &str = "02:00:00:00:01:02";
const IN_MAC: &str = "02:00:00:00:01:01";
const OUT_MAC: &str = "02:00:00:00:02:01";
const SINK_MAC: &str = "02:00:00:00:02:02";

/// One device's namespaces, its rules or tables loaded. All gone when dropped.
pub struct Stage {
    /// Which.
    pub device: Device,
    setting: Setting,
    // Programs end before their namespaces go.
    sink_program: Option<Running>,
    /// On a Linux device's way out, while the sink sends back.
    pass_program: Option<Running>,
    device_program: Option<Running>,
    generator: Namespace,
    dut: Namespace,
    sink: Namespace,
    folder: Folder,
    programs: PathBuf,
}

impl Stage {
    /// Makes the namespaces and loads the services.
    pub fn set_up(device: Device, setting: Setting) -> Result<Self, String> {
        let programs = std::env::current_exe().map_err(|e| e.to_string())?;
        let programs = programs.parent().map(PathBuf::from).unwrap_or_default();
        let role = |end| format!("{device:?}-{}-{end}", setting.services).to_lowercase();
        let stage = Self {
            device,
            setting,
            sink_program: None,
            pass_program: None,
            device_program: None,
            generator: Namespace::create(&role("gen"))?,
            dut: Namespace::create(&role("dut"))?,
            sink: Namespace::create(&role("sink"))?,
            folder: Folder::create(&role("files"))?,
            programs,
        };
        let end = |namespace, name, mac| End { namespace, name, mac };
        let (generator, dut, sink) = (&stage.generator, &stage.dut, &stage.sink);
        join(end(generator, "gen0", GENERATOR_MAC), end(dut, "in0", IN_MAC), 1)?;
        join(end(dut, "out0", OUT_MAC), end(sink, "sink0", SINK_MAC), 1)?;
        match device {
            Device::Bare => {}
            Device::Engine => stage.write_tables()?,
            _ => stage.set_up_linux()?,
        }
        Ok(stage)
    }

    fn set_up_linux(&self) -> Result<(), String> {
        let dut = &self.dut;
        for words in [
            "addr add 10.0.1.1/24 dev in0".to_owned(),
            "addr add 10.0.2.1/24 dev out0".to_owned(),
            format!("neigh add 10.0.1.2 lladdr {GENERATOR_MAC} dev in0 nud permanent"),
            format!("neigh add 10.0.2.2 lladdr {SINK_MAC} dev out0 nud permanent"),
            "route add 10.200.0.0/16 via 10.0.1.2".to_owned(),
            format!("route add {} via 10.0.2.2", services::PODS),
        ] {
            dut.ip(&words)?;
        }
        self.shell(
            "echo 1 > /proc/sys/net/ipv4/ip_forward; \
             for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done",
        )?;
        // A veth takes redirected frames only with NAPI, which it has with GRO or an XDP program; there is nothing to merge here.
        for interface in ["in0", "out0"] {
            let words = ["-K", interface, "gro", "on"];
            finish(dut.command("ethtool").args(words), None)?;
        }
        match self.setting.receive {
            Receive::Generator => {
                let mask = kernel::mask(self.setting.cpu);
                self.shell(&format!("echo {mask} > /sys/class/net/in0/queues/rx-0/rps_cpus"))?;
            }
            Receive::Dut => self.poll_in_thread()?,
        }
        let count = usize::from(self.setting.services);
        match self.device {
            Device::Nftables => {
                for script in services::nftables(count) {
                    finish(dut.command("nft").args(["-f", "-"]), Some(&script))?;
                }
            }
            Device::Iptables => {
                finish(
                    &mut dut.command("iptables-legacy-restore"),
                    Some(&services::iptables(count)),
                )?;
            }
            _ => {}
        }
        Ok(())
    }

    fn write_tables(&self) -> Result<(), String> {
        let folder = self.folder.path();
        let write = |name: &str, text: String| {
            fs::write(folder.join(name), text).map_err(|e| format!("{name}: {e}"))
        };
        write(
            "router.toml",
            format!(
                r#"mode = "router"
socket = "{}"
[workers]
cpus = [{}]
[conntrack]
entries = 4194304
[[interface]]
name = "in0"
addresses = ["10.0.1.1/24"]
[[interface]]
name = "out0"
addresses = ["10.0.2.1/24"]
"#,
                self.file("engine.sock"),
                self.setting.cpu
            ),
        )?;
        write(
            "control.toml",
            format!(
                r#"[[route]]
prefix = "10.200.0.0/16"
via = "10.0.1.2"
[[route]]
prefix = "{}"
via = "10.0.2.2"
[[neighbor]]
interface = "out0"
address = "10.0.2.2"
mac = "{SINK_MAC}"
[[neighbor]]
interface = "in0"
address = "10.0.1.2"
mac = "{GENERATOR_MAC}"
"#,
                services::PODS
            ),
        )?;
        fs::create_dir_all(folder.join("manifests")).map_err(|e| e.to_string())?;
        write("manifests/services.yaml", services::manifests(usize::from(self.setting.services)))?;
        let mut control = self.dut.command(&self.program("millrace-control"));
        control.args(["--once", "--manifests", &self.file("manifests")]);
        control.args(["--config", &self.file("control.toml")]);
        control.args(["--engine-config", &self.file("router.toml")]);
        finish(control.args(["--output", &self.file("tables.img")]), None)
    }

    /// Starts what carries the packets, with no flow known.
    pub fn start(&mut self) -> Result<(), String> {
        self.stop();
        let program = |name: &str| self.dut.command(&self.program(name));
        let log = |name: &str| self.folder.path().join(name);
        match self.device {
            Device::Bare => {
                let mut bare = program("millrace-perf");
                bare.args(["bare", "--from", "in0", "--to", "out0"]);
                bare.args(["--cpu", &self.setting.cpu.to_string()]);
                self.device_program = Some(Running::start(&mut bare, log("bare.log"))?);
                self.wait_for(&self.dut, "out0")?;
            }
            Device::Engine => {
                let mut engine = program("millrace-dataplane");
                engine.args([
                    "--config",
                    &self.file("router.toml"),
                    "--tables",
                    &self.file("tables.img"),
                ]);
                self.device_program = Some(Running::start(&mut engine, log("engine.log"))?);
                self.wait_for(&self.dut, "out0")?;
            }
            _ => finish(program("millrace-perf").arg("forget-flows"), None)?,
        }
        Ok(())
    }

    /// Ends what carries the packets.
    pub fn stop(&mut self) {
        self.device_program = None;
        self.sink_program = None;
        self.pass_program = None;
    }

    /// Fails if what carries the packets is no longer there.
    pub fn check(&mut self) -> Result<(), String> {
        self.device_program.as_mut().map_or(Ok(()), Running::check)
    }

    /// Lets the sink drop, or send back.
    pub fn sink(&mut self, reflect: bool) -> Result<(), String> {
        self.sink_program = None;
        let mut sink = self.sink.command(&self.program("millrace-perf"));
        sink.args(["sink", "--interface", "sink0"]).args(reflect.then_some("--reflect"));
        let log = self.folder.path().join("sink.log");
        self.sink_program = Some(Running::start(&mut sink, log)?);
        self.wait_for(&self.sink, "sink0")?;
        self.pass_program = None;
        if reflect && !matches!(self.device, Device::Bare | Device::Engine) {
            // What a veth's peer sends back by XDP waits in its ring for good, unless it has a program of its own.
            let mut pass = self.dut.command(&self.program("millrace-perf"));
            pass.args(["sink", "--interface", "out0", "--pass"]);
            let log = self.folder.path().join("pass.log");
            self.pass_program = Some(Running::start(&mut pass, log)?);
            self.wait_for(&self.dut, "out0")?;
        }
        Ok(())
    }

    /// Starts the generator.
    pub fn offer(&self, load: Load) -> Result<Running, String> {
        let mut offer = self.generator.command(&self.program("millrace-perf"));
        offer.args([
            "offer",
            "--interface",
            "gen0",
            "--src-mac",
            GENERATOR_MAC,
            "--dst-mac",
            IN_MAC,
        ]);
        offer.args(["--src", "10.200.1.2:32768", "--cpu", &self.setting.generator_cpu.to_string()]);
        // Without services the pods themselves are asked, at as many addresses.
        let (first, port) = match self.device.has_services() {
            true => (services::FIRST, services::PORT),
            false => (services::FIRST_POD, services::PORT),
        };
        offer.args(["--dst", &format!("{first}:{port}")]);
        offer.args(["--services", &self.setting.services.to_string()]);
        match load {
            Load::New => drop(offer.arg("--new")),
            Load::Established(rate) => {
                offer.args(["--flows", &self.setting.flows.to_string()]);
                if let Some(rate) = rate {
                    offer.args(["--rate", &rate.to_string()]);
                }
            }
        }
        Running::start(&mut offer, self.folder.path().join("offer.log"))
    }

    /// What was sent and has come so far.
    pub fn counts(&self) -> Result<Counts, String> {
        let arrived = self.sink.counter("sink0", "rx_packets")?;
        let sent = self.generator.counter("gen0", "tx_packets")?;
        // A peer without room.
        let refused = self.generator.counter("gen0", "tx_dropped")?;
        let answered = self.generator.counter("gen0", "rx_packets")?;
        let ticks = kernel::ticks(self.setting.cpu)?;
        Ok(Counts { offered: sent + refused, arrived, answered, ticks, at: Instant::now() })
    }

    /// Flows of established traffic.
    pub fn flows(&self) -> u32 {
        self.setting.flows
    }

    /// Conntrack entries of Linux now.
    pub fn tracked(&self) -> Result<u64, String> {
        let path = "/proc/sys/net/netfilter/nf_conntrack_count";
        let output = self.dut.command("cat").arg(path).output().map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().map_err(|_| format!("{path}: not a number"))
    }

    fn poll_in_thread(&self) -> Result<(), String> {
        self.shell("echo 1 > /sys/class/net/in0/threaded")?;
        match kernel::pin_pollers("in0", self.setting.cpu)? {
            0 => Err("in0 has no thread that polls it: this kernel's veth can't".into()),
            _ => Ok(()),
        }
    }

    fn shell(&self, script: &str) -> Result<(), String> {
        finish(self.dut.command("sh").args(["-c", script]), None)
    }

    /// Until an XDP program is there.
    fn wait_for(&self, namespace: &Namespace, interface: &str) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !namespace.ip(&format!("link show {interface}"))?.contains("prog/xdp") {
            if Instant::now() > deadline {
                let logs = ["engine.log", "bare.log", "sink.log"].map(|name| {
                    fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
                });
                return Err(format!("nothing runs on {interface} after 10 s: {}", logs.concat()));
            }
            sleep(Duration::from_millis(20));
        }
        // The sockets are bound, the worker is about to turn.
        sleep(Duration::from_millis(100));
        Ok(())
    }

    fn program(&self, name: &str) -> String {
        self.programs.join(name).to_string_lossy().into_owned()
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }
}

/// Runs a program to its end, with `input` if there is one.
fn finish(command: &mut Command, input: Option<&str>) -> Result<(), String> {
    let words: Vec<_> =
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let what = words.join(" ");
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{what}: {e}"))?;
    // What it has to say is little; it reads all before.
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input)
        && let Err(error) = pipe.write_all(input.as_bytes())
    {
        eprintln!("millrace-perf: {what}: {error}");
    }
    let output = child.wait_with_output().map_err(|e| format!("{what}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let head: Vec<&str> = errors.trim().lines().take(6).collect();
    Err(format!("{what}: {}: {}", output.status, head.join("\n")))
}
