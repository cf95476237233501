//! The command line.

use crate::profile::EndPlan;
use crate::units::{self, Rate, UnitError};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use millrace_wire::Mac;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Sends, receives, answers and replays packets over AF_XDP, and says what became of each.
#[derive(Debug, Parser)]
#[command(name = "millrace-pktgen", version, about)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, once")]
pub enum Command {
    /// Send streams, receive them, and report loss, duplicates, reordering, latency and rates
    Run(Run),
    /// Send a capture, keeping the gaps between its packets
    Replay(Replay),
    /// Receive and count whatever comes in
    Sink(Listen),
    /// Send back what comes in, with the addresses of frame and packet swapped
    Reflect(Listen),
    /// Answer ARP, neighbor solicitations and echo requests for addresses of one's own
    Respond(Listen),
    /// Open, use and close TCP connections to a real server, from addresses that the kernel doesn't have
    Tcp(Tcp),
    /// Ask a real server over UDP and await its answers
    Udp(Tcp),
    /// Compare the generator's transmit loop with a bare one on the same socket, in turns
    Bench(Bench),
    /// Check a profile and print the first packets of each stream
    Check(Check),
    /// Print the JSON Schema of the report
    Schema,
}

/// An interface, as `veth0`, `veth0:2` (two queues, from 0) or `veth0:2+1` (one queue, from 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub interface: String,
    /// First queue.
    pub first: u32,
    /// Number of queues; none: one to send on, all to receive on.
    pub queues: Option<u32>,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?}: say IFACE, IFACE:QUEUES or IFACE:FIRST+QUEUES, as in veth0:2");
        let Some((interface, queues)) = text.split_once(':') else {
            return Ok(Self { interface: text.into(), first: 0, queues: None });
        };
        let (first, queues) = queues.split_once('+').unwrap_or(("0", queues));
        let first = first.parse().map_err(|_| wrong())?;
        let queues: u32 = queues.parse().map_err(|_| wrong())?;
        if queues == 0 || queues > 64 || interface.is_empty() {
            return Err(wrong());
        }
        Ok(Self { interface: interface.into(), first, queues: Some(queues) })
    }
}

/// How the report is written.
#[derive(Args, Clone, Debug, Default)]
pub struct Show {
    /// The report as JSON (`millrace-pktgen schema`) on standard output; progress goes to standard error
    #[arg(long)]
    pub json: bool,
    /// One JSON object a line: {"second": …} every second, {"report": …} at the end
    #[arg(long)]
    pub json_lines: bool,
    /// Write the JSON report to this file too
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// No progress
    #[arg(long, short)]
    pub quiet: bool,
}

/// The two ends and their addresses; each overrides what the profile says.
#[derive(Args, Clone, Debug, Default)]
pub struct Ends {
    /// Interface to send on
    #[arg(long, value_name = "IFACE[:QUEUES]")]
    pub tx: Option<Port>,
    /// Interface to receive on; may be the same
    #[arg(long, value_name = "IFACE[:QUEUES]")]
    pub rx: Option<Port>,
    /// Network namespace of the sending interface
    #[arg(long, value_name = "NAME")]
    pub netns_tx: Option<String>,
    /// Network namespace of the receiving interface
    #[arg(long, value_name = "NAME")]
    pub netns_rx: Option<String>,
    /// Addresses of the sending end, which it answers ARP, ND and echo requests for
    #[arg(long, value_parser = net, value_name = "ADDRESS/LENGTH")]
    pub tx_address: Vec<IpNet>,
    /// Addresses of the receiving end
    #[arg(long, value_parser = net, value_name = "ADDRESS/LENGTH")]
    pub rx_address: Vec<IpNet>,
    /// Router that the sending end resolves and sends to
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Option<IpAddr>,
    /// Router of the receiving end: it is made to know the end's addresses before the first packet
    #[arg(long, value_name = "ADDRESS")]
    pub rx_gateway: Option<IpAddr>,
    /// CPUs to pin the sending queues' threads to
    #[arg(long, value_delimiter = ',', value_name = "CPU,…")]
    pub cpus_tx: Vec<usize>,
    /// CPUs to pin the receiving queues' threads to
    #[arg(long, value_delimiter = ',', value_name = "CPU,…")]
    pub cpus_rx: Vec<usize>,
    /// Zero-copy mode of the sockets
    #[arg(long, value_enum)]
    pub zero_copy: Option<ZeroCopy>,
}

impl Ends {
    /// The sending end by itself, where there is no profile.
    pub fn sending(&self) -> EndPlan {
        let (port, netns) = (self.tx.clone(), self.netns_tx.clone());
        let (addresses, cpus) = (self.tx_address.clone(), self.cpus_tx.clone());
        EndPlan { port, netns, addresses, cpus, ..self.beside(self.gateway) }
    }

    /// The receiving end.
    pub fn receiving(&self) -> EndPlan {
        let (port, netns) = (self.rx.clone(), self.netns_rx.clone());
        let (addresses, cpus) = (self.rx_address.clone(), self.cpus_rx.clone());
        EndPlan { port, netns, addresses, cpus, ..self.beside(self.rx_gateway) }
    }

    fn beside(&self, router: Option<IpAddr>) -> EndPlan {
        let (gateway, gateway6) = match router {
            Some(IpAddr::V4(v4)) => (Some(v4), None),
            Some(IpAddr::V6(v6)) => (None, Some(v6)),
            None => (None, None),
        };
        let zero_copy = self.zero_copy.unwrap_or_default();
        EndPlan { gateway, gateway6, zero_copy, ..EndPlan::default() }
    }
}

/// Whether sockets are in zero-copy mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZeroCopy {
    /// If the driver can
    #[default]
    Auto,
    /// Fail if the driver can't
    Always,
    /// Copy mode
    Never,
}

/// How much, and for how long.
#[derive(Args, Clone, Debug, Default)]
pub struct Load {
    /// 100kpps, 1gbps (frames with FCS), l1:1gbps (with preamble and gap), 50% (of the line), max
    #[arg(long)]
    pub rate: Option<Rate>,
    /// How long to send: 10s, 500ms, 2m
    #[arg(long, value_parser = duration, conflicts_with = "count")]
    pub duration: Option<Duration>,
    /// How many packets to send: 1000, 10k, 1m
    #[arg(long, value_parser = count)]
    pub count: Option<u64>,
    /// Seed of all that is random
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long to wait for packets under way after sending
    #[arg(long, value_parser = duration)]
    pub drain: Option<Duration>,
}

/// One stream, or what every stream of the profile is to have; fields as in a profile: `a` fixed, `a-b` in turn, `a,b,c` in turn, `random a-b`, `one of a,b,c`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamArgs {
    /// udp, tcp, sctp, icmp (echo requests, of either IP version)
    #[arg(long)]
    pub protocol: Option<String>,
    /// Source addresses
    #[arg(long)]
    pub src: Option<String>,
    /// Destination addresses
    #[arg(long)]
    pub dst: Option<String>,
    /// Source ports
    #[arg(long)]
    pub src_port: Option<String>,
    /// Destination ports
    #[arg(long)]
    pub dst_port: Option<String>,
    /// Frame sizes with FCS, or `imix`
    #[arg(long)]
    pub size: Option<String>,
    /// VLAN, or outer and inner: 100 or 100,200
    #[arg(long, value_delimiter = ',')]
    pub vlan: Vec<u16>,
    /// Destination MAC; without it the gateway's, or the destination's own
    #[arg(long)]
    pub dst_mac: Option<String>,
    /// Source MAC; without it the interface's
    #[arg(long)]
    pub src_mac: Option<String>,
}

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Profile in TOML (see pktgen/profiles)
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ends: Ends,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: Load,
    #[command(flatten, next_help_heading = "Stream (with a profile: of all its streams)")]
    #[allow(missing_docs)]
    pub stream: StreamArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub show: Show,
}

/// Arguments of `replay`.
#[derive(Args, Debug)]
pub struct Replay {
    /// The capture: pcap or pcapng, Ethernet
    pub capture: PathBuf,
    /// How much faster than it was captured; `max` leaves no gaps
    #[arg(long, default_value = "1", value_parser = speed)]
    pub speed: f64,
    /// How many times
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Destination MAC of all frames, instead of the capture's; with --gateway the router's
    #[arg(long, value_parser = mac, value_name = "MAC")]
    pub dst_mac: Option<Mac>,
    /// Source MAC of all frames
    #[arg(long, value_parser = mac, value_name = "MAC")]
    pub src_mac: Option<Mac>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ends: Ends,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub show: Show,
}

/// Arguments of `sink`, `reflect` and `respond`.
#[derive(Args, Debug)]
pub struct Listen {
    /// Interface to receive on
    #[arg(long, value_name = "IFACE[:QUEUES]")]
    pub rx: Port,
    /// Its network namespace
    #[arg(long, value_name = "NAME")]
    pub netns_rx: Option<String>,
    /// Addresses that are answered for; prefixes with `--answer-for`
    #[arg(long, value_parser = net, value_name = "ADDRESS/LENGTH")]
    pub address: Vec<IpNet>,
    /// Whole prefixes that are answered for
    #[arg(long, value_parser = net, value_name = "PREFIX")]
    pub answer_for: Vec<IpNet>,
    /// CPUs to pin the queues' threads to
    #[arg(long, value_delimiter = ',', value_name = "CPU,…")]
    pub cpus_rx: Vec<usize>,
    /// End after this long; without it on Ctrl-C
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// End after this many frames
    #[arg(long, value_parser = count)]
    pub count: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub show: Show,
}

/// Bytes, written as a text with escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            if byte != b'\\' {
                bytes.push(byte);
                continue;
            }
            bytes.push(match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'\\') => b'\\',
                Some(b'x') => {
                    let mut digit = || char::from(rest.next()?).to_digit(16);
                    let both = digit().zip(digit());
                    both.map(|(high, low)| (high * 16 + low) as u8)
                        .ok_or("\\x is followed by two hexadecimal digits")?
                }
                _ => return Err("a \\ is followed by r, n, t, \\ or x".into()),
            });
        }
        if bytes.is_empty() { Err("it is empty".into()) } else { Ok(Self(bytes)) }
    }
}

/// Arguments of `tcp` and `udp`.
#[derive(Args, Debug)]
pub struct Tcp {
    /// Interface to use
    #[arg(long, value_name = "IFACE")]
    pub tx: Port,
    /// Its network namespace
    #[arg(long, value_name = "NAME")]
    pub netns_tx: Option<String>,
    /// Clients' addresses: not the kernel's; connections go round among them
    #[arg(long, required = true, value_parser = net, value_name = "ADDRESS/LENGTH")]
    pub address: Vec<IpNet>,
    /// Router to the server
    #[arg(long)]
    pub gateway: Option<IpAddr>,
    /// The server
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub server: SocketAddr,
    /// Connections (or requests) begun in a second; without it as many as `--concurrent` allows
    #[arg(long)]
    pub per_second: Option<f64>,
    /// Most open at once
    #[arg(long, default_value_t = 64)]
    pub concurrent: usize,
    /// End after so many
    #[arg(long, value_parser = count, conflicts_with = "duration")]
    pub connections: Option<u64>,
    /// Begin none after this long
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub duration: Duration,
    /// Bytes sent on each; of `udp` 1 to 1024
    #[arg(long, value_parser = count, default_value = "64")]
    pub request: u64,
    /// The request itself, with \r, \n, \t, \\ and \x00: 'GET / HTTP/1.0\r\n\r\n'
    #[arg(long, value_name = "TEXT", conflicts_with = "request")]
    pub send: Option<Bytes>,
    /// Bytes awaited on each before it is closed; the server may send more, or close before
    #[arg(long, value_parser = count, default_value = "1")]
    pub response: u64,
    /// Give one up after this long
    #[arg(long, value_parser = duration, default_value = "5s")]
    pub timeout: Duration,
    /// CPU to pin the generator to
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Seed of ports and sequence numbers, beside the time: no two runs have the same
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub show: Show,
}

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// Interface to send on; the frames go to a MAC that nobody has
    #[arg(long, value_name = "IFACE[:QUEUES]")]
    pub tx: Port,
    /// Its network namespace
    #[arg(long, value_name = "NAME")]
    pub netns_tx: Option<String>,
    /// Rounds of each kind: more of them narrow the ratio's interval
    #[arg(long, default_value_t = 100)]
    pub rounds: usize,
    /// Length of a round
    #[arg(long, value_parser = duration, default_value = "50ms")]
    pub round: Duration,
    /// Frame size with FCS
    #[arg(long, default_value_t = 64)]
    pub size: u16,
    /// CPUs to pin the queues' threads to
    #[arg(long, value_delimiter = ',', value_name = "CPU,…")]
    pub cpus_tx: Vec<usize>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `check`.
#[derive(Args, Debug)]
pub struct Check {
    /// The profile
    #[arg(long, value_name = "FILE")]
    pub profile: PathBuf,
    /// Write so many packets of it to a capture
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// How many packets
    #[arg(long, default_value = "100", value_parser = count)]
    pub count: u64,
}

fn duration(text: &str) -> Result<Duration, UnitError> {
    units::duration(text)
}

fn count(text: &str) -> Result<u64, UnitError> {
    units::count(text)
}

fn net(text: &str) -> Result<IpNet, String> {
    crate::profile::value::net(text)
}

fn mac(text: &str) -> Result<Mac, String> {
    text.parse().map_err(|_| format!("{text:?} is no MAC address"))
}

fn speed(text: &str) -> Result<f64, String> {
    if text == "max" {
        return Ok(f64::INFINITY);
    }
    let speed = text.trim_end_matches('x').parse::<f64>();
    speed
        .ok()
        .filter(|s| s.is_finite() && *s > 0.0)
        .ok_or_else(|| format!("speed {text:?}: say a number above 0, as 1, 0.5 or 10x, or `max`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bytes_are_written_as_text() {
        let bytes = |text: &str| text.parse::<Bytes>().map(|b| b.0);
        assert_eq!(bytes(r"GET / HTTP/1.0\r\n\r\n"), Ok(b"GET / HTTP/1.0\r\n\r\n".to_vec()));
        assert_eq!(bytes(r"\x00\xfF\\é\t"), Ok(b"\x00\xff\\\xc3\xa9\t".to_vec()));
        for wrong in ["", r"\", r"\x0", r"\xzz", r"\q"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_alone_is_one_of_full_length() {
        let parse = |text: &str| {
            let command = ["pktgen", "respond", "--rx", "l0", "--address", text];
            Cli::try_parse_from(command).map(|cli| match cli.command {
                Command::Respond(arguments) => arguments.address[0].to_string(),
                _ => String::new(),
            })
        };
        assert_eq!(parse("10.0.0.1").unwrap(), "10.0.0.1/32");
        assert_eq!(parse("10.0.0.1/24").unwrap(), "10.0.0.1/24");
        let error = parse("10.0.0.300").unwrap_err().to_string();
        assert!(error.contains("is no address nor prefix"), "{error}");
    }

    #[test]
    fn ports_name_their_queues() {
        let port =
            |interface: &str, first, queues| Port { interface: interface.into(), first, queues };
        assert_eq!("veth0".parse(), Ok(port("veth0", 0, None)));
        assert_eq!("veth0:2".parse(), Ok(port("veth0", 0, Some(2))));
        assert_eq!("veth0:2+1".parse(), Ok(port("veth0", 2, Some(1))));
        for wrong in ["veth0:", "veth0:0", "veth0:x", "veth0:1+", ":1", "veth0:65"] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }
}
