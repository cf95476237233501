//! Services and their endpoints, as each device under test takes them: manifests for ours, rules as kube-proxy writes them for Linux.
//!
//! Service `s` answers on 172.20.0.0 + s, UDP port 53; its four endpoints are pods of 64 nodes, port 5353. The rules follow kube-proxy
//! 1.31 and later in its nftables and iptables modes, as for one cluster IP a service, a cluster CIDR that the clients are in
//! (so nothing is masqueraded), no node ports and no affinity. Chains have shorter names; names cost nothing per packet.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Endpoints of each service.
const ENDPOINTS: usize = 4;
/// The port of services.
pub const PORT: u16 = 53;
/// The port of endpoints.
pub const TARGET: u16 = 5353;
/// Where the nodes' pods are.
pub const PODS: &str = "10.64.0.0/10";
/// Clients and pods.
const CLUSTER: &str = "10.0.0.0/8";
/// The first service's address.
pub const FIRST: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 0);
/// The first endpoint's address.
pub const FIRST_POD: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

/// Services in a transaction of nftables. Ten thousand in one hold a core for most of a minute, and the kernel logs a lockup.
const TRANSACTION: usize = 500;

/// The protocol of services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Protocol {
    /// UDP: what nearly all trials send.
    #[default]
    Udp,
    /// TCP.
    Tcp,
}

impl Protocol {
    /// As in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    /// Rules and manifests that were written for UDP, for this protocol.
    pub fn written(self, text: &str) -> String {
        match self {
            Self::Udp => text.to_owned(),
            Self::Tcp => text.replace("udp", "tcp").replace("UDP", "TCP"),
        }
    }
}

/// The address of a service.
fn vip(service: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + service as u32)
}

/// The address of an endpoint.
fn endpoint(service: usize, k: usize) -> Ipv4Addr {
    let number = service * ENDPOINTS + k;
    Ipv4Addr::from(u32::from(FIRST_POD) + ((number % 64) * 1024 + number / 64) as u32)
}

/// Scripts for `nft -f`, each to be a transaction of its own.
pub fn nftables(services: usize) -> Vec<String> {
    let mut scripts = vec![nftables_base()];
    let numbers: Vec<usize> = (0..services).collect();
    scripts.extend(numbers.chunks(TRANSACTION).map(nftables_part));
    scripts
}

fn nftables_base() -> String {
    let service = "type ipv4_addr . inet_proto . inet_service : verdict;";
    let node = "type inet_proto . inet_service : verdict;";
    format!(
        "table ip kube-proxy {{
  set cluster-ips {{ type ipv4_addr; }}
  set nodeport-ips {{ type ipv4_addr; }}
  map service-ips {{ {service} }}
  map service-nodeports {{ {node} }}
  map no-endpoint-services {{ {service} }}
  map no-endpoint-nodeports {{ {node} }}
  map firewall-ips {{ {service} }}
  chain mark-for-masquerade {{
    meta mark set meta mark or 0x4000
  }}
  chain masquerading {{
    meta mark & 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }}
  chain cluster-ips-check {{
    ip daddr @cluster-ips reject
    ip daddr 172.20.0.0/16 drop
  }}
  chain firewall-check {{
    ip daddr . meta l4proto . th dport vmap @firewall-ips
  }}
  chain service-endpoints-check {{
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
  }}
  chain nodeport-endpoints-check {{
    ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
  }}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }}
  chain filter-prerouting-pre-dnat {{
    type filter hook prerouting priority -110; policy accept;
    ct state new jump firewall-check
  }}
  chain filter-input {{
    type filter hook input priority -110; policy accept;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority -110; policy accept;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority -100; policy accept;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority 100; policy accept;
    jump masquerading
  }}
}}
"
    )
}

fn nftables_part(services: &[usize]) -> String {
    let mut text = String::from("table ip kube-proxy {\n");
    for &s in services {
        let mut choices = Vec::new();
        for k in 0..ENDPOINTS {
            let pod = endpoint(s, k);
            let _ = writeln!(
                text,
                "  chain endpoint-{s}-{k} {{
    ip saddr {pod} jump mark-for-masquerade
    meta l4proto udp dnat to {pod}:{TARGET}
  }}"
            );
            choices.push(format!("{k} : goto endpoint-{s}-{k}"));
        }
        let _ = writeln!(
            text,
            "  chain service-{s} {{
    ip daddr {} udp dport {PORT} ip saddr != {CLUSTER} jump mark-for-masquerade
    numgen random mod {ENDPOINTS} vmap {{ {} }}
  }}",
            vip(s),
            choices.join(", ")
        );
    }
    text += "}\n";
    let addresses: Vec<String> = services.iter().map(|&s| vip(s).to_string()).collect();
    let ways: Vec<String> =
        services.iter().map(|&s| format!("{} . udp . {PORT} : goto service-{s}", vip(s))).collect();
    let _ = writeln!(text, "add element ip kube-proxy cluster-ips {{ {} }}", addresses.join(", "));
    let _ = writeln!(text, "add element ip kube-proxy service-ips {{ {} }}", ways.join(", "));
    text
}

/// Input of `iptables-legacy-restore`.
pub fn iptables(services: usize) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for s in 0..services {
        let (vip, service) = (vip(s), format!("KUBE-SVC-{s:016}"));
        let _ = writeln!(chains, ":{service} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {vip}/32 -p udp -m comment --comment \"default/dns-{s}:dns cluster IP\" -m udp --dport {PORT} -j {service}
-A {service} ! -s {CLUSTER} -d {vip}/32 -p udp -m comment --comment \"default/dns-{s}:dns cluster IP\" -m udp --dport {PORT} -j KUBE-MARK-MASQ"
        );
        for k in 0..ENDPOINTS {
            let (pod, chain) = (endpoint(s, k), format!("KUBE-SEP-{:016}", s * ENDPOINTS + k));
            // Each takes its share of what those before it have left.
            let share = match ENDPOINTS - k {
                1 => String::new(),
                left => {
                    format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64)
                }
            };
            let comment = format!("-m comment --comment \"default/dns-{s}:dns -> {pod}:{TARGET}\"");
            let _ = writeln!(chains, ":{chain} - [0:0]");
            let _ = writeln!(
                rules,
                "-A {service} {comment}{share} -j {chain}
-A {chain} -s {pod}/32 {comment} -j KUBE-MARK-MASQ
-A {chain} -p udp {comment} -m udp -j DNAT --to-destination {pod}:{TARGET}"
            );
        }
    }
    format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
{chains}-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
{rules}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"
    )
}

/// Service and EndpointSlice objects.
pub fn manifests(services: usize) -> String {
    let mut text = String::new();
    for s in 0..services {
        let pods: Vec<String> = (0..ENDPOINTS)
            .map(|k| format!("{{addresses: [{}], conditions: {{ready: true}}}}", endpoint(s, k)))
            .collect();
        let _ = write!(
            text,
            "apiVersion: v1
kind: Service
metadata: {{name: dns-{s}, namespace: default}}
spec:
  clusterIP: {vip}
  clusterIPs: [{vip}]
  ipFamilies: [IPv4]
  ports: [{{name: dns, port: {PORT}, protocol: UDP, targetPort: {TARGET}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: dns-{s}-1, namespace: default, labels: {{kubernetes.io/service-name: dns-{s}}}}}
addressType: IPv4
ports: [{{name: dns, port: {TARGET}, protocol: UDP}}]
endpoints: [{pods}]
---
",
            vip = vip(s),
            pods = pods.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_transaction_of_nftables_has_more_than_500_services() {
        let scripts = nftables(1001);
        assert_eq!(scripts.len(), 4);
        let services = |script: &String| script.matches("  chain service-").count();
        assert_eq!(scripts[1..].iter().map(services).collect::<Vec<_>>(), [500, 500, 1]);
        let last = &scripts[3];
        assert!(last.contains("172.20.3.232 . udp . 53 : goto service-1000"));
        assert_eq!(last.matches("dnat to").count(), 4);
    }

    #[test]
    fn every_chain_of_iptables_that_is_jumped_to_is_declared() {
        let text = iptables(3);
        for table in text.split("COMMIT") {
            let declared: HashSet<&str> = table
                .lines()
                .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
                .collect();
            for line in table.lines().filter(|line| line.starts_with("-A")) {
                let target = line.split(" -j ").nth(1).unwrap().split(' ').next().unwrap();
                assert!(!target.starts_with("KUBE") || declared.contains(target), "{line}");
            }
        }
        assert_eq!(text.matches("-j DNAT").count(), 12);
        // A quarter, a third of the rest, half of that, the last.
        assert_eq!(text.matches("--probability 0.3333333333").count(), 3);
    }

    #[test]
    fn what_is_written_for_tcp_has_no_udp_in_it() {
        let all = nftables(2).concat() + &iptables(2) + &manifests(2);
        assert!(all.contains("udp") && all.contains("UDP"));
        let tcp = Protocol::Tcp.written(&all);
        assert!(!tcp.to_lowercase().contains("udp"));
        assert!(
            tcp.contains("-p tcp") && tcp.contains("protocol: TCP") && tcp.contains(". tcp . 53")
        );
        assert_eq!(Protocol::Udp.written(&all), all);
    }

    #[test]
    fn endpoints_are_all_different_and_pods() {
        let net: ipnet::Ipv4Net = PODS.parse().unwrap();
        let all: Vec<_> =
            (0..10_000).flat_map(|s| (0..ENDPOINTS).map(move |k| endpoint(s, k))).collect();
        assert!(all.iter().all(|pod| net.contains(pod)));
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn manifests_have_two_documents_a_service() {
        let text = manifests(2);
        assert_eq!(text.matches("\n---\n").count(), 4);
        assert!(text.contains("clusterIP: 172.20.0.1\n"));
        assert!(text.contains("addresses: [10.64.16.1]"));
    }
}
