# Sourced by run.sh: the machines: a LAN, a client on it, nodes with a bridge for their pods, and what runs on them.

nodes=(1 2 3)
declare -A engine control

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
        masquerade_pods "$node"
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

# masquerade_pods NODE: what a CNI plugin does for pods that leave the cluster.
masquerade_pods() {
    at "node-$1" nft -f - <<'END'
table inet cni {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.41.0.0/16 ip daddr != 10.41.0.0/16 masquerade
    ip6 saddr fd41::/16 ip6 daddr != fd41::/16 masquerade
  }
}
END
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
    serve "$name" "$1$2" 8080 8081
    serve_sctp "$name" "$1$2" 8080 "10.41.$1.$host" "fd41:$1::$host"
}

# serve NAMESPACE NAME PORT…
serve() {
    local namespace=$1
    shift
    ip netns exec "$(ns "$namespace")" python3 "$here/peer.py" serve "$@" 2>>"$work/peers.log" &
    runs $!
}

# serve_sctp NAMESPACE NAME PORT ADDRESS…
serve_sctp() {
    local namespace=$1
    shift
    ip netns exec "$(ns "$namespace")" python3 "$here/sctp.py" serve "$@" 2>>"$work/peers.log" &
    runs $!
}

# engine_sizes CPU: what engines of one worker have here, as configuration.
engine_sizes() {
    cat <<END
[workers]
cpus = [$1]
mode = "adaptive"
[umem]
frames = 2048
[conntrack]
entries = 4096
END
}

start_engine() {
    local node=$1
    cat >"$work/engine-$node.toml" <<END
mode = "service-proxy"
socket = "$work/engine-$node.sock"
$(engine_sizes $((node % $(nproc))))
[[interface]]
name = "eth0"
${more:-}
END
    # Not by `at`: the process is to be our own child.
    ip netns exec "$(ns "node-$node")" "$bin/millrace-dataplane" --config "$work/engine-$node.toml" 2>>"$work/engine-$node.log" &
    engine[$node]=$!
    runs $!
}

# stop_engine NODE SIGNAL
stop_engine() {
    kill "-$2" "${engine[$1]}"
    wait "${engine[$1]}" 2>/dev/null || true
}

start_control() {
    local node=$1
    cat >"$work/control-$node.toml" <<END
engine = "$work/engine-$node.sock"
node = "node-$node"
${control_more:-}
END
    # shellcheck disable=SC2086
    ip netns exec "$(ns "node-$node")" "$bin/millrace-control" --config "$work/control-$node.toml" --manifests "$work/manifests" \
        ${cidr---cluster-cidr 10.41.0.0/16,fd41::/16} --service-cidr 10.43.0.0/16,fd43::/112 --healthz-bind-address 0.0.0.0:10256 2>>"$work/control-$node.log" &
    control[$node]=$!
    runs $!
}

is_ready() { [[ $(patience=0.5 tcp "$1" "$2" "$3") =~ ^[123][ab] ]]; }

serves() { within 20 is_ready "pod-$1-a" "${2:-10.43.0.10}" 80; }

# All of it, until every node serves.
raise() {
    local node
    mkdir "$work/manifests"
    manifests >"$work/manifests/cluster.yaml"
    for node in "${nodes[@]}"; do
        node "$node" >"$work/manifests/node-$node.yaml"
    done
    step "three nodes, six pods, a client"
    build
    serve node-1 node-1 9090
    serve node-2 node-2 9090
    serve client outside 9090
    serve_sctp client outside 9090 10.40.0.9 fd40::9
    serve_sctp node-2 node-2 9090 10.40.0.2 fd40::2
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
    prepared=$SECONDS
}
