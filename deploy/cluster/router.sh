# Sourced by run.sh: an engine that is its network's router, and masquerades pods that leave the cluster; no kernel's NAT anywhere.
#
#   r-pod1 10.61.1.2 ── pod1 ─┐   (4000 bytes)
#                             ├─ r-engine ── uplink 10.62.0.1 ── r-gate 10.62.0.2, 10.63.0.1 ── (route of 1300 bytes) ── r-out 10.63.0.2
#   r-pod2 10.61.2.2 ── pod2 ─┘
#
# IPv6 is the same with fd61:1::2, fd62::1, fd63::2.

# router_wire DEVICE NAMESPACE NET4 NET6 MTU: the far end has .2, the engine .1.
router_wire() {
    ip netns add "$(ns "$2")"
    at r-engine ip link add "$1" type veth peer name eth0 netns "$(ns "$2")"
    at r-engine sysctl -qw "net.ipv6.conf.$1.disable_ipv6=1"
    at r-engine ip link set "$1" mtu "$5" up
    at "$2" ip link set lo up
    at "$2" sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    at "$2" ip addr add "$3.2/24" dev eth0
    at "$2" ip addr add "$4::2/64" dev eth0 nodad
    at "$2" ip link set eth0 mtu "$5" up
    at "$2" ip route add default via "$3.1"
    at "$2" ip route add default via "$4::1"
}

router_build() {
    ip netns add "$(ns r-engine)"
    router_wire pod1 r-pod1 10.61.1 fd61:1 4000
    router_wire pod2 r-pod2 10.61.2 fd61:2 4000
    router_wire uplink r-gate 10.62.0 fd62 1500
    ip netns add "$(ns r-out)"
    at r-out ip link set lo up
    at r-out sysctl -qw net.ipv6.conf.default.accept_dad=0
    at r-gate ip link add out type veth peer name eth0 netns "$(ns r-out)"
    at r-gate ip addr add 10.63.0.1/24 dev out
    at r-gate ip addr add fd63::1/64 dev out nodad
    at r-gate ip link set out up
    at r-out ip addr add 10.63.0.2/24 dev eth0
    at r-out ip addr add fd63::2/64 dev eth0 nodad
    at r-out ip link set eth0 up
    at r-out ip route add default via 10.63.0.1
    at r-out ip route add default via fd63::1
    at r-gate sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    at r-gate ip route add 10.63.0.2 dev out mtu lock 1300
    at r-gate ip route add fd63::2 dev out mtu lock 1300
    # Answers go to the address that the flows have outside; who shows another is not found.
    at r-gate ip route del default
    at r-gate ip -6 route del default
    cat >"$work/router.toml" <<END
mode = "router"
socket = "$work/router.sock"
$(engine_sizes 0)
[[interface]]
name = "pod1"
addresses = ["10.61.1.1/24", "fd61:1::1/64"]
[[interface]]
name = "pod2"
addresses = ["10.61.2.1/24", "fd61:2::1/64"]
[[interface]]
name = "uplink"
addresses = ["10.62.0.1/24", "fd62::1/64"]
END
    cat >"$work/router-control.toml" <<END
engine = "$work/router.sock"
[masquerade]
sources = ["10.61.0.0/16", "fd61::/16"]
except = ["10.61.0.0/16", "fd61::/16"]
[[route]]
prefix = "0.0.0.0/0"
via = "10.62.0.2"
[[route]]
prefix = "::/0"
via = "fd62::2"
END
    mkdir "$work/router-manifests"
    ip netns exec "$(ns r-engine)" "$bin/millrace-dataplane" --config "$work/router.toml" 2>>"$work/router.log" &
    runs $!
    ip netns exec "$(ns r-engine)" "$bin/millrace-control" --config "$work/router-control.toml" --manifests "$work/router-manifests" 2>>"$work/router-control.log" &
    runs $!
    serve r-out out 8080
    serve r-pod2 two 8080
}

# echoes FROM ADDRESS: ten questions under an identifier that others have too.
echoes() { at "$1" ping -e 4711 -c 10 -i 0.05 -W 1 "$2" | grep loss; }

# both_echo ADDRESS: from both pods at once; what each got, and how many different identifiers came out of the engine.
both_echo() {
    local log
    log=$(mktemp "$work/echo.XXXXXX")
    echoes r-pod1 "$1" >"$log" &
    echoes r-pod2 "$1"
    wait $!
    cat "$log"
}

router() {
    local out
    step "a router that masquerades what leaves"
    router_build
    if within 10 reaches_out; then good "pods reach the outside"; else bad "pods reach the outside" "$(tail -qn 5 "$work/router.log" "$work/router-control.log")"; fi
    for out in 10.63.0.2 fd63::2; do
        local as=10.62.0.1 gate=10.62.0.2 hop=10.61.1.1
        [[ $out == *:* ]] && as=fd62::1 gate=fd62::2 hop=fd61:1::1
        check "$out: as the router, TCP" "out $as" tcp r-pod1 "$out" 8080
        check "$out: UDP" "out $as" udp r-pod2 "$out" 8080
        check "$out: two pods with one echo identifier each get ten answers" "10 packets transmitted, 10 received, 0% packet loss[^+]*
10 packets transmitted, 10 received, 0% packet loss[^+]*" both_echo "$out"
        check "$out: a port without a process refuses" refused udp r-pod1 "$out" 8099
        check "$out: an echo too big for the way is told so" ".*mtu.? ?=? ?1300.*" too_big r-pod1 "$out"
        forget r-pod2
        check "$out: 1 MiB up, over a narrower link" ".* 1048576" upload r-pod2 "$out" 8080
        check "$out: which the pod's kernel has learned" "mtu 1300" mtu r-pod2 "$out"
        check "$out: traceroute" "$hop $gate $out" hops r-pod1 "$out"
        check "$out: traceroute with echoes" "$hop $gate $out" hops r-pod1 "$out" -I
        check "$out: traceroute with TCP" "$hop $gate $out" hops r-pod1 "$out" -T -p 8080
    done
    # Bigger than the uplink, and no DF: cut up by the engine, and once more by the gate.
    forget r-pod1
    check "a big datagram that may be cut arrives whole" "out 10.62.0.1 3900" loose r-pod1 10.63.0.2 8080 3900
    check "pods see each other as they are" "two 10.61.1.2" tcp r-pod1 10.61.2.2 8080
    check "in IPv6" "two fd61:1::2" udp r-pod1 fd61:2::2 8080
    check "the engine's books balance" "true" balanced
}

loose() { at "$1" python3 -IS "$here/peer.py" loose "$2" "$3" "$4"; }
reaches_out() { at r-pod1 ping -c 1 -W 1 10.63.0.2 && at r-pod1 ping -c 1 -W 1 fd63::2 && [[ $(tcp r-pod2 10.63.0.2 8080) == out* && $(tcp r-pod2 fd63::2 8080) == out* ]]; }
too_big() { at "$1" ping -M do -s 1400 -c 3 -i 0.2 -W 1 "$2" | tr '\n' ' '; }
hops() {
    local from=$1 to=$2
    shift 2
    at "$from" traceroute -n -q 1 -w 1 -m 6 "$@" "$to" | sed -n 's/^ *[0-9]*  *\([^ ]*\).*/\1/p' | tr '\n' ' ' | sed 's/ $//'
}
balanced() { "$bin/millrace" show counters --json --socket "$work/router.sock" | python3 -c 'import json, sys; print(str(json.load(sys.stdin)["balanced"]).lower())'; }
