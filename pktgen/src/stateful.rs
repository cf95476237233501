//! `tcp` and `udp`: real conversations with a real server, by smoltcp in user space, from addresses that the kernel doesn't have.
//!
//! Each of `--concurrent` places holds one conversation after another: a connection is opened, sends its request, awaits its
//! response, closes, and is over when both sides have closed; a UDP request is over when its answer has come. The kernel of the generator's machine sees
//! none of it, so it resets nothing.

use crate::cli::Tcp;
use crate::end::{End, pin};
use crate::latency::Times;
use crate::link::Link;
use crate::live::Live;
use crate::neighbor::Responder;
use crate::profile::{EndPlan, wrong};
use crate::report::{Ended, Generator, Mode, Other, Rates, Report, SCHEMA, Second, Setup};
use crate::run::{RX_FRAMES, RunError, TX_FRAMES, token_and_time};
use crate::session::Signals;
use conversation::{Conversation, REQUEST, Step, request};
use ipnet::IpNet;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{EthernetAddress, IpCidr};
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub mod conversation;

/// Local ports that conversations go round among.
const PORTS: std::ops::Range<u16> = 10_000..60_000;
/// Longest sleep.
const NAP: Duration = Duration::from_millis(2);

/// One address with its stack and its conversations.
struct Client {
    address: IpAddr,
    interface: Interface,
    sockets: SocketSet<'static>,
    places: Vec<Conversation>,
    port: u16,
}

/// Counts of a second, and of all.
#[derive(Default)]
struct Counts {
    other: Other,
    open: u64,
}

/// Runs `tcp` or `udp`.
pub fn run(arguments: &Tcp, mode: Mode, signals: &Signals) -> Result<Report, RunError> {
    let plan = EndPlan {
        port: Some(arguments.tx.clone()),
        netns: arguments.netns_tx.clone(),
        addresses: arguments.address.clone(),
        ..EndPlan::default()
    };
    check(arguments, mode)?;
    if let Some(cpu) = arguments.cpu.filter(|cpu| !pin(*cpu)) {
        return Err(wrong("--cpu", format!("there is no CPU {cpu} that can be used")).into());
    }
    let mut end = End::open(&plan, "tx", TX_FRAMES, RX_FRAMES)?;
    let description = end.describe();
    let hosts: Vec<_> = arguments.address.iter().map(IpNet::addr).collect();
    let responder = Responder::new(end.mac, &arguments.address, &[]);
    let mut link =
        Link::new(std::mem::take(&mut end.queues), responder, end.device.mtu as usize, &hosts);
    let (_, started_unix_ms) = token_and_time();
    let mut clients = clients(arguments, mode, &mut link, end.mac.0, started_unix_ms)?;

    let mut live = Live::new(&arguments.show, format!("{mode:?} to {}", arguments.server), true);
    let mut counts = Counts::default();
    let (mut setup, mut life) = (Times::new(3), Times::new(3));
    let mut second = Ticker::new();
    let started = Instant::now();
    let total = arguments.connections.unwrap_or(u64::MAX);
    let time = if arguments.connections.is_some() { Duration::MAX } else { arguments.duration };
    let mut ended = if arguments.connections.is_some() { Ended::Count } else { Ended::Duration };
    let mut turn = 0;
    let mut failed = None;
    loop {
        if failed.is_some() {
            ended = Ended::Failed;
            break;
        }
        let elapsed = started.elapsed();
        let now = Moment::from_micros(elapsed.as_micros() as i64);
        if signals.interrupted() {
            ended = Ended::Interrupted;
            for (index, client) in clients.iter_mut().enumerate() {
                let open = client.places.iter_mut().filter(|place| !place.is_free());
                open.for_each(|place| place.give_up(&mut client.sockets));
                client.interface.poll(now, &mut link.host(index), &mut client.sockets);
            }
            failed = link.put_out().err();
            break;
        }
        let over = elapsed >= time || counts.other.opened >= total;
        if over && counts.open == 0 {
            break;
        }
        let due = match arguments.per_second {
            Some(rate) => ((elapsed.as_secs_f64() * rate) as u64 + 1).min(total),
            None => total,
        };
        let mut busy = link.take_in() > 0;
        // Those that wait for a free place begin when there is one: their rate is then what the server allows.
        while !over && counts.other.opened < due && counts.open < arguments.concurrent as u64 {
            turn += 1;
            let index = turn % clients.len();
            let Some(client) = clients.get_mut(index) else { break };
            if !client.begin(arguments, elapsed) {
                break;
            }
            counts.other.opened += 1;
            counts.open += 1;
            counts.other.concurrent_max = counts.other.concurrent_max.max(counts.open);
            busy = true;
        }
        for (index, client) in clients.iter_mut().enumerate() {
            client.interface.poll(now, &mut link.host(index), &mut client.sockets);
            for place in &mut client.places {
                let step = place.step(&mut client.sockets, arguments, elapsed);
                busy |= note(
                    step,
                    place,
                    elapsed,
                    &mut counts,
                    &mut setup,
                    &mut life,
                    &mut second.times,
                );
            }
        }
        failed = link.put_out().err();
        second.tick(elapsed, &counts, &mut live);
        if !busy {
            let next =
                clients.iter_mut().filter_map(|c| c.interface.poll_delay(now, &c.sockets)).min();
            let next = next.map_or(NAP, |d| Duration::from_micros(d.total_micros()));
            // With a rate the next beginning may be nearer than a millisecond, which no wait is.
            let rest = next.min(NAP);
            match arguments.per_second {
                Some(rate) if !over && rate > 500.0 => std::thread::yield_now(),
                _ if rest < Duration::from_millis(1) => std::thread::yield_now(),
                _ => failed = failed.or(link.wait(Duration::from_millis(1)).err()),
            }
        }
    }
    let elapsed = started.elapsed();
    second.last(elapsed, &counts, &mut live);
    live.end();
    let mut other = counts.other;
    other.frames = link.frames;
    other.bytes = link.bytes;
    other.per_second = other.finished as f64 / elapsed.as_secs_f64();
    other.setup_time = setup.percentiles();
    other.life_time = life.percentiles();
    let mut warnings: Vec<_> = end.warning().into_iter().collect();
    if let Some(error) = failed {
        let interface = &arguments.tx.interface;
        warnings
            .push(format!("interface {interface}: {error}; what it still had to do is missing"));
    }
    if other.timed_out > 0 && other.received_bytes == 0 && other.established > 0 {
        let why = "a server that waits for a whole request is asked with --send";
        warnings.push(format!("no server answered anything within {:?}: {why}", arguments.timeout));
    }
    if link.unsent > 0 {
        warnings.push(format!("{} frames found no room in the ring", link.unsent));
    }
    if ended == Ended::Interrupted && counts.open > 0 {
        warnings.push(format!("{} were open when the signal came", counts.open));
    }
    Ok(Report {
        schema: SCHEMA.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        mode,
        profile: String::new(),
        seed: arguments.seed,
        started_unix_ms,
        ended,
        elapsed_s: elapsed.as_secs_f64(),
        setup: Setup {
            tx: Some(description),
            rx: None,
            rate: arguments.per_second.map_or("max".into(), |rate| format!("{rate}/s")),
            rate_pps: None,
            mean_size: 0.0,
        },
        total: Default::default(),
        rates: Rates::default(),
        latency: None,
        jitter: None,
        generator: Generator {
            rx_foreign: link.foreign,
            answered: link.answered,
            ..Generator::default()
        },
        streams: Vec::new(),
        seconds: second.done,
        other: Some(other),
        warnings,
    })
}

fn check(arguments: &Tcp, mode: Mode) -> Result<(), RunError> {
    let len = request(arguments).1;
    if mode == Mode::Udp && !(1..=REQUEST.len() as u64).contains(&len) {
        let key = if arguments.send.is_some() { "--send" } else { "--request" };
        let why = format!("{len}: it is one datagram of 1 to {} bytes", REQUEST.len());
        return Err(wrong(key, why).into());
    }
    if arguments.address.iter().any(|net| net.addr() == arguments.server.ip()) {
        return Err(wrong("--address", "it is the server's own").into());
    }
    if arguments.concurrent == 0 {
        return Err(wrong("--concurrent", "it has to be 1 or more").into());
    }
    if arguments.per_second.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(wrong("--per-second", "it has to be more than 0").into());
    }
    if arguments.address.iter().any(|net| net.addr().is_ipv4() != arguments.server.is_ipv4()) {
        return Err(
            wrong("--address", format!("it can't reach the server {}", arguments.server)).into()
        );
    }
    let near = |net: &IpNet| net.contains(&arguments.server.ip());
    if arguments.gateway.is_none() && !arguments.address.iter().all(near) {
        let why = format!("the server {} isn't in the addresses' network", arguments.server.ip());
        return Err(wrong("--gateway", why).into());
    }
    if arguments.gateway.is_some_and(|g| g.is_ipv4() != arguments.server.is_ipv4()) {
        return Err(wrong("--gateway", "it is of another IP version than the server").into());
    }
    Ok(())
}

fn clients(
    arguments: &Tcp,
    mode: Mode,
    link: &mut Link,
    mac: [u8; 6],
    started_unix_ms: u64,
) -> Result<Vec<Client>, RunError> {
    // No more clients than conversations; the places are shared out evenly.
    let many = arguments.address.len().min(arguments.concurrent);
    let mut clients = Vec::new();
    for (index, net) in arguments.address.iter().take(many).enumerate() {
        let mut config = Config::new(EthernetAddress(mac).into());
        // Ports and sequence numbers of their own for each run: a server remembers connections for a minute after their end.
        let mut rng =
            crate::rng::Rng::new(arguments.seed ^ started_unix_ms.rotate_left(20), index as u64);
        config.random_seed = rng.next();
        let mut interface = Interface::new(config, &mut link.host(index), Moment::ZERO);
        let mut full = false;
        interface.update_ip_addrs(|addresses| {
            full = addresses.push(IpCidr::new(net.addr().into(), net.prefix_len())).is_err();
        });
        let routes = interface.routes_mut();
        full |= match arguments.gateway {
            Some(IpAddr::V4(gateway)) => routes.add_default_ipv4_route(gateway).is_err(),
            Some(IpAddr::V6(gateway)) => routes.add_default_ipv6_route(gateway).is_err(),
            None => false,
        };
        if full {
            return Err(wrong("--address", format!("{net}: there is no room for it")).into());
        }
        let mut sockets = SocketSet::new(Vec::new());
        let places = arguments.concurrent / many + usize::from(index < arguments.concurrent % many);
        let places = (0..places).map(|_| Conversation::new(mode, &mut sockets)).collect();
        let span = u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + rng.below(span) as u16;
        clients.push(Client { address: net.addr(), interface, sockets, places, port });
    }
    Ok(clients)
}

impl Client {
    /// Begins a conversation in a free place; false if there is none.
    fn begin(&mut self, arguments: &Tcp, now: Duration) -> bool {
        let Some(place) = self.places.iter_mut().find(|p| p.is_free()) else { return false };
        let port = self.port;
        self.port = if port + 1 < PORTS.end { port + 1 } else { PORTS.start };
        let from = (self.address, port);
        place.begin(&mut self.sockets, self.interface.context(), arguments, from, now)
    }
}

fn note(
    step: Step,
    place: &mut Conversation,
    now: Duration,
    counts: &mut Counts,
    setup: &mut Times,
    life: &mut Times,
    second: &mut Times,
) -> bool {
    let other = &mut counts.other;
    let (sent, received) = place.take_bytes();
    other.sent_bytes += sent;
    other.received_bytes += received;
    let age = (now - place.begun()).as_nanos() as u64;
    match step {
        Step::Nothing => return sent + received > 0,
        Step::Established => {
            other.established += 1;
            setup.note(age);
            second.note(age);
        }
        Step::Finished => {
            other.finished += 1;
            counts.open -= 1;
            life.note(age);
        }
        Step::Reset => {
            other.reset += 1;
            counts.open -= 1;
        }
        Step::TimedOut => {
            other.timed_out += 1;
            counts.open -= 1;
        }
    }
    true
}

/// Makes seconds: begun as asked, established as queued and completed, finished as received.
struct Ticker {
    told: Other,
    next: u64,
    times: Times,
    done: Vec<Second>,
}

impl Ticker {
    fn new() -> Self {
        Self { told: Other::default(), next: 1, times: Times::new(3), done: Vec::new() }
    }

    fn tick(&mut self, elapsed: Duration, counts: &Counts, live: &mut Live) {
        if elapsed.as_secs() >= self.next {
            self.tell(self.next as f64, 1.0, counts, live);
            self.next = elapsed.as_secs() + 1;
        }
    }

    fn last(&mut self, elapsed: Duration, counts: &Counts, live: &mut Live) {
        let length = elapsed.as_secs_f64() - (self.next - 1) as f64;
        if counts.other.finished + counts.other.opened > self.told.finished + self.told.opened {
            self.tell(elapsed.as_secs_f64(), length.max(0.0), counts, live);
        }
    }

    fn tell(&mut self, at_s: f64, length_s: f64, counts: &Counts, live: &mut Live) {
        let (now, before) = (&counts.other, &self.told);
        let times = self.times.percentiles().unwrap_or_default();
        let second = Second {
            at_s,
            length_s,
            asked: now.opened - before.opened,
            queued: now.established - before.established,
            completed: now.established - before.established,
            received: now.finished - before.finished,
            queued_bytes: now.sent_bytes - before.sent_bytes,
            received_bytes: now.received_bytes - before.received_bytes,
            p50_ns: times.p50_ns,
            p99_ns: times.p99_ns,
            max_ns: times.max_ns,
            ..Second::default()
        };
        live.second(&second);
        self.done.push(second);
        self.told = counts.other;
        self.times.clear();
    }
}
