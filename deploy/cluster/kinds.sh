# Sourced by run.sh: every kind of Service, from everywhere.

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
}
