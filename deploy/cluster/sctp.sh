# Sourced by run.sh: SCTP associations through every kind of Service; each packet's CRC32c is looked at by whoever gets it.

# sctp FROM ADDRESS PORT [SIZE]: who answers, as whom we were seen, whether with our own port, and how much came.
sctp() { at "$1" env PATIENCE="${patience:-2}" python3 -IS "$here/sctp.py" ask "$2" "$3" "${4:-64}"; }

sctp_services() {
    local from node
    step "SCTP"
    for from in pod-1-b node-1; do
        check "$from: to the cluster IP" "$one .* 64" sctp "$from" 10.43.0.10 90
        check "$from: IPv6" "$one .* 64" sctp "$from" fd43::10 90
    done
    check "a pod's address and port are seen by a pod of another node" "2a 10.41.1.12 kept 64" sctp pod-1-b 10.43.0.15 90
    check "the same in IPv6" "2a fd41:1::12 kept 64" sctp pod-1-b fd43::15 90
    check "a node's process is seen as its node" "2a 10.40.0.1 .* 64" sctp node-1 10.43.0.15 90
    check "a pod reaches itself through its Service" "1a 10.41.1.1 .* 64" sctp pod-1-a 10.43.0.14 90
    check "a pod is answered by its neighbor on the bridge" "1a .* 64" sctp pod-1-b 10.43.0.14 90
    for node in "${nodes[@]}"; do
        [[ $short == yes && $node != 2 ]] && continue
        check "client: node $node's port" "$one .* 64" sctp client "10.40.0.$node" 30080
        check "client: node $node's port, IPv6" "$one .* 64" sctp client "fd40::$node" 30080
    done
    # A source port by chance, as with `masquerade fully-random`: SCTP has no exception there.
    check "a client's source and port are hidden by the cluster policy" "2a 10.40.0.1 moved 64" sctp client 10.40.0.1 30085
    check "and in IPv6" "2a fd40::1 moved 64" sctp client fd40::1 30085
    check "local policy keeps both" "1a 10.40.0.9 kept 64" sctp client 10.40.0.1 30081
    for from in client pod-1-b node-1; do
        [[ $short == yes && $from != client ]] && continue
        check "$from: the load balancer's address" "$one .* 64" sctp "$from" 10.42.0.10 90
        [[ $short == yes ]] || check "$from: the external address" "$one .* 64" sctp "$from" 10.42.1.10 90
    done
    check "client: the load balancer's IPv6 address" "$one .* 64" sctp client fd42::10 90
    check "client: a backend on node 2's own address" "node-2 10.40.0.1 moved 64" sctp client 10.40.0.1 30086
    check "pod-1-b: a backend on node 2's own address" "node-2 .* 64" sctp pod-1-b 10.43.0.16 90
    check "pod-1-b: a backend outside, as its node" "outside 10.40.0.1 .* 64" sctp pod-1-b 10.43.0.19 90
    check "pod-1-b: 20 kB in chunks over many packets" "2a 10.41.1.12 kept 20000" sctp pod-1-b 10.43.0.15 90 20000
    check "client: 20 kB in chunks over many packets" "2a 10.40.0.1 moved 20000" sctp client 10.40.0.1 30085 20000
    for from in pod-1-b node-1; do
        [[ $short == yes && $from == node-1 ]] && continue
        check "$from: a Service without endpoints refuses" refused sctp $from 10.43.0.17 90
        check "$from: a port that is none refuses" refused sctp $from 10.43.0.10 91
    done
    check "client: a node port without endpoints refuses" refused sctp client 10.40.0.1 30087
    patience=1 check "a cluster address of nobody is silent" silence sctp pod-1-b 10.43.0.200 90
}
