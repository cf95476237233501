# Sourced by run.sh: NetworkPolicies of the nodes' pods, enforced where their packets come by: at the uplink, and at the trunk, through which
# an isolated pod speaks to everybody. What is no pod, and what goes on while things change, is egress.sh's.

# pod_objects [WITHOUT]: an object for each pod but one; its name is its label too.
pod_objects() {
    local node letter host
    for node in "${nodes[@]}"; do
        for letter in a b; do
            host=11
            [[ $letter == b ]] && host=12
            [[ $node$letter != "${1:-}" ]] || continue
            cat <<END
---
apiVersion: v1
kind: Pod
metadata: {namespace: default, name: "$node$letter", labels: {pod: "$node$letter"}}
spec: {nodeName: node-$node, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.41.$node.$host}, {ip: "fd41:$node::$host"}]}
END
        done
    done
}

# policy NAME POD SPEC: SPEC in JSON, without the selector.
policy() {
    cat <<END
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: $1}
spec: {podSelector: {matchLabels: {pod: "$2"}}, $3}
END
}

# enforce NAMES: what comes on standard input is in force; returns when every node knows these policies, and its kernel the isolated pods.
enforce() {
    cat >"$work/netpol.new"
    mv "$work/netpol.new" "$work/manifests/netpol.yaml"
    local node
    for node in "${nodes[@]}"; do
        within 10 knows "$node" "$1" || bad "node $node knows the policies \"$1\"" "$(named "$node")"
    done
}

named() { "$bin/millrace" show policies --json --socket "$work/engine-$1.sock" | python3 -c 'import json, sys; print(*sorted(row["policy"].replace(" ", "/").split("/")[-1] for row in json.load(sys.stdin) if row["pods"]))'; }
# Of the policies those about pods of the node; and the pods that they isolate are in the kernel's set.
knows() {
    local wanted=() name
    for name in $2; do
        [[ $name != *-"$1"[ab] ]] || wanted+=("$name")
    done
    [[ $(named "$1") == "${wanted[*]}" ]] || return 1
    for name in "${wanted[@]}"; do
        local host=11
        [[ $name == *b ]] && host=12
        at "node-$1" nft get element inet millrace-pods closed4 "{ 10.41.$1.$host }" || return 1
    done
}

# cut WHAT FROM ADDRESS PORT: nobody answers.
cut() {
    local what=$1
    shift
    aside check "$what" silence patiently 0.8 tcp "$@"
}

lost() { at "$1" ping -c 2 -i 0.2 -W 1 "$2" | grep -o '[0-9]*% packet loss'; }

netpol() {
    pod_objects >"$work/pods.new"
    mv "$work/pods.new" "$work/manifests/pods.yaml"
    netpol_in
    netpol_out
    netpol_answers
    rm -f "$work/manifests/netpol.yaml" "$work/manifests/pods.yaml"
    within 10 is_open || bad "without policies everything is open" "$(tcp pod-1-a 10.41.2.11 8080)"
}

is_open() { [[ $(patience=0.5 tcp pod-1-a 10.41.2.11 8080) == 2a* && $(patience=0.5 tcp pod-1-b 10.41.3.11 8080) == 3a* ]]; }

# What comes to a pod is judged on its node: by the pod that sends, or by the client's own address.
netpol_in() {
    step "a policy for what comes to a pod"
    policy to-2a 2a 'ingress: [{from: [{podSelector: {matchLabels: {pod: "1b"}}}, {ipBlock: {cidr: 10.40.0.9/32}}]}]' | enforce to-2a
    check "an allowed pod of another node" "2a 10.41.1.12" tcp pod-1-b 10.41.2.11 8080
    check "over UDP" "2a 10.41.1.12" udp pod-1-b 10.41.2.11 8080
    check "echo requests" "0% packet loss" lost pod-1-b 10.41.2.11
    check "by the cluster IP" "2a 10.41.1.12" tcp pod-1-b 10.43.0.15 80
    check "by the cluster IP, IPv6" "2a fd41:1::12" tcp pod-1-b fd43::15 80
    cut "a pod that is not" pod-1-a 10.41.2.11 8080
    cut "IPv6" pod-1-a fd41:2::11 8080
    cut "by the cluster IP" pod-1-a 10.43.0.15 80
    cut "by the cluster IP, its neighbor on the bridge" pod-2-b 10.43.0.15 80
    aside check "echo requests of one that is not" "100% packet loss" lost pod-1-a 10.41.2.11
    check "an allowed client by a node port with the local policy: its own address counts" "2a 10.40.0.9" tcp client 10.40.0.2 30081
    cut "by a node port of another node, which speaks for it" client 10.40.0.1 30085
    cut "another node" node-1 10.41.2.11 8080
    check "the pod's own node" "2a .*" tcp node-2 10.41.2.11 8080
    check "by the cluster IP" "2a .*" tcp node-2 10.43.0.15 80
    cut "its neighbor on the bridge" pod-2-b 10.41.2.11 8080
    cut "IPv6" pod-2-b fd41:2::11 8080
    aside check "UDP" silence patiently 0.8 udp pod-2-b 10.41.2.11 8080
    check "others are open" "2b 10.41.1.11" tcp pod-1-a 10.41.2.12 8080
    gather
    # As README says: what the bridge switches and does not show comes by nobody.
    at node-2 sysctl -qw net.bridge.bridge-nf-call-iptables=0
    check "not seen is a neighbor on a bridge that shows nothing" "2a 10.41.2.12" tcp pod-2-b 10.41.2.11 8080
    at node-2 sysctl -qw net.bridge.bridge-nf-call-iptables=1
    policy to-2a 2a 'policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {pod: "2b"}}}], ports: [{port: 8080}, {protocol: UDP, port: 8080}]}]' | enforce to-2a
    within 2 eval '[[ $(patience=0.5 tcp pod-1-b 10.41.2.11 8080) == silence ]]' || bad "the policy has changed" "$(tcp pod-1-b 10.41.2.11 8080)"
    check "a neighbor that is allowed" "2a 10.41.2.12" tcp pod-2-b 10.41.2.11 8080
    check "IPv6" "2a fd41:2::12" tcp pod-2-b fd41:2::11 8080
    check "UDP in fragments" "2a 10.41.2.12" udp pod-2-b 10.41.2.11 8080 4000
    check "4 MiB" 4194304 size_of pod-2-b 10.41.2.11:8080
    cut "another port" pod-2-b 10.41.2.11 8081
    cut "the other way round" pod-2-a 10.41.2.12 8080
    cut "IPv6" pod-2-a fd41:2::12 8080
    gather
}

# What a pod sends to other pods goes by the trunk, once it is isolated.
netpol_out() {
    step "a policy for what a pod sends"
    policy from-1b 1b 'policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: "2a"}}}], ports: [{port: 8080}]}]' | enforce from-1b
    check "to an allowed pod of another node" "2a 10.41.1.12" tcp pod-1-b 10.41.2.11 8080
    check "IPv6" "2a fd41:1::12" tcp pod-1-b fd41:2::11 8080
    check "by the cluster IP" "2a 10.41.1.12" tcp pod-1-b 10.43.0.15 80
    cut "to another port" pod-1-b 10.41.2.11 8081
    cut "to a pod that is not" pod-1-b 10.41.3.11 8080
    cut "IPv6" pod-1-b fd41:3::11 8080
    aside check "another protocol" silence patiently 0.8 udp pod-1-b 10.41.2.11 8080
    aside check "echo requests" "100% packet loss" lost pod-1-b 10.41.2.11
    check "its own node" "node-1 10.41.1.12" tcp pod-1-b 10.40.0.1 9090
    check "others send what they like" "3a 10.41.1.11" tcp pod-1-a 10.41.3.11 8080
    check "who asks it is answered" "1b 10.41.3.11" tcp pod-3-a 10.41.1.12 8080
    cut "out of the cluster" pod-1-b 10.40.0.9 9090
    gather
}

# F3: answers to an isolated pod, and from one, are no flows of their own.
netpol_answers() {
    step "answers"
    { policy deaf-1b 1b 'policyTypes: [Ingress]'; policy mute-2a 2a 'policyTypes: [Egress]'; } | enforce "deaf-1b mute-2a"
    check "of a pod that may send nothing, to one that hears nobody" "2a 10.41.1.12" tcp pod-1-b 10.41.2.11 8080
    check "IPv6" "2a fd41:1::12" tcp pod-1-b fd41:2::11 8080
    check "UDP" "2a 10.41.1.12" udp pod-1-b 10.41.2.11 8080
    check "in fragments" "2a 10.41.1.12" udp pod-1-b 10.41.2.11 8080 4000
    check "echo" "0% packet loss" lost pod-1-b 10.41.2.11
    check "4 MiB" 4194304 size_of pod-1-b 10.41.2.11:8080
    check "by the cluster IP" "2a 10.41.1.12" tcp pod-1-b 10.43.0.15 80
    check "of other nodes and what is outside" "outside 10.40.0.1" tcp pod-1-b 10.40.0.9 9090
    check "of another node" "node-2 .*" tcp pod-1-b 10.40.0.2 9090
    cut "but the one begins nothing" pod-2-a 10.41.3.11 8080
    cut "and the other hears nobody" pod-3-a 10.41.1.12 8080
    cut "by a cluster IP either" pod-1-a 10.43.0.12 80
    check "but its own node" "1b .*" tcp node-1 10.41.1.12 8080
    check "also by a cluster IP" "1b .*" tcp node-1 10.43.0.12 80
    gather
}
