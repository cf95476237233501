# Sourced by run.sh: from kube-proxy to the engine and back, with connections under way.

# slowly FROM ADDRESS PORT: 4 MiB within about four seconds, in the background; prints the name of the file that says how many came.
slowly() {
    local to
    to=$(mktemp "$work/slow.XXXXXX")
    at "$1" curl -s --max-time 30 --limit-rate 1M -o /dev/null -w '%{size_download}' "http://$2:$3/big" >"$to" 2>/dev/null &
    slow+=("$!:$to")
}

# arrived WHAT: whether all that was asked for slowly came.
arrived() {
    local it
    for it in "${slow[@]}"; do
        wait "${it%%:*}" 2>/dev/null || true
        check "$1" 4194304 cat "${it#*:}"
    done
    slow=()
}

# What is to work at any moment of a hand-over.
works() {
    check "$1: a pod" "2a 10.41.1.12" tcp pod-1-b 10.43.0.15 80
    check "$1: the node" "2a 10.40.0.1" tcp node-1 10.43.0.15 80
    check "$1: a node port, from outside" "2a 10.40.0.1" tcp client 10.40.0.1 30085
    check "$1: a node port, from a pod" "2a 10.40.0.1" tcp pod-1-b 10.40.0.1 30085
}

hand_over() {
    local slow=()
    step "from kube-proxy with $1 to the engine, and back"
    stop_engine 1 TERM
    "proxy_$1" 1
    works "kube-proxy alone"
    slowly pod-1-b 10.43.0.15 80
    slowly node-1 10.43.0.15 80
    start_engine 1
    # By an address of which kube-proxy's rules know nothing here; other cluster IPs they drop.
    if serves 1 10.42.0.10; then good "the engine serves beside it"; else bad "the engine serves beside it" "$(tail -qn 3 "$work/engine-1.log")"; fi
    works "both"
    "proxy_$1_gone" 1
    works "the engine alone"
    arrived "a connection that began with kube-proxy goes on"
    slowly pod-1-b 10.43.0.15 80
    slowly node-1 10.43.0.15 80
    sleep 0.5
    "proxy_$1" 1
    works "both again"
    arrived "a connection that began with the engine goes on"
    stop_engine 1 TERM
    works "kube-proxy alone again"
    "proxy_$1_gone" 1
    start_engine 1
    if serves 1; then good "the engine again"; else bad "the engine again" "$(tail -qn 3 "$work/engine-1.log")"; fi
}
