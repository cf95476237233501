# Sourced by run.sh: nodes' own addresses and processes, as backends and as themselves, and what lies outside.

hosts() {
    local from
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

    step "a pod and itself"
    check "through its node's port" "1a (10.41.1.1|10.40.0.1)" tcp pod-1-a 10.40.0.1 30084
    check "through another node's port" "1a 10.40.0.2" tcp pod-1-a 10.40.0.2 30084
    check "through its cluster IP, over UDP" "1a 10.41.1.1" udp pod-1-a 10.43.0.14 53

    step "probes, and ports of the host"
    check "the kubelet's probe of a pod" "1a 10.41.1.1" tcp node-1 10.41.1.11 8080
    check "over UDP" "1a 10.41.1.1" udp node-1 10.41.1.11 8080
    check "in IPv6" "1a fd41:1::1" tcp node-1 fd41:1::11 8080
    check "of a process in the node's network" "node-1 10.40.0.1" tcp node-1 10.40.0.1 9090
    check "on loopback" "node-1 127.0.0.1" tcp node-1 127.0.0.1 9090
    # As kube-proxy in nftables mode.
    check "node ports are not on loopback" refused tcp node-1 127.0.0.1 30080
    host_ports
    check "a host port" "3a 10.40.0.9" tcp client 10.40.0.3 8888
    check "from a pod of another node, as its node" "3a 10.40.0.1" tcp pod-1-b 10.40.0.3 8888
    check "the same number of another protocol" "3b 10.40.0.9" udp client 10.40.0.3 8888
    check "and of another address of the host" "3b fd40::9" tcp client fd40::3 8888

    step "the kernel's own traffic"
    check "client reaches a socket of node 1" "node-1 10.40.0.9" tcp client 10.40.0.1 9090
    check "a pod reaches a socket of its node" "node-1 10.41.1.12" tcp pod-1-b 10.40.0.1 9090
    check "a pod reaches a pod of another node" "2a 10.41.1.12" tcp pod-1-b 10.41.2.11 8080
    check "a pod reaches its neighbor" "1a 10.41.1.12" tcp pod-1-b 10.41.1.11 8080
    check "pods reach the outside as their node" "outside 10.40.0.1" tcp pod-1-b 10.40.0.9 9090
    check "a node reaches a pod of another node" "2a 10.40.0.1" tcp node-1 10.41.2.11 8080
    check "ping, pod to pod" ".* 0% packet loss.*" ping_of pod-1-b 10.41.2.11
    check "ping, node to pod" ".* 0% packet loss.*" ping_of node-1 10.41.2.12
}

# What a CNI's portmap plugin does for pods with hostPort, on node 3: TCP 8888 of the node's IPv4 address, UDP 8888, TCP of IPv6.
host_ports() {
    at node-3 nft -f - <<'END'
table inet portmap {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr 10.40.0.3 tcp dport 8888 dnat ip to 10.41.3.11:8080
    ip daddr 10.40.0.3 udp dport 8888 dnat ip to 10.41.3.12:8080
    ip6 daddr fd40::3 tcp dport 8888 dnat ip6 to [fd41:3::12]:8080
  }
}
END
}
