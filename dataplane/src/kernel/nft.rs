//! The nftables table `inet millrace`: what keeps a connection's two directions together where the kernel routes by destination alone.
//!
//! Static but for the sets of node ports. What leads isolated pods' packets here is another table, [`super::pods`]. Written by one call of `nft`, whose transactions are atomic. What each chain is for:
//!
//! * `guard`: nobody but the engine speaks from or to the trunk's addresses on other links, and nobody on another link from an IPv6 address of
//!   this node (from an IPv4 one the kernel refuses by itself). What the kernel is only to send on it does not track: seen now and then
//!   from the middle of a flow, it would be given another source by a CNI's masquerade, or be out of window.
//! * `from-trunk`, `own-answers`: a connection that came out of the trunk is marked; its answers, from pods or from this node's own sockets, go
//!   back into the trunk by the rule for marked packets. What the engine hands on unopened comes from a MAC of its own and
//!   is treated as what came by the wire. What the kernel's conntrack takes for invalid (late, out of window, errors about what it has not tracked)
//!   goes into the trunk as well: the engine translates it if it knows the flow, and sends it on as it is if not. A reset of this node's own
//!   stack to a segment that was meant for a translated connection would end that, and is dropped.
//! * `to-node-ports`, `own-to-node-ports`: who asks on this node for a port of one of its addresses is sent to the engine's own address, since
//!   the kernel would deliver it here.
//! * `leaving`: what goes into the trunk keeps its source whatever rules of others say, since it is the engine that decides on that; what comes
//!   from the engine's own address gets one that answers find, and so passes for a connection of this node.
//!
//! Priorities lie ten before those of others' NAT, so that these rules decide first; a connection that others have translated
//! before keeps that, so that what began with kube-proxy ends with it. Marks are given ten after others' (`CONNMARK --restore-mark` without a mask gives
//! packets of a marked connection the mark in both directions: what comes out of the trunk would be led into it again).

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use super::netlink::explain;
use super::{HANDED_ON_MAC, ONWARD_MAC, Settings, Surroundings};
use crate::snat::Ports;

const TABLE: &str = "inet millrace";

/// The table as a script. It replaces one that is there.
pub(super) fn table(settings: &Settings, surroundings: &Surroundings) -> String {
    let Surroundings { uplinks, overflow } = surroundings;
    let Settings { name, mark, .. } = settings;
    let (handed_on, onward, others) = (HANDED_ON_MAC, ONWARD_MAC, !mark);
    let quoted = |names: &mut dyn Iterator<Item = &String>| -> String {
        names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
    };
    // What is not beyond an uplink is on this node.
    let beyond = quoted(&mut uplinks.iter().chain([&"lo".to_owned()]));
    let engine: Vec<(&str, &str, String)> = settings
        .own()
        .map(|addr| {
            let family = if addr.is_ipv4() { "ip" } else { "ip6" };
            (family, set_of(&addr), addr.to_string())
        })
        .collect();
    let each = |rule: &dyn Fn(&str, &str, &str) -> String| -> String {
        engine.iter().map(|(family, ports, addr)| rule(family, ports, addr)).collect()
    };
    let guard = each(&|ip, _, addr| {
        format!(
            "    iifname != \"{name}\" {ip} daddr {addr} drop\n    iifname != \"{name}\" {ip} saddr {addr} drop\n"
        )
    });
    let translate = |from: &str| {
        each(&|ip, ports, addr| {
            format!("    {from}{ip} daddr . meta l4proto . th dport @{ports} dnat {ip} to {addr}\n")
        })
    };
    let (node_ports, own_node_ports) =
        (translate(&format!("iifname != \"{name}\" ")), translate(""));
    let out = quoted(&mut uplinks.iter());
    let leave = each(&|ip, _, addr| {
        let mut rules = String::new();
        // Each stays in its range, so that none becomes a node port or one that uplinks give to the engine.
        for (first, last) in overflow.iter().flat_map(Ports::ranges) {
            let _ = writeln!(
                rules,
                "    oifname {{ {out} }} {ip} saddr {addr} meta l4proto {{ tcp, udp, sctp }} th sport {first}-{last} masquerade to :{first}-{last}"
            );
        }
        rules
            + &format!(
                "    {ip} saddr {addr} masquerade\n    oifname \"{name}\" snat {ip} to {ip} saddr\n"
            )
    });
    format!(
        "table {TABLE}
delete table {TABLE}
table {TABLE} {{
  set node-ports4 {{
    type ipv4_addr . inet_proto . inet_service
  }}
  set node-ports6 {{
    type ipv6_addr . inet_proto . inet_service
  }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
{guard}    iifname \"{name}\" ether saddr {onward} notrack
    iifname != {{ \"lo\", \"{name}\" }} meta nfproto ipv6 ip6 daddr != ff00::/8 fib saddr type local drop
  }}
  chain from-trunk {{
    type filter hook prerouting priority mangle + 10; policy accept;
    iifname \"{name}\" meta mark and {mark:#x} != 0 meta mark set meta mark and {others:#x}
    iifname \"{name}\" ether saddr != {handed_on} ct state new ct mark set ct mark or {mark:#x}
    iifname \"{name}\" ether saddr != {handed_on} accept
    ct direction reply ct mark and {mark:#x} != 0 meta mark set meta mark or {mark:#x}
    ct state invalid iifname != {{ {beyond} }} goto stray
  }}
  chain own-answers {{
    type route hook output priority mangle + 10; policy accept;
    ct direction reply ct mark and {mark:#x} != 0 meta mark set meta mark or {mark:#x}
    ct state invalid oifname != {{ {beyond} }} tcp flags & rst == rst drop
    ct state invalid goto stray
  }}
  chain stray {{
    ip6 daddr fe80::/10 accept
    fib daddr type unicast meta mark set meta mark or {mark:#x}
  }}
  chain to-node-ports {{
    type nat hook prerouting priority dstnat - 10; policy accept;
{node_ports}  }}
  chain own-to-node-ports {{
    type nat hook output priority -110; policy accept;
{own_node_ports}  }}
  chain leaving {{
    type nat hook postrouting priority srcnat - 10; policy accept;
{leave}  }}
}}
"
    )
}

/// The set of node ports of an address's family.
fn set_of(addr: &IpAddr) -> &'static str {
    if addr.is_ipv4() { "node-ports4" } else { "node-ports6" }
}

/// Replaces the sets of node ports: address, protocol number and port.
pub(super) fn node_ports<'a>(ports: impl Iterator<Item = &'a (IpAddr, u8, u16)>) -> String {
    let mut script = String::new();
    for set in ["node-ports4", "node-ports6"] {
        let _ = writeln!(script, "flush set {TABLE} {set}");
    }
    for (addr, protocol, port) in ports {
        let set = set_of(addr);
        let _ = writeln!(script, "add element {TABLE} {set} {{ {addr} . {protocol} . {port} }}");
    }
    script
}

/// Removes the table, if it is there. Adding it first makes deleting it succeed.
pub(super) fn gone() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

/// Whether the table is there.
pub(super) fn is_there() -> bool {
    lists(TABLE)
}

/// Whether a table is there.
pub(super) fn lists(table: &str) -> bool {
    let listed = Command::new("nft").args(["-t", "list", "table"]).args(table.split(' ')).output();
    listed.is_ok_and(|listed| listed.status.success())
}

/// Has `nft` do it, all or nothing.
pub(super) fn run(script: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(explain("starting nft (nftables' program, which service-proxy mode needs)"))?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends early says why below.
        let _ = input.write_all(script.as_bytes());
    }
    let ended = child.wait_with_output()?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let first = said.lines().next().unwrap_or("no reason given");
    Err(io::Error::other(format!("nft refused a table of ours: {first}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_the_trunk_its_addresses_and_the_mark() {
        let overflow = Ports::new(&[1024..=29_999, 32_768..=60_999], &[]);
        let surroundings = Surroundings { uplinks: vec!["eth0".into(), "eth1".into()], overflow };
        let script = table(&Settings::default(), &surroundings);
        for needle in [
            "iifname != \"millrace0\" ip daddr 169.254.77.1 drop",
            "dnat ip6 to fd4d:696c:6c72::1",
            "ip saddr 169.254.77.1 masquerade",
            "oifname { \"eth0\", \"eth1\" } ip6 saddr fd4d:696c:6c72::1 meta l4proto { tcp, udp, sctp } th sport 1024-29999 masquerade to :1024-29999",
            "ct mark or 0x1000",
            "ether saddr != 02:4d:52:00:00:03",
            "iifname \"millrace0\" ether saddr 02:4d:52:00:00:04 notrack",
            "ct state invalid iifname != { \"eth0\", \"eth1\", \"lo\" } goto stray",
        ] {
            assert!(script.contains(needle), "{needle} in\n{script}");
        }
    }

    #[test]
    fn node_ports_are_replaced_as_a_whole() {
        let none = "flush set inet millrace node-ports4\nflush set inet millrace node-ports6\n";
        assert_eq!(node_ports([].iter()), none);
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let two = node_ports([(addr("192.0.2.1"), 6, 30080), (addr("::5"), 132, 30081)].iter());
        let added = "add element inet millrace node-ports4 { 192.0.2.1 . 6 . 30080 }
add element inet millrace node-ports6 { ::5 . 132 . 30081 }
";
        assert_eq!(two, format!("{none}{added}"));
    }
}
