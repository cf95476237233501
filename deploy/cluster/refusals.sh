# Sourced by run.sh: what is answered where nothing serves.

refusals() {
    local from
    step "nothing behind it"
    for from in pod-1-b node-1; do
        check "$from: a Service without endpoints refuses" refused tcp $from 10.43.0.17 80
        check "$from: a port that is none refuses" refused tcp $from 10.43.0.10 81
        patience=1 check "$from: a cluster address of nobody is silent" silence tcp $from 10.43.0.200 80
    done
    check "client: a node port without endpoints refuses" refused tcp client 10.40.0.1 30087
}
