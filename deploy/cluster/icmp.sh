# Sourced by run.sh: a way that is narrower behind a node, errors about it, and datagrams in fragments.

# A pod of its own link, as some CNIs have them, that its node reaches by a route with a smaller MTU: node 3, 10.41.3.13.
narrow_pod() {
    ip netns add "$(ns pod-3-c)"
    at pod-3-c ip link set lo up
    at pod-3-c sysctl -qw net.ipv6.conf.default.accept_dad=0
    at pod-3-c ip link add eth0 type veth peer name veth-c netns "$(ns node-3)"
    at node-3 ip addr add fe80::1/64 dev veth-c nodad
    at node-3 ip link set veth-c up
    at pod-3-c ip addr add 10.41.3.13/32 dev eth0
    at pod-3-c ip addr add fd41:3::13/128 dev eth0 nodad
    at pod-3-c ip link set eth0 up
    at pod-3-c ip route add 10.41.3.1 dev eth0 scope link
    at pod-3-c ip route add default via 10.41.3.1
    at pod-3-c ip route add default via fe80::1 dev eth0
    at node-3 ip route add 10.41.3.13 dev veth-c mtu lock 1300
    at node-3 ip route add fd41:3::13 dev veth-c mtu lock 1300
    serve pod-3-c 3c 8080
    local ports="http:8080:TCP dns:8080:UDP sigtran:8080:SCTP" extra policy=Cluster number=33 node_port=30103
    for extra in "" "  externalTrafficPolicy: Local"; do
        service "narrow-${policy,,}" NodePort $number $node_port "$extra"
        slice "narrow-${policy,,}" IPv4 "$ports" 10.41.3.13@node-3
        slice "narrow-${policy,,}" IPv6 "$ports" fd41:3::13@node-3
        policy=Local number=34 node_port=30104
    done >"$work/narrow.yaml"
    mv "$work/narrow.yaml" "$work/manifests/"
}

# mtu FROM ADDRESS: what its kernel knows of the way.
mtu() { at "$1" ip route get "$2" | grep -o 'mtu [0-9]*' || echo "no mtu"; }
forget() {
    at "$1" ip route flush cache
    at "$1" ip -6 route flush cache
}

narrow() {
    local from address port what
    step "a way that is narrower behind a node"
    narrow_pod
    within 5 answers_c 10.43.0.33 80 || bad "the pod behind it serves" "$(tcp pod-1-b 10.43.0.33 80)"
    while read -r from address port what; do
        forget "$from"
        [[ $(mtu "$from" "$address") == "no mtu" ]] || bad "$from forgets" "$(mtu "$from" "$address")"
        check "$from, $what: 1 MiB up" "3c .* 1048576" upload "$from" "$address" "$port"
        check "$from, $what: it has learned the way's size" "mtu 1300" mtu "$from" "$address"
    done <<END
pod-1-b 10.43.0.33 80 a cluster IP
pod-1-b fd43::33 80 a cluster IP, IPv6
node-1 10.43.0.33 80 a cluster IP
client 10.40.0.1 30103 another node's port
client fd40::1 30103 another node's port, IPv6
client 10.40.0.3 30103 its node's port
client 10.40.0.3 30104 its node's port, source kept
client fd40::3 30104 its node's port, source kept, IPv6
pod-3-a 10.43.0.33 80 a cluster IP, of its own node
END
    rm "$work/manifests/narrow.yaml"
}

answers_c() { [[ $(patience=0.5 tcp pod-1-b "$@") == 3c* ]]; }

fragments() {
    step "datagrams in fragments"
    told ip netns exec "$(ns client)" python3 "$here/fragments.py" 10.40.0.1 30085 30100
    told ip netns exec "$(ns client)" python3 "$here/fragments.py" fd40::1 30085 30100
}
