# Sourced by run.sh: addresses, neighbors and Services that come and go on a running node.

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
