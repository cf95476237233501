# Sourced by run.sh: which endpoints a Service uses, and which sources it is used by.

policies() {
    local from
    step "traffic policies, affinity"
    check "local policy: the node's own pod, and the client's address" "1a 10.40.0.9" tcp client 10.40.0.1 30081
    check "over UDP" "1a 10.40.0.9" udp client 10.40.0.1 30081
    check "on another node that node's pod" "2a 10.40.0.9" tcp client 10.40.0.2 30081
    check "the load balancer's address of it" "1a 10.40.0.9" tcp client 10.42.0.11 80
    patience=1 aside check "without a pod of it there is silence" silence tcp client 10.40.0.3 30081
    check "a pod is short-circuited to the whole cluster" "1a 2a" who pod-3-a 10.42.0.11 53
    check "so is a node's process" "1a 2a" who node-3 10.42.0.11 53
    check "internal policy: the node's own" "1b .*" tcp pod-1-a 10.43.0.12 80
    patience=1 aside check "and silence where there is none" silence tcp pod-3-a 10.43.0.12 80
    check "a node's process has its own node's" "1b .*" tcp node-1 10.43.0.12 80
    check "a backend that is the node itself: its pod" "node-2 .*" tcp pod-2-a 10.43.0.18 80
    check "its process" "node-2 .*" tcp node-2 10.43.0.18 80
    aside check "not another node's pod" silence patiently 1 tcp pod-1-b 10.43.0.18 80
    local first again
    for from in pod-1-b client; do
        local where=(10.43.0.13 80)
        [[ $from == client ]] && where=(10.40.0.3 30083)
        first=$(tcp $from "${where[@]}")
        for again in 1 2 3 4 5; do
            [[ $short == yes && $again -gt 2 ]] && break
            check "$from keeps its backend ($again)" "${first%% *} .*" tcp $from "${where[@]}"
        done
    done
    source_ranges
    terminating
}

# Of load balancer addresses alone; others of the Service are open. What is turned away gets no answer.
source_ranges() {
    step "source ranges"
    check "a client in them" "2a" who client 10.42.0.30 53 2
    check "a node's process in them" "2a" who node-1 10.42.0.30 53 2
    check "over TCP" "2a .*" tcp client 10.42.0.30 80
    aside check "a pod that is not" silence patiently 0.5 who pod-1-b 10.42.0.30 53 2
    aside check "a node's process that is not" silence patiently 0.5 who node-3 10.42.0.30 53 2
    aside check "a client that is not" silence patiently 0.5 who client 10.42.0.31 53 2
    aside check "over TCP" silence patiently 0.5 tcp client 10.42.0.31 80
    check "the node port is open to all" "2a" who client 10.40.0.1 30101 2
    check "so is the cluster IP" "2a" who pod-1-b 10.43.0.31 53 2
}

# The sixteen cases: four sets of endpoints, by policy, from inside and outside, as node 1 has them.
terminating() {
    local policy at=40 name number
    step "endpoints on their way out"
    for policy in Cluster Local; do
        local -A wanted=([ready]="1a 2a" [leaving]="1a 2a" [gone]=refused [far]=2a)
        # Its own alone: a ready one, else one that still serves, else silence while others have some.
        [[ $policy == Local ]] && wanted=([ready]=1a [leaving]=1a [gone]=refused [far]=silence)
        number=$at
        for name in ready leaving gone far; do
            aside one_terminating "$policy" "$name" $number "${wanted[$name]}"
            number=$((number + 1))
        done
        at=$((at + 10))
    done
}

one_terminating() {
    local what="$1, $2" number=$3 wanted=$4 patience=2
    # Of sixteen flows, that all go to one of two endpoints: once in 32,768 worlds; and the hash of this one is what it is.
    [[ $wanted == silence ]] && patience=0.5
    check "$what: inside" "$wanted" who pod-1-b "10.43.0.$number" 53 16
    check "$what: outside" "$wanted" who client 10.40.0.1 $((30100 + number)) 16
    [[ $short == yes ]] && return
    check "$what: inside, IPv6" "$wanted" who pod-1-b "fd43::$number" 53 16
    check "$what: outside, IPv6" "$wanted" who client fd40::1 $((30100 + number)) 16
    check "$what: inside, TCP" "(${wanted// /|}).*" tcp pod-1-b "10.43.0.$number" 80
    check "$what: outside, TCP" "(${wanted// /|}).*" tcp client 10.40.0.1 $((30100 + number))
}
