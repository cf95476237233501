# Sourced by run.sh: which endpoints a Service uses, and which sources it is used by.

policies() {
    local from
    step "traffic policies, affinity"
    check "local policy: the node's own pod, and the client's address" "1a 10.40.0.9" tcp client 10.40.0.1 30081
    check "over UDP" "1a 10.40.0.9" udp client 10.40.0.1 30081
    check "on another node that node's pod" "2a 10.40.0.9" tcp client 10.40.0.2 30081
    check "the load balancer's address of it" "1a 10.40.0.9" tcp client 10.42.0.11 80
    patience=1 check "without a pod of it there is silence" silence tcp client 10.40.0.3 30081
    check "a pod is short-circuited to the whole cluster" "$one .*" tcp pod-3-a 10.42.0.11 80
    check "internal policy: the node's own" "1b .*" tcp pod-1-a 10.43.0.12 80
    patience=1 check "and silence where there is none" silence tcp pod-3-a 10.43.0.12 80
    local first again
    for from in pod-1-b client; do
        local where=(10.43.0.13 80)
        [[ $from == client ]] && where=(10.40.0.3 30083)
        first=$(tcp $from "${where[@]}")
        for again in 1 2 3 4 5; do
            check "$from keeps its backend ($again)" "${first%% *} .*" tcp $from "${where[@]}"
        done
    done
}
