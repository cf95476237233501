//! The reader: dump, follow, dump under churn, loss of messages.

use std::time::{Duration, Instant};

use millrace_control::{
    inbox::{Event, Inbox, inbox},
    kernel::Kernel,
    reflect::netlink,
};

use crate::{
    netns::{Namespace, ip},
    oracle::{asked, mirrored},
    require_root,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

struct Follower<'a> {
    namespace: &'a Namespace,
    inbox: Inbox,
    kernel: Kernel,
    /// Events so far.
    events: usize,
    longest: Duration,
}

impl<'a> Follower<'a> {
    fn start(namespace: &'a Namespace) -> Follower<'a> {
        let (inbox, outbox) = inbox().unwrap();
        namespace.run(move || netlink::start(outbox).unwrap());
        let kernel = Kernel::default();
        Follower { namespace, inbox, kernel, events: 0, longest: Duration::ZERO }
    }

    fn read(&mut self, limit: Duration) {
        let (events, _) = self.inbox.wait(None, limit).unwrap();
        for event in events {
            self.events += 1;
            let Event::Kernel(changes) = event else { panic!("{event:?}") };
            for change in changes {
                self.kernel.take(change);
            }
        }
    }

    /// Waits until the mirror is what `ip` says.
    fn agrees(&mut self, after: &str) {
        let begun = Instant::now();
        loop {
            let (lines, stale) = asked(self.namespace);
            self.read(Duration::from_millis(1));
            let mirror = mirrored(&self.kernel, &stale);
            if mirror == lines {
                self.longest = self.longest.max(begun.elapsed());
                return;
            }
            if begun.elapsed() > PATIENCE {
                let missing: Vec<_> = lines.difference(&mirror).collect();
                let wrong: Vec<_> = mirror.difference(&lines).collect();
                panic!("after {after}: missing {missing:#?}, too many {wrong:#?}");
            }
        }
    }

    fn has(&mut self, what: &str, wanted: impl Fn(&Kernel) -> bool) {
        let begun = Instant::now();
        while !wanted(&self.kernel) {
            let neighbors = || self.namespace.ip("neigh show nud all");
            let late = begun.elapsed() > PATIENCE;
            assert!(!late, "{what}: {:#?}, kernel: {}", self.kernel.neighbors, neighbors());
            self.read(Duration::from_millis(10));
        }
    }
}

fn furnished(label: &str) -> Namespace {
    let namespace = Namespace::new(label);
    for command in [
        "link add up0 type veth peer name far0",
        "link add up1 type veth peer name far1",
        "link add br0 type bridge",
        "link add pod0 type veth peer name pod0p",
        "link set pod0 master br0",
        "link set up0 up",
        "link set far0 up",
        "link set up1 up",
        "link set far1 up",
        "link set pod0 up",
        "link set pod0p up",
        "link set br0 up",
        "addr add 192.0.2.2/24 dev up0",
        "addr add 198.51.100.2/24 dev up1",
        "addr add 10.1.0.1/24 dev br0",
        "addr add 2001:db8::2/64 dev up0 nodad",
        "route add default via 192.0.2.1",
    ] {
        namespace.ip(command);
    }
    namespace
}

#[test]
fn each_change_is_seen() {
    require_root!();
    let namespace = furnished("mirror-each");
    let mut follower = Follower::start(&namespace);
    follower.agrees("the start");
    for command in [
        "addr add 192.0.2.77/24 dev up0",
        "addr add 2001:db8:1::2/64 dev up1 nodad",
        "addr add 2001:db8:2::2/64 dev up1",
        "addr add 203.0.113.1/32 dev lo",
        "route add 10.9.0.0/16 via 192.0.2.9 metric 50",
        "route add 10.9.0.0/16 via 198.51.100.9 metric 40",
        "route append 10.9.0.0/16 via 198.51.100.10 metric 40",
        "route add 10.10.0.0/16 nexthop via 192.0.2.9 weight 3 nexthop via 198.51.100.9 weight 1",
        "route replace 10.10.0.0/16 nexthop via 192.0.2.10 weight 1 nexthop via 198.51.100.9 weight 200",
        "route add blackhole 10.11.0.0/16",
        "route add unreachable 10.12.0.0/16",
        "route add prohibit 10.13.0.0/16",
        "route add throw 10.14.0.0/16",
        "route add local 10.15.0.0/16 dev lo",
        "route add 10.16.0.0/16 via inet6 2001:db8::1 dev up0",
        "route add 10.17.0.0/16 via 192.0.2.1 table 100",
        "route add 10.18.0.0/16 via 203.0.113.200 dev up1 onlink",
        "route add 2001:db8:9::/48 via 2001:db8::9",
        "route append 2001:db8:9::/48 via 2001:db8::10",
        "route append 2001:db8:9::/48 via 2001:db8::11",
        "route del 2001:db8:9::/48 via 2001:db8::10",
        "route add default via fe80::1 dev up0",
        "route add blackhole 2001:db8:a::/48",
        "nexthop add id 7 via 192.0.2.9 dev up0",
        "route add 10.19.0.0/16 nhid 7",
        "nexthop replace id 7 via 192.0.2.10 dev up0",
        "nexthop del id 7",
        "neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev up0 nud permanent",
        "neigh replace 192.0.2.9 lladdr 02:00:00:00:00:0a dev up0 nud permanent",
        "neigh add 192.0.2.10 lladdr 02:00:00:00:00:10 dev up0 nud reachable",
        "neigh add 2001:db8::9 lladdr 02:00:00:00:00:09 dev up0 nud permanent",
        "neigh change 192.0.2.9 dev up0 nud failed",
        "neigh del 2001:db8::9 dev up0",
        "link set up0 mtu 1400",
        "link set up0 name wan0",
        "link set far1 down",
        "link set far1 up",
        "link set up1 down",
        "link set up1 up",
        "link set br0 address 02:00:00:00:00:01",
        "addr del 192.0.2.77/24 dev wan0",
        "link del pod0",
        "link del wan0",
        "link add up0 type veth peer name far0",
        "addr flush dev up1",
        "route flush table main",
    ] {
        namespace.ip(command);
        follower.agrees(command);
    }
    println!("each change within {:?} at most, `ip` and all", follower.longest);
}

#[test]
fn a_burst_is_few_events_and_ends_right() {
    require_root!();
    let namespace = furnished("mirror-burst");
    let mut follower = Follower::start(&namespace);
    follower.agrees("the start");
    let before = follower.events;
    let batch: String = (0..2000)
        .map(|n| format!("route add 10.{}.{}.0/24 via 192.0.2.1\n", 100 + n / 256, n % 256))
        .collect();
    run_batch(&namespace, &batch);
    follower.agrees("2000 routes");
    let events = follower.events - before;
    assert!(events < 400, "{events} events for 2000 changes");
}

/// The socket's backlog overflows while nobody reads it: many more words than it holds, while the thread is kept waiting.
#[test]
fn a_dump_under_churn_ends_equal() {
    require_root!();
    let namespace = furnished("mirror-churn");
    let many: String = (0..4000)
        .map(|n| format!("route add 10.{}.{}.0/24 via 192.0.2.1\n", 100 + n / 256, n % 256))
        .collect();
    run_batch(&namespace, &many);
    let mut churn = String::new();
    for round in 0..40 {
        for n in (round % 7..4000).step_by(37) {
            let (a, b) = (100 + n / 256, n % 256);
            churn += &format!(
                "route del 10.{a}.{b}.0/24\nroute add 10.{a}.{b}.0/24 via 192.0.2.{}\n",
                1 + round
            );
        }
        for n in 0..100 {
            churn += &format!(
                "neigh replace 192.0.2.{} lladdr 02:00:00:00:{round:02x}:{n:02x} dev up0 nud permanent\n",
                100 + n
            );
        }
    }
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| run_batch(&namespace, &churn));
        // Several begin in the middle of it.
        let mut followers: Vec<_> = (0..3)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(40));
                Follower::start(&namespace)
            })
            .collect();
        while !busy.is_finished() {
            followers.iter_mut().for_each(|follower| follower.read(Duration::from_millis(5)));
        }
        busy.join().unwrap();
        for follower in &mut followers {
            follower.agrees("churn");
            assert!(follower.kernel.routes.len() > 4000);
        }
    });
}

/// A neighbor that changes its MAC without a word, while the kernel sees none of the traffic to it.
#[test]
fn a_stale_neighbor_is_taken_back_and_comes_back_with_the_kernels_word() {
    require_root!();
    let (namespace, far) = (furnished("mirror-stale"), Namespace::new("mirror-stale-far"));
    namespace.ip(&format!("link set far0 netns {}", far.name()));
    far.ip("link set far0 address 02:00:00:00:00:01 up");
    far.ip("addr add 192.0.2.1/24 dev far0");
    let mut follower = Follower::start(&namespace);
    namespace.ip("neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev up0 nud stale");
    let mac = |kernel: &Kernel| {
        let mut all = kernel.neighbors.iter();
        all.find(|((_, addr), _)| addr.to_string() == "192.0.2.1").map(|(_, mac)| mac.to_string())
    };
    follower.has("the stale one", |kernel| mac(kernel).as_deref() == Some("02:00:00:00:00:01"));
    follower.has("taken back", |kernel| mac(kernel).is_none());
    far.ip("link set far0 address 02:00:00:00:00:02");
    // As the engine does with its packets while there is no row.
    let send = || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        // Refused for what was sent before: nobody answers there.
        let _ = socket.send_to(b"x", "192.0.2.1:9");
    };
    namespace.run(send);
    follower.has("in use again", |kernel| mac(kernel).as_deref() == Some("02:00:00:00:00:01"));
    follower.has("found dead", |kernel| {
        let gone = mac(kernel).is_none();
        if gone {
            namespace.run(send);
        }
        gone
    });
    follower.has("its new MAC", |kernel| mac(kernel).as_deref() == Some("02:00:00:00:00:02"));
}

fn run_batch(namespace: &Namespace, commands: &str) {
    let path = std::env::temp_dir().join(format!(
        "millrace-batch-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&path, commands).unwrap();
    let done = ip(&["-n", namespace.name(), "-batch", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    done.unwrap();
}
