# Sourced by run.sh: addresses, neighbors and Services that come and go on a running node.

received() { "$bin/millrace" show counters --json --socket "$work/engine-1.sock" | python3 -c 'import json, sys; print(sum(worker["rx"] for worker in json.load(sys.stdin)["workers"]))'; }

answers() { [[ $(patience=0.5 tcp "$@") =~ ^$one ]]; }

# soon WHAT FROM ADDRESS PORT: whether it answers within five seconds.
soon() {
    local what=$1
    shift
    if within 5 answers "$@"; then good "$what"; else bad "$what" "$(tcp "$@")"; fi
}

changes() {
    step "the node changes"
    sleep 1
    local before after
    before=$(received)
    tcp client 10.40.0.1 9090 >/dev/null
    tcp node-1 10.40.0.2 9090 >/dev/null
    after=$(received)
    # Either has ten packets; a late one of somebody else's may come by.
    if ((after - before < 5)); then good "the node's own connections pass no engine"; else bad "the node's own connections pass no engine" "$((after - before)) packets"; fi
    at node-1 ip addr add 10.40.0.51/24 dev eth0
    soon "a new address of the node has node ports" client 10.40.0.51 30080
    soon "and for its own pods" pod-1-b 10.40.0.51 30080
    at node-1 ip addr del 10.40.0.51/24 dev eth0
    at node-1 ip addr del 10.40.0.1/24 dev eth0
    sleep 0.2
    at node-1 ip addr add 10.40.0.1/24 dev eth0
    at node-1 ip route add 10.41.2.0/24 via 10.40.0.2
    at node-1 ip route add 10.41.3.0/24 via 10.40.0.3
    at node-1 ip route add default via 10.40.0.254
    soon "the node's address goes and comes back: its processes" node-1 10.43.0.15 80
    soon "its pods" pod-1-b 10.43.0.15 80
    soon "node ports" client 10.40.0.1 30085
    at node-1 ip neigh flush dev eth0
    check "neighbors are forgotten: its pods" "2a 10.41.1.12" tcp pod-1-b 10.43.0.15 80
    check "node ports" "2a 10.40.0.1" tcp client 10.40.0.1 30085
    local ports="http:8080:TCP dns:8080:UDP sigtran:8080:SCTP"
    {
        service late NodePort 20 30090
        both late 3a
    } >"$work/late.yaml"
    mv "$work/late.yaml" "$work/manifests/"
    soon "a new Service" pod-1-b 10.43.0.20 80
    soon "its node port, from outside" client 10.40.0.1 30090
    soon "and from this node" node-1 10.40.0.1 30090
    rm "$work/manifests/late.yaml"
    if within 5 is_refused; then good "its node port is closed when it goes"; else bad "its node port is closed when it goes" "$(tcp node-1 10.40.0.1 30090)"; fi
}

is_refused() { [[ $(patience=0.5 tcp node-1 10.40.0.1 30090) == refused ]]; }

# alter NAME [POD…]: replaces the Service of this file; its type, policy and more are what `alter_as` says.
alter() {
    local ports="http:8080:TCP dns:8080:UDP sigtran:8080:SCTP"
    {
        service altered "${alter_type:-NodePort}" 27 "${alter_port:-30097}" "${alter_more:-}"
        both altered "$@"
    } >"$work/altered.yaml"
    mv "$work/altered.yaml" "$work/manifests/"
}

# told_by WHAT WANTED COMMAND…: whether that is what it says, within five seconds.
told_by() {
    local what=$1 wanted=$2
    shift 2
    if within 5 says_so "$wanted" "$@"; then good "$what"; else bad "$what" "wanted $wanted; got $("$@" 2>&1)"; fi
}
says_so() {
    local wanted=$1 said
    shift
    said=$(patience=0.5 "$@" 2>&1)
    [[ $said =~ ^($wanted)$ ]]
}

services_change() {
    step "a Service changes"
    alter 2a 3a
    told_by "it is there" "2a 3a" who pod-1-b 10.43.0.27 53
    told_by "with a node port" "2a 3a" who client 10.40.0.1 30097
    alter_more="  sessionAffinity: ClientIP" alter 2a 3a
    told_by "it gets an affinity" "2a|3a" who pod-1-b 10.43.0.27 53
    told_by "at its node port too" "2a|3a" who client 10.40.0.1 30097
    alter 2a 3a
    told_by "and loses it" "2a 3a" who pod-1-b 10.43.0.27 53
    alter_more="  externalTrafficPolicy: Local" alter 2a 1a
    told_by "its external policy becomes Local" "1a 10.40.0.9" tcp client 10.40.0.1 30097
    alter 2a 1a
    told_by "and Cluster again" "1a 2a" who client 10.40.0.1 30097
    alter_port=30098 alter 2a
    told_by "another node port" "2a .*" tcp client 10.40.0.1 30098
    told_by "the old one is closed" refused tcp client 10.40.0.1 30097
    alter_type=ClusterIP alter_port=0 alter 2a
    told_by "no node port at all" refused tcp client 10.40.0.1 30098
    check "its cluster IP is as it was" "2a .*" tcp pod-1-b 10.43.0.27 80
    printf '%s\n' 'apiVersion: v1' 'kind: Service' 'metadata: {name: altered, namespace: default}' 'spec: {type: ExternalName, externalName: example.org}' >"$work/manifests/altered.yaml"
    told_by "it becomes an ExternalName: nobody has the address" silence tcp pod-1-b 10.43.0.27 80
    alter 2a
    told_by "and a Service again" "2a .*" tcp pod-1-b 10.43.0.27 80
    rm "$work/manifests/altered.yaml"
    told_by "it goes" silence tcp pod-1-b 10.43.0.27 80
    alter 3a
    told_by "and comes again" "3a .*" tcp pod-1-b 10.43.0.27 80
    # Target ports by name, which differ from pod to pod: two slices.
    {
        service altered NodePort 27 30097
        slice altered-x IPv4 "http:8080:TCP dns:8080:UDP" 10.41.2.11@node-2
        slice altered-y IPv4 "http:8081:TCP dns:8081:UDP" 10.41.3.11@node-3
    } | sed 's/service-name: altered-[xy]/service-name: altered/' >"$work/altered.yaml"
    mv "$work/altered.yaml" "$work/manifests/"
    told_by "target ports that differ by endpoint" "2a:8080 3a:8081" ports_of pod-1-b 10.43.0.27 53
    rm "$work/manifests/altered.yaml"
}

# ports_of FROM ADDRESS PORT: who answers, on which of its ports.
ports_of() { at "$1" python3 -IS "$here/peer.py" many "$2" "$3" 12 "${patience:-2}" "who and port?"; }
