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
