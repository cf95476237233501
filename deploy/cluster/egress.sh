# Sourced by run.sh: NetworkPolicies of the nodes' pods about what is no pod, by whatever device it comes and goes; what is established when
# a policy comes; and who stays closed while control or the engine is away. After `netpol`, whose words these are.

talk() { python3 -IS "$here/talk.py" "$@"; }

# talks NAME FROM PROTOCOL ADDRESS PORT: a flow that goes on, in the background, until `ended NAME`.
talks() {
    local folder=$work/talk-$1
    rm -rf "$folder"
    mkdir "$folder"
    at "$2" python3 -IS "$here/talk.py" talk "$3" "$4" "$5" "$folder" >"$folder/answers" 2>&1 &
    echo $! >"$folder/pid"
    within 5 test -e "$folder/ready" || bad "$1: $2 talks to $4" "$(cat "$folder/answers")"
}

# tries NAME FROM PROTOCOL ADDRESS PORT: new flows all the time, until `ended NAME`.
tries() {
    local folder=$work/talk-$1
    rm -rf "$folder"
    mkdir "$folder"
    at "$2" python3 -IS "$here/talk.py" try "$3" "$4" "$5" "$folder" >"$folder/answers" 2>&1 &
    echo $! >"$folder/pid"
    within 5 test -e "$folder/ready" || bad "$1: $2 tries $4" "$(cat "$folder/answers")"
}

# ended NAME: no more.
ended() {
    touch "$work/talk-$1/stop"
    wait "$(cat "$work/talk-$1/pid")" 2>/dev/null || true
}

uptime_now() { python3 -ISc 'import time; print(f"{time.monotonic():.3f}")'; }

# answers_after NAME MOMENT: how many came later.
answers_after() { awk -v from="$2" '$1 + 0 > from + 0' "$work/talk-$1/answers" | wc -l; }

# Whether a node's kernel leads an address to the engine.
is_led() { at "node-$1" nft get element inet millrace-pods led4 "{ $2 }" >/dev/null 2>&1; }
is_not_led() { ! is_led "$@"; }

# The policy that most of this is about: a block without one address, one port, all protocols.
outside_policy() {
    policy out-1b 1b 'policyTypes: [Egress, Ingress], egress: [{to: [{ipBlock: {cidr: 10.40.0.0/24, except: [10.40.0.10/32]}}, {ipBlock: {cidr: "fd40::/64", except: ["fd40::10/128"]}}],
  ports: [{protocol: TCP, port: 9090}, {protocol: UDP, port: 9090}, {protocol: SCTP, port: 9090}, {protocol: TCP, port: 9095}, {protocol: UDP, port: 9095}]}]'
}

# explained WHAT VERDICT PROTOCOL SOURCE DESTINATION: what `explain` says of a flow on node 1's engine.
explained() { check "explain: $1" "$2" said_of "${@:3}"; }
said_of() {
    "$bin/millrace" explain --socket "$work/engine-1.sock" "$@" 2>&1 |
        python3 -c 'import json, sys; print(*(" ".join(filter(None, (it["verdict"], it.get("reason"), it.get("by")))) for it in json.load(sys.stdin)["outcomes"]))'
}

# outside_checks WHOM4 WHOM6: as whom the pod is seen.
outside_checks() {
    local as4=${1:-10.40.0.1} as6=${2:-fd40::1}
    check "what is allowed" "outside $as4" tcp pod-1-b 10.40.0.9 9090
    check "IPv6" "outside $as6" tcp pod-1-b fd40::9 9090
    check "UDP" "outside $as4" udp pod-1-b 10.40.0.9 9090
    check "UDP, IPv6" "outside $as6" udp pod-1-b fd40::9 9090
    cut "what is excepted" pod-1-b 10.40.0.10 9090
    cut "IPv6" pod-1-b fd40::10 9090
    cut "another port" pod-1-b 10.40.0.9 9091
    cut "IPv6" pod-1-b fd40::9 9091
    aside check "UDP" silence patiently 0.8 udp pod-1-b 10.40.0.9 9091
    aside check "UDP, IPv6" silence patiently 0.8 udp pod-1-b fd40::9 9091
    aside check "echo requests" "100% packet loss" lost pod-1-b 10.40.0.9
    aside check "IPv6" "100% packet loss" lost pod-1-b fd40::9
    cut "a pod of another node" pod-1-b 10.41.2.11 8080
    local denied='drop policy NetworkPolicy default/out-1b .*'
    explained "what is allowed" transmit tcp 10.41.1.12:40000 10.40.0.9:9090
    explained "UDP, IPv6" transmit udp '[fd41:1::12]:40000' '[fd40::9]:9090'
    explained "what is excepted" "$denied" tcp 10.41.1.12:40000 10.40.0.10:9090
    explained "another port" "$denied" tcp 10.41.1.12:40000 10.40.0.9:9091
    explained "another pod is open" transmit tcp 10.41.1.11:40000 10.40.0.9:9091
    gather
}

netpol_outside() {
    step "a policy for what a pod sends out of the cluster"
    at client ip addr add 10.40.0.10/24 dev eth0
    at client ip addr add fd40::10/64 dev eth0 nodad preferred_lft 0
    serve client outside 9091
    ip netns exec "$(ns client)" python3 -IS "$here/talk.py" serve 9095 2>>"$work/peers.log" &
    runs $!
    ip netns exec "$(ns pod-2-a)" python3 -IS "$here/talk.py" serve 9095 2>>"$work/peers.log" &
    runs $!
    serve node-1 node-1 9091
    ip netns exec "$(ns node-1)" python3 -IS "$here/talk.py" serve 9095 2>>"$work/peers.log" &
    runs $!
    within 5 tcp client 10.40.0.9 9091
    outside_policy | enforce out-1b
    outside_checks
    check "SCTP" "outside 10.40.0.1 .* 64" sctp pod-1-b 10.40.0.9 9090
    check "SCTP, IPv6" "outside fd40::1 .* 64" sctp pod-1-b fd40::9 9090
    patience=0.8 check "SCTP to what is excepted" silence sctp pod-1-b 10.40.0.10 9090
    check "4 MiB" 4194304 size_of pod-1-b 10.40.0.9:9090
    check "a datagram in fragments" "outside 10.40.0.1" udp pod-1-b 10.40.0.9 9090 4000
    check "by a cluster IP" "outside 10.40.0.1" tcp pod-1-b 10.43.0.19 80
    check "another node" "node-2 10.40.0.1" tcp pod-1-b 10.40.0.2 9090
    check "its own node" "node-1 10.41.1.12" tcp pod-1-b 10.40.0.1 9090
    check "its own node reaches it" "1b .*" tcp node-1 10.41.1.12 8080
    cut "nobody else does" pod-2-a 10.41.1.12 8080
    check "a pod without policies sends what it likes" "outside 10.40.0.1" tcp pod-1-a 10.40.0.9 9091
    unled
}

# A pod that nothing isolates does not come by the engine.
unled() {
    local before after
    is_not_led 1 10.41.1.11 && is_led 1 10.41.1.12 || bad "who is led to the engine" "$(at node-1 nft list set inet millrace-pods led4)"
    before=$(trunk_packets)
    check "nor does it come by the engine: 4 MiB" 4194304 size_of pod-1-a 10.40.0.9:9090
    after=$(trunk_packets)
    if ((after - before < 20)); then good "as the trunk's counter says"; else bad "as the trunk's counter says" "$((after - before)) packets"; fi
}

trunk_packets() { at node-1 cat /sys/class/net/millrace0/statistics/tx_packets; }

# Where nobody masquerades, answers come by the uplink, and the engine sees them before the kernel.
netpol_unmasqueraded() {
    step "the same where pods' addresses mean something outside"
    at node-1 nft delete table inet cni
    at client ip route add 10.41.1.0/24 via 10.40.0.1
    at client ip route add fd41:1::/64 via fd40::1
    outside_checks 10.41.1.12 fd41:1::12
    check "4 MiB" 4194304 size_of pod-1-b 10.40.0.9:9090
    cut "from outside nobody reaches it" client 10.41.1.12 8080
    cut "IPv6" client fd41:1::12 8080
    gather
    at client ip route del 10.41.1.0/24
    at client ip route del fd41:1::/64
    masquerade_pods 1
}

# By a device of the node that the engine does not have, such as a tunnel's.
netpol_beside() {
    step "a device that the engine does not have"
    ip netns add "$(ns beside)"
    at node-1 ip link add eth9 type veth peer name eth0 netns "$(ns beside)"
    at beside sysctl -qw net.ipv6.conf.eth0.accept_dad=0
    at node-1 sysctl -qw net.ipv6.conf.eth9.accept_dad=0
    at beside ip addr add 10.61.0.9/24 dev eth0
    at beside ip addr add fd61::9/64 dev eth0 nodad
    at beside ip link set eth0 up
    at node-1 ip addr add 10.61.0.1/24 dev eth9
    at node-1 ip addr add fd61::1/64 dev eth9 nodad
    at node-1 ip link set eth9 up
    at beside ip route add default via 10.61.0.1
    at beside ip route add default via fd61::1
    serve beside beside 9090
    {
        policy in-1b 1b 'policyTypes: [Egress, Ingress], ingress: [{from: [{ipBlock: {cidr: 10.61.0.0/24}}, {ipBlock: {cidr: "fd61::/64"}}], ports: [{port: 8080}, {protocol: UDP, port: 8080}]}],
  egress: [{to: [{ipBlock: {cidr: 10.61.0.0/24}}], ports: [{port: 9090}]}]'
    } | enforce in-1b
    within 5 tcp beside 10.41.1.12 8080
    check "what is allowed in" "1b 10.61.0.9" tcp beside 10.41.1.12 8080
    check "IPv6" "1b fd61::9" tcp beside fd41:1::12 8080
    check "UDP" "1b 10.61.0.9" udp beside 10.41.1.12 8080
    cut "another port" beside 10.41.1.12 8081
    cut "IPv6" beside fd41:1::12 8081
    check "what is allowed out" "beside 10.61.0.1" tcp pod-1-b 10.61.0.9 9090
    cut "IPv6, which is not" pod-1-b fd61::9 9090
    check "a pod without policies is reached" "1a 10.61.0.9" tcp beside 10.41.1.11 8081
    # As a CNI's plugin for host ports does it.
    at node-1 nft -f - <<'RULES'
table inet hostports {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "eth9" tcp dport 18080 dnat ip to 10.41.1.12:8080
    iifname "eth9" tcp dport 18081 dnat ip to 10.41.1.12:8081
    iifname "eth0" tcp dport 18080 dnat ip to 10.41.1.12:8080
  }
}
RULES
    check "a host port" "1b 10.61.0.9" tcp beside 10.61.0.1 18080
    cut "one that is not allowed" beside 10.61.0.1 18081
    cut "for others not at all" client 10.40.0.1 18080
    gather
    at node-1 nft delete table inet hostports
}

# A ClusterNetworkPolicy may keep a pod from its own node, too; the node reaches it all the same.
netpol_own_node() {
    step "a pod that a ClusterNetworkPolicy keeps from its own node"
    talks own pod-1-b udp 10.40.0.1 9095
    cat <<'POLICY' | enforce own-1b
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: own-1b}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: 1b}}}}
  egress:
  - {name: some, action: Accept, to: [{networks: [10.40.0.1/32, "fd40::1/128"]}], protocols: [{tcp: {destinationPort: {number: 9090}}}]}
  - {name: rest, action: Deny, to: [{networks: [10.40.0.1/32, "fd40::1/128"]}]}
POLICY
    local moment
    moment=$(uptime_now)
    check "what is allowed" "node-1 10.41.1.12" tcp pod-1-b 10.40.0.1 9090
    check "IPv6" "node-1 fd41:1::12" tcp pod-1-b fd40::1 9090
    check "4 MiB" 4194304 size_of pod-1-b 10.40.0.1:9090
    check "its other addresses" "node-1 10.41.1.12" tcp pod-1-b 10.41.1.1 9090
    cut "another port" pod-1-b 10.40.0.1 9091
    cut "IPv6" pod-1-b fd40::1 9091
    aside check "UDP" silence patiently 0.8 udp pod-1-b 10.40.0.1 9090
    aside check "UDP, IPv6" silence patiently 0.8 udp pod-1-b fd40::1 9090
    aside check "echo requests" "100% packet loss" lost pod-1-b 10.40.0.1
    check "the node reaches it" "1b 10.41.1.1" tcp node-1 10.41.1.12 8080
    check "over UDP" "1b 10.41.1.1" udp node-1 10.41.1.12 8080
    check "IPv6" "1b fd41:1::1" tcp node-1 fd41:1::12 8080
    check "echo requests" "0% packet loss" lost node-1 10.41.1.12
    check "a node port of its node is open" "2a .*" tcp pod-1-b 10.40.0.1 30085
    check "what is outside too" "outside 10.40.0.1" tcp pod-1-b 10.40.0.9 9091
    check "another pod is not kept from it" "node-1 10.41.1.11" udp pod-1-a 10.40.0.1 9090
    explained "what is allowed" transmit tcp 10.41.1.12:40000 10.40.0.1:9090
    explained "another port" "drop policy ClusterNetworkPolicy own-1b .*" tcp 10.41.1.12:40000 10.40.0.1:9091
    gather
    ended own
    check "what was established ends" 0 answers_after own "$(awk "BEGIN {print $moment + 1}")"
}

# What is established when a policy comes: judged again, or left alone.
netpol_established() {
    local protocol moment
    step "flows that are established when a policy comes"
    policy none 9z '' | enforce ""
    within 5 is_not_led 1 10.41.1.12 || bad "nobody is led to the engine" "$(at node-1 nft list set inet millrace-pods led4)"
    for protocol in tcp udp; do
        talks "$protocol" pod-1-b "$protocol" 10.40.0.9 9095
        talks "$protocol-6" pod-1-b "$protocol" fd40::9 9095
        talks "$protocol-allowed" pod-1-a "$protocol" 10.40.0.9 9095
    done
    slow=()
    slowly pod-1-a 10.40.0.9 9090
    {
        policy shut-1b 1b 'policyTypes: [Egress, Ingress]'
        policy most-1a 1a 'policyTypes: [Egress, Ingress], egress: [{to: [{ipBlock: {cidr: 10.40.0.0/24}}], ports: [{port: 9095}, {port: 9090}, {protocol: UDP, port: 9095}]}]'
    } | enforce "most-1a shut-1b"
    moment=$(uptime_now)
    sleep 1.6
    for protocol in tcp udp; do
        ended "$protocol"
        ended "$protocol-6"
        ended "$protocol-allowed"
        check "$protocol: strict ends what is forbidden within a second" 0 answers_after "$protocol" "$(awk "BEGIN {print $moment + 1}")"
        check "$protocol, IPv6" 0 answers_after "$protocol-6" "$(awk "BEGIN {print $moment + 1}")"
        check "$protocol: what is allowed goes on" "[1-9][0-9]+" answers_after "$protocol-allowed" "$(awk "BEGIN {print $moment + 0.5}")"
    done
    arrived "an answer that is under way comes"
    netpol_keep
}

netpol_keep() {
    local protocol moment
    policy none 9z '' | enforce ""
    kill -9 "${control[1]}"
    wait "${control[1]}" 2>/dev/null || true
    control_more='policy_changes = "keep"' start_control 1
    within 10 is_led 1 10.41.1.12 || bad "with keep all pods are led to the engine" "$(at node-1 nft list set inet millrace-pods led4)"
    for protocol in tcp udp; do talks "$protocol" pod-1-b "$protocol" 10.40.0.9 9095; done
    policy shut-1b 1b 'policyTypes: [Egress, Ingress]' | enforce shut-1b
    moment=$(uptime_now)
    cut "keep: what begins later is judged" pod-1-b 10.40.0.9 9090
    sleep 1.6
    for protocol in tcp udp; do
        ended "$protocol"
        check "$protocol: keep leaves what was there alone" "[1-9][0-9]+" answers_after "$protocol" "$(awk "BEGIN {print $moment + 1}")"
    done
    gather
    kill -9 "${control[1]}"
    wait "${control[1]}" 2>/dev/null || true
    start_control 1
}

# A pod of whom control has not heard.
netpol_unknown() {
    step "a pod that control does not know"
    pod_objects 3b >"$work/pods.new"
    mv "$work/pods.new" "$work/manifests/pods.yaml"
    within 5 eval '[[ $(patience=0.5 tcp pod-3-b 10.40.0.9 9090) == silence ]]' || bad "it is closed" "$(at node-3 nft list set inet millrace-pods led4)"
    cut "sends nothing out of the cluster" pod-3-b 10.40.0.9 9090
    cut "IPv6" pod-3-b fd40::9 9090
    aside check "UDP" silence patiently 0.8 udp pod-3-b 10.40.0.9 9090
    cut "nothing to other pods" pod-3-b 10.41.2.11 8080
    cut "hears nobody" pod-2-b 10.41.3.12 8080
    check "but its own node" "3b .*" tcp node-3 10.41.3.12 8080
    check "its neighbor is as ever" "outside 10.40.0.3" tcp pod-3-a 10.40.0.9 9090
    gather
    tries late pod-3-b tcp 10.40.0.9 9095
    pod_objects >"$work/pods.new"
    mv "$work/pods.new" "$work/manifests/pods.yaml"
    within 5 eval '[[ $(patience=0.5 tcp pod-3-b 10.40.0.9 9090) == outside* ]]' || bad "known, it is open" "$(tcp pod-3-b 10.40.0.9 9090)"
    check "known, it is open" "outside 10.40.0.3" tcp pod-3-b 10.40.0.9 9090
    ended late
    check "from then on for every flow" "[1-9][0-9]* .*" cat "$work/talk-late/answers"
}

# Nobody is there who could say what is allowed: what was said holds; nobody is there who could look: nothing passes.
netpol_away() {
    step "control is away, the engine is away"
    outside_policy | enforce out-1b
    kill -9 "${control[1]}"
    wait "${control[1]}" 2>/dev/null || true
    check "without control what is allowed" "outside 10.40.0.1" tcp pod-1-b 10.40.0.9 9090
    cut "and no more" pod-1-b 10.40.0.9 9091
    gather
    tries tcp pod-1-b tcp 10.40.0.9 9091
    tries udp pod-1-b udp 10.40.0.10 9095
    tries udp6 pod-1-b udp fd40::10 9095
    tries in pod-2-a tcp 10.41.1.12 8080
    talks open pod-1-a udp 10.40.0.9 9095
    talks allowed pod-1-b tcp 10.40.0.9 9095
    stop_engine 1 KILL
    within 5 is_gone 1 || bad "the trunk goes with its process" "$(traces 1)"
    cut "without the engine an isolated pod sends nothing" pod-1-b 10.40.0.9 9090
    cut "IPv6" pod-1-b fd40::9 9090
    cut "nothing to its own kind" pod-1-b 10.41.2.11 8080
    cut "it hears nobody" pod-2-b 10.41.1.12 8080
    check "but its own node" "1b .*" tcp node-1 10.41.1.12 8080
    check "others are open" "outside 10.40.0.1" tcp pod-1-a 10.40.0.9 9091
    check "IPv6" "outside fd40::1" tcp pod-1-a fd40::9 9091
    check "and reached" "1a 10.41.2.12" tcp pod-2-b 10.41.1.11 8080
    gather
    start_engine 1
    # Without tables, since nobody is there who has them.
    within 10 at node-1 ip link show millrace0 || bad "a new engine" "$(tail -qn 3 "$work/engine-1.log")"
    sleep 1
    cut "nor with a new engine that has no tables" pod-1-b 10.40.0.9 9090
    check "others are open" "outside 10.40.0.1" tcp pod-1-a 10.40.0.9 9091
    gather
    start_control 1
    if serves 1; then good "control is back"; else bad "control is back" "$(tail -qn 3 "$work/control-1.log")"; fi
    check "what is allowed passes" "outside 10.40.0.1" tcp pod-1-b 10.40.0.9 9090
    sleep 1
    local moment
    moment=$(uptime_now)
    sleep 1
    for name in tcp udp udp6 in open allowed; do ended "$name"; done
    for name in tcp udp udp6 in; do
        check "what is forbidden never passed meanwhile ($name)" "0 [1-9][0-9]*" cat "$work/talk-$name/answers"
    done
    check "a flow of an open pod is as ever" "[1-9][0-9]+" answers_after open "$moment"
    check "an established connection goes on" "[1-9][0-9]+" answers_after allowed "$moment"
}

# Nobody says which addresses are pods'.
netpol_unranged() {
    step "without --cluster-cidr"
    kill -9 "${control[1]}"
    wait "${control[1]}" 2>/dev/null || true
    cidr="" start_control 1
    outside_policy | enforce out-1b
    serves 1 || bad "node 1 serves" "$(tail -qn 3 "$work/control-1.log")"
    outside_checks
    policy from-1b 1b 'policyTypes: [Egress, Ingress], egress: [{to: [{podSelector: {matchLabels: {pod: "2a"}}}], ports: [{port: 8080}]}]' | enforce from-1b
    check "to an allowed pod of another node" "2a 10.41.1.12" tcp pod-1-b 10.41.2.11 8080
    check "IPv6" "2a fd41:1::12" tcp pod-1-b fd41:2::11 8080
    check "4 MiB" 4194304 size_of pod-1-b 10.41.2.11:8080
    cut "to another port" pod-1-b 10.41.2.11 8081
    cut "out of the cluster" pod-1-b 10.40.0.9 9090
    gather
    kill -9 "${control[1]}"
    wait "${control[1]}" 2>/dev/null || true
    start_control 1
    serves 1 || bad "node 1 serves" "$(tail -qn 3 "$work/control-1.log")"
}

egress() {
    pod_objects >"$work/pods.new"
    mv "$work/pods.new" "$work/manifests/pods.yaml"
    netpol_outside
    netpol_unmasqueraded
    [[ $short == yes ]] || netpol_beside
    netpol_own_node
    netpol_established
    netpol_unknown
    netpol_away
    [[ $short == yes ]] || netpol_unranged
    rm -f "$work/manifests/netpol.yaml" "$work/manifests/pods.yaml"
    within 10 is_open || bad "without policies everything is open" "$(tcp pod-1-a 10.41.2.11 8080)"
    within 10 is_not_led 1 10.41.1.12 || bad "nobody is led to the engine" "$(at node-1 nft list set inet millrace-pods led4)"
}
