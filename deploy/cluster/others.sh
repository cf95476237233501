# Sourced by run.sh: what others do on a node beside the engine: marks, a CNI that masquerades by itself, segments out of window, forged sources, routing rules.

raw() { at "$1" python3 "$here/raw.py" "${@:2}"; }

# A neighbor that the kernel has forgotten, again and again: packets to it go by way of the kernel until it is known.
forget_neighbor() {
    local count
    for ((count = 0; count < $2; count++)); do
        at node-1 ip neigh del "$1" dev eth0 2>/dev/null || true
        at node-1 ip neigh add "$1" lladdr 02:00:00:00:00:99 dev eth0 nud failed 2>/dev/null || true
        at node-1 ip neigh del "$1" dev eth0 2>/dev/null || true
        sleep 0.2
    done
}

# Another that marks packets as their connection is marked, all bits of it: what comes out of the trunk must not be led into it again.
restores_marks() {
    step "marks that others restore without a mask"
    at node-1 nft -f - <<'END'
table inet restorer {
  chain prerouting {
    type filter hook prerouting priority mangle; policy accept;
    ct mark != 0 meta mark set ct mark
  }
}
END
    local from
    for from in pod-1-b node-1; do
        check "$from: to a pod of this node" "1a .*" tcp "$from" 10.43.0.14 80
        check "$from: to another node" "2a .*" tcp "$from" 10.43.0.15 80
    done
    check "a client outside, to this node" "1a 10.40.0.9" tcp client 10.40.0.1 30081
    at node-1 nft delete table inet restorer
}

masquerades() {
    step "a CNI that masquerades whatever leaves its node"
    at node-1 nft -f - <<'END'
table inet ipmasq {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.41.1.0/24 ip daddr != 10.41.1.0/24 ip daddr != 224.0.0.0/4 masquerade
    ip6 saddr fd41:1::/64 ip6 daddr != fd41:1::/64 ip6 daddr != ff00::/8 masquerade
  }
}
END
    local slow=() count
    for count in $([[ $short == yes ]] && echo 1 || echo 1 2 3); do
        at node-1 ip neigh flush dev eth0
        check "a pod keeps its source when its next hop is not known ($count)" "2a 10.41.1.12" tcp pod-1-b 10.43.0.15 80
        at node-1 ip neigh flush dev eth0
        check "over UDP ($count)" "2a 10.41.1.12" udp pod-1-b 10.43.0.15 53
        at node-1 ip -6 neigh flush dev eth0
        check "in IPv6 ($count)" "2a fd41:1::12" udp pod-1-b fd43::15 53
    done
    if [[ $short == no ]]; then
        slowly pod-1-b 10.43.0.15 80
        forget_neighbor 10.40.0.2 15
        arrived "a connection lives through next hops that come and go"
    fi
    check "what leaves the cluster is masqueraded still" "outside 10.40.0.1" tcp pod-1-b 10.43.0.19 80
    at node-1 nft delete table inet ipmasq
}

# booms WHAT POD DEVICE FROM ADDRESS PORT SEEN: a segment that is far out of window, in the middle of a connection.
booms() {
    local slow=() watched asked
    watched=$(mktemp "$work/watch.XXXXXX") asked=$(mktemp "$work/boom.XXXXXX")
    raw "$4" watch "$3" 5 >"$watched" &
    raw "$2" boom eth0 8080 5 >"$asked" 2>&1 &
    local boomer=$!
    within 5 grep -q ready "$watched" && within 5 grep -q ready "$asked" || bad "$1" "$(cat "$asked")"
    slowly "$4" "$(bracketed "$5")" "$6"
    wait "$boomer" || bad "$1" "$(cat "$asked")"
    sleep 0.5
    check "$1: translated or dropped" "ready$7" eval "tr '\n' ' ' <'$watched' | sed 's/ $//'"
    arrived "$1: the connection lives"
}

invalid() {
    step "answers that the kernel's conntrack takes for invalid"
    booms "a client outside" pod-1-a eth0 client 10.40.0.1 30081 " 10.40.0.1 30081 10.40.0.9 [0-9]*"
    [[ $short == no ]] || return 0
    booms "a pod on the same bridge" pod-1-a eth0 pod-1-b 10.43.0.14 80 "( 10.43.0.14 80 10.41.1.12 [0-9]*)?"
    booms "a pod on another node" pod-2-a eth0 pod-1-b 10.43.0.15 80 " 10.43.0.15 80 10.41.1.12 [0-9]*"
    booms "IPv6, a pod on another node" pod-2-a eth0 pod-1-b fd43::15 80 " fd43::15 80 fd41:1::12 [0-9]*"
}

forged() {
    step "sources that are the node's own"
    local before after
    at client ip route add fd43::/112 via fd40::1
    check "IPv6 to a cluster IP is served" "$one .*" udp client fd43::10 53
    sleep 0.5
    before=$(received)
    raw client udp fd40::1 fd43::10 53
    raw pod-1-b udp fd40::1 fd43::10 53
    raw client udp fd41:1::1 fd42::10 53
    sleep 0.5
    after=$(received)
    if ((after - before < 10)); then good "a forged one reaches no Service"; else bad "a forged one reaches no Service" "$((after - before)) packets of 60"; fi
}

# Of the engine's source ports there are three, and one of them has a process.
few_ports() {
    step "more masqueraded flows to one backend than the engine has source ports"
    stop_engine 1 TERM
    serve node-1 node-1 61001
    sleep 0.5
    more=$'[snat]\nports = ["61000-61002"]' start_engine 1
    if serves 1; then good "an engine with few ports"; else bad "an engine with few ports" "$(tail -qn 3 "$work/engine-1.log")"; fi
    local slow=() count kept
    for count in 1 2 3 4 5 6 7 8; do slowly client 10.40.0.1 30085; done
    sleep 1
    check "a client beside eight others" "2a 10.40.0.1" tcp client 10.40.0.1 30085
    check "over UDP" "2a 10.40.0.1" udp client 10.40.0.1 30085
    kept=$("$bin/millrace" show conntrack --json --socket "$work/engine-1.sock" | grep -o '"snat_port": *6100[0-9]' | sort -u | grep -o '[0-9]*$' | tr '\n' ' ')
    if [[ $kept == "61000 61002 " ]]; then good "a port that a process listens on is no source port"; else bad "a port that a process listens on is no source port" "$kept"; fi
    check "that process is reached" "node-1 10.40.0.9" tcp client 10.40.0.1 61001
    arrived "each of eight connections at once"
    stop_engine 1 TERM
    start_engine 1
    if serves 1; then good "and one with the usual ports"; else bad "and one with the usual ports" "$(tail -qn 3 "$work/engine-1.log")"; fi
}

# A second NIC of node 1 that leads to a client far away, whom the default route of the first does not reach.
two_uplinks() {
    step "two uplinks, each with a default route of its own"
    stop_engine 1 TERM
    ip netns add "$(ns far)"
    at node-1 ip link add eth1 type veth peer name eth0 netns "$(ns far)"
    at node-1 sysctl -qw net.ipv6.conf.eth1.accept_dad=0
    at far sysctl -qw net.ipv6.conf.eth0.accept_dad=0
    at node-1 ip addr add 10.60.0.1/24 dev eth1
    at node-1 ip addr add fd60::1/64 dev eth1 nodad
    at node-1 ip link set eth1 up
    at far ip addr add 10.60.0.9/32 dev eth0
    at far ip addr add fd60::9/128 dev eth0 nodad
    at far ip addr add 10.70.0.9/32 dev eth0
    at far ip addr add fd70::9/128 dev eth0 nodad
    at far ip link set eth0 up
    at far ip route add 10.60.0.1 dev eth0 src 10.70.0.9
    at far ip route add fd60::1 dev eth0 src fd70::9
    at far ip route add default via 10.60.0.1 src 10.70.0.9
    at far ip route add default via fd60::1 src fd70::9
    at node-1 ip route add default via 10.60.0.9 table 101
    at node-1 ip route add default via fd60::9 table 101
    more=$'[[interface]]\nname = "eth1"' start_engine 1
    if serves 1; then good "an engine on both"; else bad "an engine on both" "$(tail -qn 3 "$work/engine-1.log")"; fi
    patience=1 check "without a rule its answers leave by the other" silence tcp far 10.60.0.1 30085
    at node-1 ip rule add from 10.60.0.1 lookup 101 pref 1000
    at node-1 ip rule add from 10.42.0.10 lookup 101 pref 1001
    at node-1 ip -6 rule add from fd60::1 lookup 101 pref 1000
    soon "with one they leave where they are to" far 10.60.0.1 30085
    check "a node port of the second NIC" "2a 10.40.0.1" tcp far 10.60.0.1 30085
    check "over UDP" "2a 10.40.0.1" udp far 10.60.0.1 30085
    check "in IPv6" "2a fd40::1" tcp far fd60::1 30085
    check "of a pod of this node, and the client's address" "1a 10.70.0.9" tcp far 10.60.0.1 30081
    check "the load balancer's address" "$one .*" tcp far 10.42.0.10 80
    check "a socket of the node" "node-1 10.70.0.9" tcp far 10.60.0.1 9090
    check "a node port of the first" "2a 10.40.0.1" tcp client 10.40.0.1 30085
    check "4 MiB by the second" 4194304 size_of far 10.60.0.1:30085
    check "no rule is said not to be followed" 0 grep -c "ip rule" "$work/control-1.log"
    stop_engine 1 TERM
    at node-1 ip rule del pref 1000
    at node-1 ip rule del pref 1001
    at node-1 ip -6 rule del pref 1000
    at node-1 ip route flush table 101
    ip netns del "$(ns far)"
    start_engine 1
    if serves 1; then good "and on one again"; else bad "and on one again" "$(tail -qn 3 "$work/engine-1.log")"; fi
}

others() {
    restores_marks
    masquerades
    invalid
    forged
    [[ $short == yes ]] || few_ports
    two_uplinks
}
