# Sourced by run.sh: what is answered where nothing serves.

refusals() {
    local from where
    step "nothing behind it"
    for from in pod-1-b node-1; do
        [[ $short == yes && $from == node-1 ]] && continue
        check "$from: a Service without endpoints refuses" refused tcp $from 10.43.0.17 80
        check "$from: over UDP" refused udp $from 10.43.0.17 53
        check "$from: IPv6" refused tcp $from fd43::17 80
        check "$from: its load balancer's address refuses" refused udp $from 10.42.0.17 53
        check "$from: its external address refuses" refused udp $from 10.42.1.17 53
        check "$from: its node port refuses" refused udp $from 10.40.0.1 30087
        check "$from: a port that is none refuses" refused tcp $from 10.43.0.10 81
        check "$from: over UDP" refused udp $from 10.43.0.10 81
        patience=1 aside check "$from: a cluster address of nobody is silent" silence tcp $from 10.43.0.200 80
        patience=1 aside check "$from: over UDP" silence udp $from 10.43.0.200 53
    done
    check "client: a node port without endpoints refuses" refused tcp client 10.40.0.1 30087
    check "client: over UDP" refused udp client 10.40.0.1 30087
    check "client: the load balancer's address" refused udp client 10.42.0.17 53
    check "client: the external address" refused tcp client 10.42.1.17 80
    # What its socket hears is about the address that it asked: the error that quotes the pod's has been turned back.
    step "a pod that refuses"
    for where in "pod-1-b 10.43.0.32 53" "pod-1-b fd43::32 53" "node-1 10.43.0.32 53" "client 10.40.0.1 30102" "client fd40::1 30102"; do
        # shellcheck disable=SC2086
        check "${where%% *} asks ${where#* } over UDP" refused udp $where
    done
    check "a reset comes back" refused tcp client 10.40.0.1 30102
    check "to a pod too" refused tcp pod-1-b 10.43.0.32 80
}
