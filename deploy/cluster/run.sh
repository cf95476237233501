#!/usr/bin/env bash
# A cluster of three nodes, each with a kernel's stack of its own, an engine in service-proxy mode and a control process, and two pods
# behind a plain bridge; and a client outside. Every kind of Service is asked from everywhere, on real packets.
#
#   client 10.40.0.9 ─┬─ node-1 10.40.0.1 ── cni0 10.41.1.1/24 ─┬─ pod a 10.41.1.11
#                     │    millrace0 ── engine                  └─ pod b 10.41.1.12
#                     ├─ node-2, node-3: the same
#
# IPv6 is the same with fd40:: and fd41:N::. Needs root, python3, curl and nftables. Exit status: 0 when every check held.
#
#   run.sh [--short] [--keep]    --short: each kind of check once, for `make test`; --keep: leaves all of it there, and says how to enter
#
# MILLRACE_BIN names the folder of the binaries (default: target/release of this repository).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${MILLRACE_BIN:-$here/../../target/release}
export PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C
. "$here/manifests.sh"
. "$here/proxy.sh"

short=no keep=no
for argument in "$@"; do
    case $argument in
    --short) short=yes ;;
    --keep) keep=yes ;;
    *)
        echo "usage: $0 [--short] [--keep]" >&2
        exit 2
        ;;
    esac
done

prefix=millrace-cluster-$$
work=$(mktemp -d "${TMPDIR:-/tmp}/$prefix-XXXXXX")
nodes=(1 2 3)
declare -A engine control
pids=()
failed=0 held=0 finished=no

ns() { echo "$prefix-$1"; }

clean_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    if [[ $keep == yes ]]; then
        echo "namespaces $prefix-*, logs in $work; the engines run on: kill ${pids[*]:-}; for n in \$(ip netns list | grep -o '$prefix-[^ ]*'); do ip netns del \$n; done"
        exit "$status"
    fi
    ((${#pids[@]} == 0)) || kill -9 "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    local name
    for name in $(ip netns list | grep -o "^$prefix-[^ ]*"); do
        ip netns del "$name" 2>/dev/null || true
    done
    if [[ $finished == yes ]] && ((failed == 0)); then
        rm -rf "$work"
    else
        echo "logs are kept in $work"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# at NAME COMMAND…: in a namespace of ours.
at() {
    local name
    name=$(ns "$1")
    shift
    ip netns exec "$name" "$@"
}

step() { printf '\n%s\n' "$*"; }

good() {
    held=$((held + 1))
    [[ -n ${quiet:-} ]] || printf '  ✓ %s\n' "$1"
}
bad() {
    failed=$((failed + 1))
    printf '  ✗ %s\n' "$1"
    printf '%s\n' "${2:-}" | sed 's/^/      /'
}

# check WHAT PATTERN COMMAND…: whether the command's output matches the whole pattern.
check() {
    local what=$1 pattern=$2 said status=0
    shift 2
    said=$("$@" 2>&1) || status=$?
    if [[ $said =~ ^($pattern)$ ]]; then
        good "$what"
    else
        bad "$what" "wanted $pattern; got (status $status): $said"
    fi
}

# within SECONDS COMMAND…: until it holds, or the time is over.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

bracketed() { if [[ $1 == *:* ]]; then echo "[$1]"; else echo "$1"; fi; }

# tcp FROM ADDRESS PORT [PATH]: who answers, and as whom we were seen; `refused` or `silence` where nobody does.
tcp() {
    local status=0
    at "$1" curl -s --max-time "${patience:-2}" "http://$(bracketed "$2"):$3${4:-/}" | sed 's/ 0$//' || status=$?
    case $status in
    0) ;;
    7) echo refused ;;
    28) echo silence ;;
    *) echo "curl: $status" ;;
    esac
}
udp() { at "$1" python3 "$here/peer.py" ask udp "$2" "$3" ${4:-} | sed 's/ [0-9]*$//'; }
sctp() { at "$1" python3 "$here/peer.py" ask sctp "$2" "$3"; }

# ------------------------------------------------------------------------------------------- the cluster

build() {
    ip netns add "$(ns lan)"
    at lan ip link add lan0 type bridge
    at lan sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 2>/dev/null || true
    at lan ip link set lan0 up
    local node pod
    attach client 10.40.0.9/24 fd40::9/64
    for node in "${nodes[@]}"; do
        attach "node-$node" "10.40.0.$node/24" "fd40::$node/64"
        at "node-$node" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        # What distributions set, and what makes service traffic that comes back oddly disappear.
        at "node-$node" sysctl -qw net.ipv4.conf.all.rp_filter=2
        at "node-$node" ip link add cni0 type bridge
        at "node-$node" ip addr add "10.41.$node.1/24" dev cni0
        at "node-$node" ip addr add "fd41:$node::1/64" dev cni0 nodad
        at "node-$node" ip link set cni0 up
        for pod in a b; do
            pod "$node" $pod
        done
        # What a CNI plugin does for pods that leave the cluster.
        at "node-$node" nft -f - <<'END'
table inet cni {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.41.0.0/16 ip daddr != 10.41.0.0/16 masquerade
    ip6 saddr fd41::/16 ip6 daddr != fd41::/16 masquerade
  }
}
END
    done
    for node in "${nodes[@]}"; do
        local other
        for other in "${nodes[@]}"; do
            [[ $node == "$other" ]] && continue
            at "node-$node" ip route add "10.41.$other.0/24" via "10.40.0.$other"
            at "node-$node" ip route add "fd41:$other::/64" via "fd40::$other"
        done
    done
    # Nobody is there; but a process asks for no address that leads nowhere.
    for node in "${nodes[@]}"; do
        at "node-$node" ip route add default via 10.40.0.254
        at "node-$node" ip route add default via fd40::254
    done
    # Whoever announces them leads load balancer addresses to node 1, external ones to node 2.
    at client ip route add 10.42.0.0/24 via 10.40.0.1
    at client ip route add fd42::/64 via fd40::1
    at client ip route add 10.42.1.0/24 via 10.40.0.2
}

# attach NAME ADDRESS4 ADDRESS6: a host on the LAN.
attach() {
    ip netns add "$(ns "$1")"
    at "$1" ip link set lo up
    at "$1" ip link add eth0 type veth peer name "to-$1" netns "$(ns lan)"
    at lan ip link set "to-$1" master lan0 up
    at "$1" sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    at "$1" ip addr add "$2" dev eth0
    at "$1" ip addr add "$3" dev eth0 nodad
    at "$1" ip link set eth0 up
}

# pod NODE LETTER
pod() {
    local name=pod-$1-$2 host=11
    [[ $2 == b ]] && host=12
    ip netns add "$(ns "$name")"
    at "$name" ip link set lo up
    at "$name" sysctl -qw net.ipv6.conf.default.accept_dad=0
    at "$name" ip link add eth0 type veth peer name "veth-$2" netns "$(ns "node-$1")"
    at "node-$1" ip link set "veth-$2" master cni0 up
    # A pod that is sent its own packet back has it switched out of the port that it came in by.
    at "node-$1" bridge link set dev "veth-$2" hairpin on
    at "$name" ip addr add "10.41.$1.$host/24" dev eth0
    at "$name" ip addr add "fd41:$1::$host/64" dev eth0 nodad
    at "$name" ip link set eth0 up
    at "$name" ip route add default via "10.41.$1.1"
    at "$name" ip route add default via "fd41:$1::1"
    serve "$name" "$1$2" 8080
}

# serve NAMESPACE NAME PORT…
serve() {
    local namespace=$1
    shift
    ip netns exec "$(ns "$namespace")" python3 "$here/peer.py" serve "$@" 2>>"$work/peers.log" &
    pids+=($!)
}

start_engine() {
    local node=$1
    cat >"$work/engine-$node.toml" <<END
mode = "service-proxy"
socket = "$work/engine-$node.sock"
[workers]
cpus = [$((node % $(nproc)))]
mode = "adaptive"
[umem]
frames = 2048
[conntrack]
entries = 4096
[[interface]]
name = "eth0"
END
    # Not by `at`: the process is to be our own child.
    ip netns exec "$(ns "node-$node")" "$bin/millrace-dataplane" --config "$work/engine-$node.toml" 2>>"$work/engine-$node.log" &
    engine[$node]=$!
    pids+=($!)
}

start_control() {
    local node=$1
    cat >"$work/control-$node.toml" <<END
engine = "$work/engine-$node.sock"
node = "node-$node"
END
    ip netns exec "$(ns "node-$node")" "$bin/millrace-control" --config "$work/control-$node.toml" --manifests "$work/manifests" \
        --cluster-cidr 10.41.0.0/16,fd41::/16 --service-cidr 10.43.0.0/16,fd43::/112 2>>"$work/control-$node.log" &
    control[$node]=$!
    pids+=($!)
}

is_ready() { [[ $(patience=0.5 tcp "$1" "$2" "$3") =~ ^[123][ab] ]]; }

# ------------------------------------------------------------------------------------------- the checks

one="[123][ab]"

# What any source gets of any Service: asked as the node, as a pod, from outside. ADDRESS PORT is where; SEEN as whom.
kinds() {
    local from
    local inside=(pod-1-a pod-1-b node-1 node-3)
    [[ $short == yes ]] && inside=(pod-1-b node-1)

    step "cluster IPs, from pods and nodes"
    for from in "${inside[@]}"; do
        check "$from: TCP to the cluster IP" "$one .*" tcp "$from" 10.43.0.10 80
        check "$from: UDP to the cluster IP" "$one .*" udp "$from" 10.43.0.10 53
        check "$from: TCP, IPv6" "$one .*" tcp "$from" fd43::10 80
        check "$from: UDP, IPv6" "$one .*" udp "$from" fd43::10 53
    done
    check "a pod's address is seen by a pod of another node" "2a 10.41.1.12" tcp pod-1-b 10.43.0.15 80
    check "the same over UDP" "2a 10.41.1.12" udp pod-1-b 10.43.0.15 53
    check "the same in IPv6" "2a fd41:1::12" tcp pod-1-b fd43::15 80
    check "a node's process is seen as its node" "2a 10.40.0.1" tcp node-1 10.43.0.15 80
    check "a pod reaches itself through its Service" "1a 10.41.1.1" tcp pod-1-a 10.43.0.14 80
    check "and in IPv6" "1a fd41:1::1" tcp pod-1-a fd43::14 80
    check "a pod is answered by its neighbor on the bridge" "1a .*" tcp pod-1-b 10.43.0.14 80
    check "over UDP too" "1a .*" udp pod-1-b 10.43.0.14 53

    step "node ports and addresses from outside, on every node"
    local node
    for node in "${nodes[@]}"; do
        for from in client pod-1-b node-1; do
            [[ $short == yes && $from == client && $node == 3 ]] && continue
            check "$from: TCP to node $node's port" "$one .*" tcp "$from" "10.40.0.$node" 30080
            check "$from: UDP to node $node's port" "$one .*" udp "$from" "10.40.0.$node" 30080
        done
        check "client: TCP to node $node's port, IPv6" "$one .*" tcp client "fd40::$node" 30080
    done
    for from in client pod-1-b node-1; do
        check "$from: the load balancer's address" "$one .*" tcp "$from" 10.42.0.10 80
        check "$from: the external address" "$one .*" tcp "$from" 10.42.1.10 80
    done
    check "client: the load balancer's IPv6 address" "$one .*" tcp client fd42::10 80
    check "a client's source is hidden by the cluster policy" "2a 10.40.0.1" tcp client 10.40.0.1 30085

    step "traffic policies, affinity"
    check "local policy: the node's own pod, and the client's address" "1a 10.40.0.9" tcp client 10.40.0.1 30081
    check "over UDP" "1a 10.40.0.9" udp client 10.40.0.1 30081
    check "on another node that node's pod" "2a 10.40.0.9" tcp client 10.40.0.2 30081
    check "the load balancer's address of it" "1a 10.40.0.9" tcp client 10.42.0.11 80
    patience=1 check "without a pod of it there is silence" silence tcp client 10.40.0.3 30081
    check "a pod is short-circuited to the whole cluster" "$one .*" tcp pod-3-a 10.42.0.11 80
    check "internal policy: the node's own" "1b .*" tcp pod-1-a 10.43.0.12 80
    patience=1 check "and silence where there is none" silence tcp pod-3-a 10.43.0.12 80
    local first again
    for from in pod-1-b client; do
        local where=(10.43.0.13 80)
        [[ $from == client ]] && where=(10.40.0.3 30083)
        first=$(tcp $from "${where[@]}")
        for again in 1 2 3 4 5; do
            check "$from keeps its backend ($again)" "${first%% *} .*" tcp $from "${where[@]}"
        done
    done

    step "backends on nodes' own addresses, and outside"
    for from in client pod-1-b pod-2-a node-1 node-2; do
        local where=10.43.0.16 tcp=80 udp=53
        [[ $from == client ]] && where=10.40.0.1 tcp=30086 udp=30086
        check "$from: a backend on node 2's own address" "node-2 .*" tcp $from $where $tcp
        check "$from: over UDP" "node-2 .*" udp $from $where $udp
    done
    check "the client's address is seen where it goes to the node that it asked" "node-2 10.40.0.9" tcp client 10.40.0.2 30086
    check "a pod that leaves the cluster is masqueraded by its CNI" "outside 10.40.0.1" tcp pod-1-b 10.43.0.19 80
    check "a node's process keeps its node's address" "outside 10.40.0.1" tcp node-1 10.43.0.19 80

    step "nothing behind it"
    for from in pod-1-b node-1; do
        check "$from: a Service without endpoints refuses" refused tcp $from 10.43.0.17 80
        check "$from: a port that is none refuses" refused tcp $from 10.43.0.10 81
        patience=1 check "$from: a cluster address of nobody is silent" silence tcp $from 10.43.0.200 80
    done
    check "client: a node port without endpoints refuses" refused tcp client 10.40.0.1 30087

    step "the kernel's own traffic"
    check "client reaches a socket of node 1" "node-1 10.40.0.9" tcp client 10.40.0.1 9090
    check "a pod reaches a socket of its node" "node-1 10.41.1.12" tcp pod-1-b 10.40.0.1 9090
    check "a pod reaches a pod of another node" "2a 10.41.1.12" tcp pod-1-b 10.41.2.11 8080
    check "a pod reaches its neighbor" "1a 10.41.1.12" tcp pod-1-b 10.41.1.11 8080
    check "pods reach the outside as their node" "outside 10.40.0.1" tcp pod-1-b 10.40.0.9 9090
    check "a node reaches a pod of another node" "2a 10.40.0.1" tcp node-1 10.41.2.11 8080
    check "ping, pod to pod" ".* 0% packet loss.*" ping_of pod-1-b 10.41.2.11
    check "ping, node to pod" ".* 0% packet loss.*" ping_of node-1 10.41.2.12

    step "size"
    for from in pod-1-b client; do
        local where=(10.43.0.15 80)
        [[ $from == client ]] && where=(10.40.0.1 30085)
        check "$from: 4 MiB down" 4194304 size_of $from "$(bracketed "${where[0]}"):${where[1]}"
        check "$from: 1 MiB up" ".* 1048576" upload $from "${where[@]}"
        check "$from: a datagram in fragments" "2a .*" udp $from "${where[0]}" "$([[ $from == client ]] && echo 30085 || echo 53)" 4000
    done
    if python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)' 2>/dev/null; then
        for from in client pod-1-b node-1; do
            check "$from: SCTP" "$one .*" sctp $from 10.40.0.1 30080
        done
    else
        echo "  – SCTP: this kernel has no SCTP sockets; the engine's tests send the packets themselves"
    fi
}

# What an engine has put into the kernel of a node.
traces() {
    at "node-$1" ip -o link show millrace0 2>/dev/null
    at "node-$1" ip rule show | grep 'proto 77'
    at "node-$1" ip -6 rule show | grep 'proto 77'
    at "node-$1" ip route show table all proto 77
    at "node-$1" ip -6 route show table all proto 77
    at "node-$1" nft list tables | grep millrace
    true
}

# stop_engine NODE SIGNAL
stop_engine() {
    kill "-$2" "${engine[$1]}"
    wait "${engine[$1]}" 2>/dev/null || true
}

is_gone() { ! at "node-$1" ip link show millrace0; }

# All of it, with what is in the nftables table.
all_traces() {
    traces 1
    at node-1 nft list table inet millrace | tr -d '\n\t ' | sed 's/elements={[^}]*}/\n&\n/g' | tr ',' '\n' | sort
}
is_whole() { [[ $(all_traces) == "$whole" ]]; }

# What others do to the rules of a node, by accident: a second engine, a firewall's flush, a network manager.
disturb() {
    local said whole
    # Until its routes and the set of node ports are there.
    within 5 eval '[[ $(all_traces) == *10.40.0.1.* && $(all_traces) == *10.43.0.0/16* ]]' || bad "node ports and the ServiceCIDR are led to the engine" "$(all_traces)"
    whole=$(all_traces)
    sed 's/engine-1.sock/second.sock/; $a[trunk]\nname = "second0"' "$work/engine-1.toml" >"$work/second.toml"
    said=$(timeout 20 ip netns exec "$(ns node-1)" "$bin/millrace-dataplane" --config "$work/second.toml" 2>&1) && bad "a second engine is refused" "$said"
    if [[ $said == *"another engine runs"* ]] && is_whole; then good "a second engine is refused, and takes nothing away"; else bad "a second engine is refused, and takes nothing away" "$said"; fi
    at node-1 nft delete table inet millrace
    at node-1 ip rule del pref 76
    at node-1 ip -6 rule del pref 77
    at node-1 ip route flush table 7701
    at node-1 ip route flush table 7700
    if within 10 is_whole; then good "what others take away is put back"; else bad "what others take away is put back" "$(diff <(echo "$whole") <(all_traces))"; fi
    check "and the engine serves" "$one .*" tcp pod-1-b 10.43.0.10 80
}

serves() { within 20 is_ready "pod-$1-a" "${2:-10.43.0.10}" 80; }

crash() {
    step "an engine that is killed, and one that ends"
    stop_engine 1 KILL
    if within 5 is_gone 1; then good "the trunk goes with its process"; else bad "the trunk goes with its process" "$(traces 1)"; fi
    check "the node is reached" "node-1 10.40.0.9" tcp client 10.40.0.1 9090
    check "its pods are reached" "1a 10.41.2.12" tcp pod-2-b 10.41.1.11 8080
    check "its pods reach others" "2a 10.41.1.12" tcp pod-1-b 10.41.2.11 8080
    check "other nodes serve" "2a 10.41.2.1" tcp client 10.40.0.2 30085
    at node-1 "$bin/millrace-dataplane" --config "$work/engine-1.toml" --cleanup 2>>"$work/cleanup.log" || bad "--cleanup" "$(tail -n 3 "$work/cleanup.log")"
    check "--cleanup leaves nothing" "" traces 1
    at node-1 "$bin/millrace-dataplane" --config "$work/engine-1.toml" --cleanup 2>>"$work/cleanup.log" || bad "--cleanup again" "$(tail -n 3 "$work/cleanup.log")"
    start_engine 1
    if serves 1; then good "a new engine serves"; else bad "a new engine serves" "$(tail -qn 3 "$work/engine-1.log")"; fi
    disturb
    if [[ $short == yes ]]; then
        stop_engine 1 TERM
        check "one that ends by itself leaves nothing" "" traces 1
        return
    fi
    stop_engine 1 KILL
    start_engine 1
    if serves 1; then good "and one that finds what the last has left"; else bad "and one that finds what the last has left" "$(tail -qn 3 "$work/engine-1.log")"; fi
    stop_engine 1 TERM
    check "one that ends by itself leaves nothing" "" traces 1
    start_engine 1
    if serves 1; then good "and serves again"; else bad "and serves again" "$(tail -qn 3 "$work/engine-1.log")"; fi
}

received() { "$bin/millrace" show counters --json --socket "$work/engine-1.sock" | python3 -c 'import json, sys; print(sum(worker["rx"] for worker in json.load(sys.stdin)["workers"]))'; }

answers() { [[ $(patience=0.5 tcp "$@") =~ ^$one ]]; }

# soon WHAT FROM ADDRESS PORT: whether it answers within five seconds.
soon() {
    local what=$1
    shift
    if within 5 answers "$@"; then good "$what"; else bad "$what" "$(tcp "$@")"; fi
}

changes() {
    step "the node changes"
    sleep 1
    local before after
    before=$(received)
    tcp client 10.40.0.1 9090 >/dev/null
    tcp node-1 10.40.0.2 9090 >/dev/null
    after=$(received)
    # Either has ten packets; a late one of somebody else's may come by.
    if ((after - before < 5)); then good "the node's own connections pass no engine"; else bad "the node's own connections pass no engine" "$((after - before)) packets"; fi
    at node-1 ip addr add 10.40.0.51/24 dev eth0
    soon "a new address of the node has node ports" client 10.40.0.51 30080
    soon "and for its own pods" pod-1-b 10.40.0.51 30080
    at node-1 ip addr del 10.40.0.51/24 dev eth0
    at node-1 ip addr del 10.40.0.1/24 dev eth0
    sleep 0.2
    at node-1 ip addr add 10.40.0.1/24 dev eth0
    at node-1 ip route add 10.41.2.0/24 via 10.40.0.2
    at node-1 ip route add 10.41.3.0/24 via 10.40.0.3
    at node-1 ip route add default via 10.40.0.254
    soon "the node's address goes and comes back: its processes" node-1 10.43.0.15 80
    soon "its pods" pod-1-b 10.43.0.15 80
    soon "node ports" client 10.40.0.1 30085
    at node-1 ip neigh flush dev eth0
    check "neighbors are forgotten: its pods" "2a 10.41.1.12" tcp pod-1-b 10.43.0.15 80
    check "node ports" "2a 10.40.0.1" tcp client 10.40.0.1 30085
    local ports="http:8080:TCP dns:8080:UDP sigtran:8080:SCTP"
    {
        service late NodePort 20 30090
        both late 3a
    } >"$work/late.yaml"
    mv "$work/late.yaml" "$work/manifests/"
    soon "a new Service" pod-1-b 10.43.0.20 80
    soon "its node port, from outside" client 10.40.0.1 30090
    soon "and from this node" node-1 10.40.0.1 30090
    rm "$work/manifests/late.yaml"
    if within 5 is_refused; then good "its node port is closed when it goes"; else bad "its node port is closed when it goes" "$(tcp node-1 10.40.0.1 30090)"; fi
}

is_refused() { [[ $(patience=0.5 tcp node-1 10.40.0.1 30090) == refused ]]; }

# slowly FROM ADDRESS PORT: 4 MiB within about four seconds, in the background; prints the name of the file that says how many came.
slowly() {
    local to
    to=$(mktemp "$work/slow.XXXXXX")
    at "$1" curl -s --max-time 30 --limit-rate 1M -o /dev/null -w '%{size_download}' "http://$2:$3/big" >"$to" 2>/dev/null &
    slow+=("$!:$to")
}

# arrived WHAT: whether all that was asked for slowly came.
arrived() {
    local it
    for it in "${slow[@]}"; do
        wait "${it%%:*}" 2>/dev/null || true
        check "$1" 4194304 cat "${it#*:}"
    done
    slow=()
}

# What is to work at any moment of a hand-over.
works() {
    check "$1: a pod" "2a 10.41.1.12" tcp pod-1-b 10.43.0.15 80
    check "$1: the node" "2a 10.40.0.1" tcp node-1 10.43.0.15 80
    check "$1: a node port, from outside" "2a 10.40.0.1" tcp client 10.40.0.1 30085
    check "$1: a node port, from a pod" "2a 10.40.0.1" tcp pod-1-b 10.40.0.1 30085
}

hand_over() {
    local slow=()
    step "from kube-proxy with $1 to the engine, and back"
    stop_engine 1 TERM
    "proxy_$1" 1
    works "kube-proxy alone"
    slowly pod-1-b 10.43.0.15 80
    slowly node-1 10.43.0.15 80
    start_engine 1
    # By an address of which kube-proxy's rules know nothing here; other cluster IPs they drop.
    if serves 1 10.42.0.10; then good "the engine serves beside it"; else bad "the engine serves beside it" "$(tail -qn 3 "$work/engine-1.log")"; fi
    works "both"
    "proxy_$1_gone" 1
    works "the engine alone"
    arrived "a connection that began with kube-proxy goes on"
    slowly pod-1-b 10.43.0.15 80
    slowly node-1 10.43.0.15 80
    sleep 0.5
    "proxy_$1" 1
    works "both again"
    arrived "a connection that began with the engine goes on"
    stop_engine 1 TERM
    works "kube-proxy alone again"
    "proxy_$1_gone" 1
    start_engine 1
    if serves 1; then good "the engine again"; else bad "the engine again" "$(tail -qn 3 "$work/engine-1.log")"; fi
}

ping_of() { at "$1" ping -c 2 -i 0.2 -W 1 "$2" | grep loss; }
size_of() { at "$1" curl -s --max-time 20 -o /dev/null -w '%{size_download}' "http://$2/big"; }
upload() { head -c 1048576 /dev/zero | at "$1" curl -s --max-time 20 --data-binary @- -H 'Expect:' "http://$(bracketed "$2"):$3/"; }

mkdir "$work/manifests"
manifests >"$work/manifests/cluster.yaml"
step "three nodes, six pods, a client"
build
serve node-1 node-1 9090
serve node-2 node-2 9090
serve client outside 9090
for node in "${nodes[@]}"; do
    start_engine "$node"
    start_control "$node"
done
for node in "${nodes[@]}"; do
    if within 20 is_ready "pod-$node-a" 10.43.0.10 80; then good "node $node serves"; else
        bad "node $node serves" "$(tail -qn 5 "$work/engine-$node.log" "$work/control-$node.log")"
    fi
done
((failed == 0)) || exit 1
kinds
crash
if [[ $short == no ]]; then
    changes
    hand_over nftables
    if command -v iptables-legacy-restore >/dev/null; then
        hand_over iptables
    else
        echo "  – hand-over from iptables rules: no iptables-legacy-restore here"
    fi
fi

finished=yes
step "$held checks held, $failed failed, in $SECONDS s"
((failed == 0))
