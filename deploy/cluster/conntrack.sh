# Sourced by run.sh: what a Service's UDP flows, of one five-tuple each, do when endpoints, control and engines come and go; and affinity.

# told COMMAND…: a program that prints its checks itself.
told() {
    local log status=0
    log=$(mktemp "$work/told.XXXXXX")
    "$@" >"$log" 2>&1 || status=$?
    count "$log"
    # One that ends without having said why.
    if ((status != 0)) && ! grep -q '^  ✗' "$log"; then bad "$*" "$(tail -n 5 "$log")"; fi
}

affinity() {
    step "affinity with a timeout of two seconds"
    told python3 "$here/affinity.py" "$prefix" "$work/manifests"
}

rolling() {
    step "a rolling update under load"
    told python3 "$here/rolling.py" "$prefix" "$work/manifests"
}

udp_flows() {
    step "UDP flows of one five-tuple while endpoints change"
    told python3 "$here/flows.py" move "$prefix" "$work/manifests"
    [[ $short == yes ]] && return
    step "the same while control is killed and comes back"
    held_through restart_control
    step "and while the engine is killed and comes back"
    held_through restart_engine moved
}

# held_through COMMAND [moved]
held_through() {
    local log pid
    rm -f "$work/ready" "$work/stop"
    log=$(mktemp "$work/told.XXXXXX")
    python3 "$here/flows.py" hold "$prefix" "$work" ${2:-} >"$log" 2>&1 &
    pid=$!
    within 15 test -e "$work/ready" || bad "flows are answered" "$(cat "$log")"
    "$1"
    touch "$work/stop"
    wait $pid || grep -q '^  ✗' "$log" || bad "flows that go on" "$(tail -n 5 "$log")"
    count "$log"
}

restart_control() {
    kill -9 "${control[1]}"
    wait "${control[1]}" 2>/dev/null || true
    sleep 0.3
    start_control 1
    # Until it has published: an object that only the new one can have told of.
    {
        local ports="http:8080:TCP dns:8080:UDP sigtran:8080:SCTP"
        service fresh ClusterIP 22 0
        both fresh 3a
    } >"$work/fresh.yaml"
    mv "$work/fresh.yaml" "$work/manifests/"
    if within 10 is_ready pod-1-a 10.43.0.22 80; then good "control serves again"; else bad "control serves again" "$(tail -qn 3 "$work/control-1.log")"; fi
    rm "$work/manifests/fresh.yaml"
}

restart_engine() {
    stop_engine 1 KILL
    sleep 0.3
    start_engine 1
    if serves 1; then good "the engine serves again"; else bad "the engine serves again" "$(tail -qn 3 "$work/engine-1.log")"; fi
}
