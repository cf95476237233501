//! The nftables table `inet millrace-pods`: packets of this node's isolated pods pass the engine, or they do not pass.
//!
//! Whatever the kernel forwards from or to such a pod, by whatever device, is led into the trunk, judged, and given back to be routed,
//! masqueraded and sent as it would have been without. `led4` and `led6` are their addresses, and those of no pod that control knows (of a podCIDR).
//!
//! * `untracked`: between a pod and the engine the kernel tracks nothing; it tracks what the engine gives back, on its way to others. So a CNI's
//!   masquerade sees each connection once, as one that begins, and its answers, translated, come here before the pod. Not so for what goes to
//!   services, whose answers come from there, and what is for this node itself. Without a trunk (the engine is away) all is tracked as ever.
//! * `steer`: gives the mark by which the rule leads into the trunk. Behind others' translation, so that a host port's packets are judged as the pod's. TCP
//!   answers of a connection that the pod had before it was isolated go to it as they did: the engine knows nothing of that connection until the pod sends.
//! * `closed`: what is of a pod in `closed4` or `closed6` and takes another way is dropped: while the engine is away, and where others' marks or rules lead it astray.
//!
//! Where a mark leads nowhere the tables `ip` and `ip6 millrace-own` send a copy into the trunk, and drop the packet. (That needs the kernel's `nft_dup_ipv4` and `nft_dup_ipv6`,
//! which are of one family each; without them such packets are left alone.)
//!
//! * What a pod in `fenced` sends to the node itself: the kernel would deliver it before it asks any rule. It comes back, is delivered, and its answers, which are of a
//!   connection that came out of the trunk, go the same way. Answers to the node pass.
//! * What stays on one device: a bridge switches it, and shows it here if `net.bridge.bridge-nf-call-iptables` is set, as Kubernetes has it. It comes back routed, and the
//!   kernel tracks it nowhere: `links` has the networks behind one device each.
//!
//! Left alone is what a bridge does not show, and what a pod sends to an address that rules of others translate, since they would have to see its answers on the same way.
//!
//! The table outlives a killed engine, and its successor's start until that has tables: sets are never empty in between.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Settings, nft};

pub(super) const TABLE: &str = "inet millrace-pods";
/// The tables of one family.
const OWN: [(&str, bool); 2] = [("ip millrace-own", true), ("ip6 millrace-own", false)];

/// Addresses, from the first to the last.
pub type Range = (IpAddr, IpAddr);

/// Pods of this node whose packets come here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// All of them, whoever the packets are from or for.
    pub led: BTreeSet<Range>,
    /// Those whose packets pass nowhere else.
    pub closed: BTreeSet<Range>,
    /// Networks that are behind one device of the kernel's each.
    pub links: BTreeSet<IpNet>,
    /// Those that policies may keep from this node itself.
    pub fenced: BTreeSet<Range>,
}

/// Of prefixes, of which the longest counts for an address, those that `is` holds for: ranges, in order.
pub fn ranges<T>(
    rows: impl Iterator<Item = (IpNet, T)>,
    is: impl Fn(&T) -> bool,
) -> BTreeSet<Range> {
    let mut ranges = BTreeSet::new();
    let (v4, v6): (Vec<_>, Vec<_>) =
        rows.map(|(net, row)| (net, is(&row))).partition(|(net, _)| net.addr().is_ipv4());
    for mut rows in [v4, v6] {
        // An outer prefix stands before those within it.
        rows.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
        let mut open: Vec<(IpNet, bool)> = Vec::new();
        // The first address that nothing has been said of yet.
        let mut next = 0u128;
        let mut say = |from: u128, to: u128, like: &IpNet| {
            _ = ranges.insert((address(from, like), address(to, like)));
        };
        for (net, is) in &rows {
            close(&mut open, &mut next, Some(first(net)), &mut say);
            if let Some((outer, true)) = open.last()
                && next < first(net)
            {
                say(next, first(net) - 1, outer);
            }
            next = first(net);
            open.push((*net, *is));
        }
        close(&mut open, &mut next, None, &mut say);
    }
    ranges
}

/// Ends the prefixes that end before `until`.
fn close(
    open: &mut Vec<(IpNet, bool)>,
    next: &mut u128,
    until: Option<u128>,
    say: &mut impl FnMut(u128, u128, &IpNet),
) {
    while let Some((net, is)) = open.last().copied() {
        let last = bits(&net.broadcast());
        if until.is_some_and(|until| until <= last) {
            return;
        }
        if is && *next <= last {
            say(*next, last, &net);
        }
        // Of the last of all addresses nothing follows that is looked at.
        *next = last.saturating_add(1);
        open.pop();
    }
}

fn first(net: &IpNet) -> u128 {
    bits(&net.network())
}

fn bits(addr: &IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u128::from(addr.to_bits()),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

fn address(bits: u128, like: &IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => IpAddr::V4((bits as u32).into()),
        IpNet::V6(_) => IpAddr::V6(bits.into()),
    }
}

/// The table as a script. Sets that are there keep what they have.
pub(super) fn table(settings: &Settings) -> String {
    let Settings { name, mark, .. } = settings;
    let others = !mark;
    let mut script = format!("add table {TABLE}\n");
    for (set, kind) in
        [("led4", "ipv4"), ("led6", "ipv6"), ("closed4", "ipv4"), ("closed6", "ipv6")]
    {
        let _ = writeln!(
            script,
            "add set {TABLE} {set} {{ type {kind}_addr; flags interval; auto-merge; }}"
        );
    }
    let on_link = "fib daddr . iif oif exists accept";
    let chains = [
        ("untracked", "type filter hook prerouting priority raw + 5; policy accept;"),
        ("untracked-from", ""),
        ("steer", "type filter hook prerouting priority dstnat + 10; policy accept;"),
        ("steer-to", ""),
        ("steer-from", ""),
        ("closed", "type filter hook forward priority filter - 10; policy accept;"),
        ("closed-to", ""),
        ("closed-from", ""),
    ];
    for (chain, kind) in chains {
        let kind = if kind.is_empty() { String::new() } else { format!(" {{ {kind} }}") };
        let _ = write!(script, "add chain {TABLE} {chain}{kind}\nflush chain {TABLE} {chain}\n");
    }
    let old_answer =
        format!("meta l4proto tcp ct direction reply ct mark and {mark:#x} == 0 accept");
    for (chain, rules) in [
        (
            "untracked",
            vec![
                format!("iifname {{ \"lo\", \"{name}\" }} accept"),
                "ip saddr @led4 goto untracked-from".into(),
                "ip6 saddr @led6 goto untracked-from".into(),
            ],
        ),
        (
            "untracked-from",
            vec![
                "fib daddr type != unicast accept".into(),
                format!("fib daddr oifname \"{name}\" accept"),
                on_link.into(),
                format!("meta mark set meta mark or {mark:#x}"),
                format!("fib daddr . mark oifname \"{name}\" notrack"),
                format!("meta mark set meta mark and {others:#x}"),
            ],
        ),
        (
            "steer",
            vec![
                format!("iifname {{ \"lo\", \"{name}\" }} accept"),
                "ip daddr @led4 goto steer-to".into(),
                "ip6 daddr @led6 goto steer-to".into(),
                "ip saddr @led4 goto steer-from".into(),
                "ip6 saddr @led6 goto steer-from".into(),
            ],
        ),
        (
            "steer-to",
            vec![
                "fib daddr type != unicast accept".into(),
                on_link.into(),
                old_answer.clone(),
                format!("meta mark set meta mark or {mark:#x}"),
            ],
        ),
        (
            "steer-from",
            vec![
                "ct status dnat accept".into(),
                "fib daddr type != unicast accept".into(),
                on_link.into(),
                format!("meta mark set meta mark or {mark:#x}"),
            ],
        ),
        (
            "closed",
            vec![
                format!("iifname \"{name}\" accept"),
                format!("oifname \"{name}\" accept"),
                "ip daddr @closed4 goto closed-to".into(),
                "ip6 daddr @closed6 goto closed-to".into(),
                "ip saddr @closed4 goto closed-from".into(),
                "ip6 saddr @closed6 goto closed-from".into(),
            ],
        ),
        ("closed-to", vec![on_link.into(), old_answer, "counter drop".into()]),
        (
            "closed-from",
            vec![on_link.into(), "ct status dnat accept".into(), "counter drop".into()],
        ),
    ] {
        for rule in rules {
            let _ = writeln!(script, "add rule {TABLE} {chain} {rule}");
        }
    }
    script
}

/// The tables that send copies, for the families that the trunk has.
pub(super) fn own_tables(settings: &Settings) -> String {
    let mut script = String::new();
    let name = &settings.name;
    for (table, v4) in OWN {
        let Some(engine) = settings.own().find(|addr| addr.is_ipv4() == v4) else { continue };
        let (ip, kind) = if v4 { ("ip", "ipv4") } else { ("ip6", "ipv6") };
        let _ = writeln!(script, "add table {table}");
        for set in ["led", "fenced"] {
            let _ = writeln!(
                script,
                "add set {table} {set} {{ type {kind}_addr; flags interval; auto-merge; }}"
            );
        }
        let _ = writeln!(
            script,
            "add set {table} links {{ type {kind}_addr . {kind}_addr; flags interval; }}"
        );
        let hook = |priority: i32| {
            format!(" {{ type filter hook prerouting priority {priority}; policy accept; }}")
        };
        for (chain, kind) in [
            ("untracked", hook(-295)),
            ("untracked-beside", String::new()),
            ("copied", hook(-90)),
            ("copied-beside", String::new()),
            ("copied-own", String::new()),
        ] {
            let _ =
                write!(script, "add chain {table} {chain}{kind}\nflush chain {table} {chain}\n");
        }
        let elsewhere = format!("iifname {{ \"lo\", \"{name}\" }} accept");
        let back = format!("iifname \"{name}\" {ip} saddr . {ip} daddr @links notrack");
        // Who has which MAC is between neighbors, and never sent on.
        let kinds = "nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert";
        let neighbors = (!v4).then(|| format!("icmpv6 type {{ {kinds} }} accept"));
        let to = |chain: &str| {
            [format!("{ip} saddr @led goto {chain}"), format!("{ip} daddr @led goto {chain}")]
        };
        let copy = [format!("dup to {engine} device \"{name}\""), "drop".into()];
        let on_link = ["fib daddr type != unicast accept", "fib daddr . iif oif missing accept"];
        let on_link = on_link.map(String::from);
        let own = [format!("{ip} saddr != @fenced accept"), "ct direction reply accept".into()];
        for (chain, rules) in [
            ("untracked", [&[back, elsewhere.clone()][..], &to("untracked-beside")].concat()),
            ("untracked-beside", [&on_link[..], &["notrack".into()]].concat()),
            ("copied", [&[elsewhere][..], neighbors.as_slice(), &to("copied-beside")].concat()),
            (
                "copied-beside",
                [
                    &["fib daddr type local goto copied-own".into()][..],
                    &on_link,
                    &["ct status dnat accept".into()],
                    &copy,
                ]
                .concat(),
            ),
            ("copied-own", [&own[..], &copy].concat()),
        ] {
            for rule in rules {
                let _ = writeln!(script, "add rule {table} {chain} {rule}");
            }
        }
    }
    script
}

/// Whether these tables are there.
pub(super) fn has_own(settings: &Settings) -> bool {
    let mut wanted = OWN.iter().filter(|(_, v4)| settings.own().any(|addr| addr.is_ipv4() == *v4));
    wanted.all(|(table, _)| nft::lists(table))
}

/// Replaces their sets.
pub(super) fn own_sets(settings: &Settings, pods: &Pods) -> String {
    let mut script = String::new();
    for (table, v4) in OWN {
        if !settings.own().any(|addr| addr.is_ipv4() == v4) {
            continue;
        }
        for (set, ranges) in [("led", &pods.led), ("fenced", &pods.fenced)] {
            let _ = writeln!(script, "flush set {table} {set}");
            for range in ranges.iter().filter(|(from, _)| from.is_ipv4() == v4) {
                let _ = writeln!(script, "add element {table} {set} {{ {} }}", element(range));
            }
        }
        let _ = writeln!(script, "flush set {table} links");
        for net in pods.links.iter().filter(|net| net.addr().is_ipv4() == v4) {
            let _ = writeln!(script, "add element {table} links {{ {net} . {net} }}");
        }
    }
    script
}

/// As nft writes a range.
fn element((from, to): &Range) -> String {
    if from == to { from.to_string() } else { format!("{from}-{to}") }
}

/// Replaces the sets.
pub(super) fn sets(pods: &Pods) -> String {
    let mut script = String::new();
    for (set, ranges) in [("led", &pods.led), ("closed", &pods.closed)] {
        for version in [4, 6] {
            let _ = writeln!(script, "flush set {TABLE} {set}{version}");
        }
        for range in ranges {
            let version = if range.0.is_ipv4() { 4 } else { 6 };
            let _ = writeln!(script, "add element {TABLE} {set}{version} {{ {} }}", element(range));
        }
    }
    script
}

/// Removes the table, if it is there.
pub(super) fn gone() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

/// Removes those about the node itself, if they are there.
pub(super) fn own_gone() -> String {
    OWN.iter().map(|(table, _)| format!("table {table}\ndelete table {table}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[(&str, bool)]) -> Vec<String> {
        let rows = rows.iter().map(|(net, is)| (net.parse::<IpNet>().unwrap(), *is));
        ranges(rows, |is| *is).into_iter().map(|(from, to)| format!("{from}-{to}")).collect()
    }

    #[test]
    fn the_longest_prefix_of_an_address_says_what_it_is() {
        assert_eq!(of(&[("10.1.0.0/24", false), ("10.1.0.5/32", true)]), ["10.1.0.5-10.1.0.5"]);
        let unknown = [
            ("10.1.0.0/29", true),
            ("10.1.0.1/32", false),
            ("10.1.0.4/32", true),
            ("10.1.0.6/31", false),
        ];
        assert_eq!(
            of(&unknown),
            ["10.1.0.0-10.1.0.0", "10.1.0.2-10.1.0.3", "10.1.0.4-10.1.0.4", "10.1.0.5-10.1.0.5"]
        );
        let nested =
            [("0.0.0.0/0", true), ("255.255.255.0/24", false), ("255.255.255.255/32", true)];
        assert_eq!(of(&nested), ["0.0.0.0-255.255.254.255", "255.255.255.255-255.255.255.255"]);
        let v6 = [("fd00::/126", true), ("fd00::2/127", false), ("10.0.0.0/32", true)];
        assert_eq!(of(&v6), ["10.0.0.0-10.0.0.0", "fd00::-fd00::1"]);
        assert_eq!(of(&[]), Vec::<String>::new());
    }

    #[test]
    fn ranges_hold_what_a_lookup_by_longest_prefix_finds() {
        // All addresses of a /24 against a search, in worlds by chance.
        let mut seed = 7u64;
        let mut random = move |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..500 {
            let mut rows: Vec<(IpNet, bool)> = Vec::new();
            for _ in 0..random(12) {
                let text = format!("10.0.0.{}/{}", random(256), 24 + random(9));
                let net = text.parse::<IpNet>().unwrap().trunc();
                if rows.iter().all(|(other, _)| *other != net) {
                    rows.push((net, random(2) == 1));
                }
            }
            let found = ranges(rows.iter().copied(), |is| *is);
            for last in 0..=255u8 {
                let addr = IpAddr::from([10, 0, 0, last]);
                let longest = rows
                    .iter()
                    .filter(|(net, _)| net.contains(&addr))
                    .max_by_key(|(net, _)| net.prefix_len());
                let inside = found.iter().filter(|(from, to)| *from <= addr && addr <= *to).count();
                assert_eq!(
                    inside,
                    usize::from(longest.is_some_and(|(_, is)| *is)),
                    "{addr} {rows:?}"
                );
            }
        }
    }

    #[test]
    fn the_table_keeps_its_sets_and_names_trunk_and_mark() {
        let script = table(&Settings::default());
        assert!(!script.contains("flush set") && !script.contains("delete"), "{script}");
        for needle in [
            "steer-to meta mark set meta mark or 0x1000",
            "untracked-from meta mark set meta mark and 0xffffefff",
            "fib daddr . mark oifname \"millrace0\" notrack",
            "closed-from counter drop",
        ] {
            assert!(script.contains(needle), "{needle} in\n{script}");
        }
    }

    #[test]
    fn what_is_for_the_node_is_led_by_family() {
        let script = own_tables(&Settings::default());
        for needle in [
            "ip millrace-own copied-own dup to 169.254.77.1 device \"millrace0\"",
            "ip6 millrace-own copied-beside dup to fd4d:696c:6c72::1 device \"millrace0\"",
            "ip6 millrace-own copied icmpv6 type",
        ] {
            assert!(script.contains(needle), "{needle} in\n{script}");
        }
        assert!(!script.contains("ip millrace-own copied icmpv6"), "{script}");
        let mut settings = Settings::default();
        settings.addresses.truncate(1);
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let fenced = BTreeSet::from([
            (addr("10.1.0.5"), addr("10.1.0.5")),
            (addr("fd00::"), addr("fd00::1")),
        ]);
        let links = BTreeSet::from(["10.1.0.0/24", "fd00::/64"].map(|net| net.parse().unwrap()));
        let sets = own_sets(&settings, &Pods { fenced, links, ..Pods::default() });
        assert!(!own_tables(&settings).contains("ip6") && !sets.contains("ip6"), "{sets}");
        for needle in ["fenced { 10.1.0.5 }", "links { 10.1.0.0/24 . 10.1.0.0/24 }"] {
            let line = format!("add element ip millrace-own {needle}\n");
            assert!(sets.contains(&line), "{line} in\n{sets}");
        }
    }

    #[test]
    fn sets_are_replaced_as_a_whole() {
        let none = sets(&Pods::default());
        assert_eq!(none.matches("flush set").count(), 4);
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let led = BTreeSet::from([
            (addr("10.1.0.5"), addr("10.1.0.5")),
            (addr("fd00::"), addr("fd00::ff")),
        ]);
        let script = sets(&Pods { led, ..Pods::default() });
        assert!(script.contains("millrace-pods led4 { 10.1.0.5 }"), "{script}");
        assert!(script.contains("millrace-pods led6 { fd00::-fd00::ff }"), "{script}");
    }
}
