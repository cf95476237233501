#!/usr/bin/env bash
# Shows Millrace at work on real packets: three namespaces with kernels' stacks of their own around an
# engine with two workers that is their only router, and a control process that reads YAML.
#
#                            ┌──── router: millrace-dataplane ────┐
#   client 10.1.0.2 ── veth ─┤ client0 10.1.0.1                   │
#                            │                 backend1 10.2.1.1  ├─ veth ── backend-1 10.2.1.2
#   VIP 10.100.0.10,         │                 backend2 10.2.2.1  ├─ veth ── backend-2 10.2.2.2
#       fd00:100::10         └────────────────────────────────────┘
#
# IPv6 is the same with fd00:1::, fd00:2:1::, fd00:2:2::. Exit status: 0 when every check held.
# MILLRACE_BIN names the folder of the binaries (default: target/release beside this folder).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${MILLRACE_BIN:-$here/../target/release}
export PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C

prefix=millrace-demo-$$
router=$prefix-router client=$prefix-client backend1=$prefix-backend-1 backend2=$prefix-backend-2
work=$(mktemp -d "${TMPDIR:-/tmp}/millrace-demo.XXXXXX")
manifests=$work/manifests
socket=$work/engine.sock
vip4=10.100.0.10 vip6=fd00:100::10

# A check's output is caught; what must be seen goes here.
exec 3>&1

pids=()
failed=0
finished=no

# ---------------------------------------------------------------------------------------------- order

# Whatever happens, everything that was made goes; the logs stay when a check failed.
clean_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    ((${#pids[@]} == 0)) || kill -9 "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    for namespace in "$router" "$client" "$backend1" "$backend2"; do
        ip netns del "$namespace" 2>/dev/null || true
    done
    if [[ $finished == yes ]] && ((failed == 0)); then
        rm -rf "$work"
    elif ((status == 130 || status == 143)); then
        rm -rf "$work"
        echo "interrupted; everything that the demo made is removed" >&3
    else
        rm -f "$work"/file "$work"/copy
        echo "logs are kept in $work" >&3
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n%s\n' "$*"; }

# check WHAT COMMAND…: runs the command, says whether it held, shows its output when it did not.
check() {
    local what=$1
    shift
    if "$@" >"$work/last" 2>&1; then
        printf '  ✓ %s\n' "$what"
    else
        printf '  ✗ %s\n' "$what"
        sed 's/^/      /' "$work/last"
        failed=$((failed + 1))
    fi
}

# within SECONDS COMMAND…: until it holds, or the time is over.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# background NAME NAMESPACE COMMAND…: its output goes to a log, its process id to $last_pid.
background() {
    local name=$1 namespace=$2
    shift 2
    ip netns exec "$namespace" "$@" >"$work/$name.log" 2>&1 3>&- &
    last_pid=$!
    # Not a job of this shell's any more: killing it is no news to print.
    disown "$last_pid"
    pids+=("$last_pid")
}

# ------------------------------------------------------------------------------------------- topology

# wire DEVICE NAMESPACE N4 N6: a veth pair with a queue for each worker, eth0 at the far end.
wire() {
    local device=$1 namespace=$2 net4=$3 net6=$4
    local queues="numrxqueues 2 numtxqueues 2"
    # shellcheck disable=SC2086
    ip -n "$router" link add "$device" $queues type veth peer name eth0 netns "$namespace" $queues
    ip netns exec "$router" sysctl -qw "net.ipv6.conf.$device.disable_ipv6=1"
    ip -n "$router" link set "$device" up
    ip -n "$namespace" link set lo up
    ip -n "$namespace" link set eth0 up
    ip -n "$namespace" addr add "$net4.2/24" dev eth0
    ip -n "$namespace" addr add "$net6::2/64" dev eth0 nodad
    ip -n "$namespace" route add default via "$net4.1"
    ip -n "$namespace" -6 route add default via "$net6::1"
}

# The first two CPUs that this process may use.
worker_cpus() {
    python3 -c 'import os; print(*sorted(os.sched_getaffinity(0))[:2], sep=", ")'
}

write_configuration() {
    cat >"$work/router.toml" <<TOML
mode = "router"
socket = "$socket"
[workers]
cpus = [$(worker_cpus)]
mode = "adaptive"
[[interface]]
name = "client0"
addresses = ["10.1.0.1/24", "fd00:1::1/64"]
[[interface]]
name = "backend1"
addresses = ["10.2.1.1/24", "fd00:2:1::1/64"]
[[interface]]
name = "backend2"
addresses = ["10.2.2.1/24", "fd00:2:2::1/64"]
TOML
    echo "engine = \"$socket\"" >"$work/control.toml"
    mkdir "$manifests"
    cat >"$manifests/service.yaml" <<YAML
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec:
  clusterIP: $vip4
  clusterIPs: [$vip4, "$vip6"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports:
  - {name: http, port: 80, targetPort: 8080, protocol: TCP}
  - {name: who, port: 53, targetPort: 5353, protocol: UDP}
YAML
}

# endpoints N…: the service's backends are these from now on.
endpoints() {
    local family prefix suffix n
    for family in IPv4 IPv6; do
        if [[ $family == IPv4 ]]; then prefix=10.2. suffix=.2; else prefix=fd00:2: suffix=::2; fi
        cat <<YAML
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-${family,,}, namespace: demo, labels: {kubernetes.io/service-name: web}}
addressType: $family
ports:
- {name: http, port: 8080, protocol: TCP}
- {name: who, port: 5353, protocol: UDP}
YAML
        (($# == 0)) && echo "endpoints: []" || echo "endpoints:"
        for n in "$@"; do
            echo "- {addresses: [\"$prefix$n$suffix\"], conditions: {ready: true}}"
        done
    done >"$work/endpoints.new"
    # A rename: control never sees half a file.
    mv "$work/endpoints.new" "$manifests/endpoints.yaml"
}

start_control() {
    background control "$router" "$bin/millrace-control" --config "$work/control.toml" --manifests "$manifests"
    control_pid=$last_pid
}

# ---------------------------------------------------------------------------------------------- checks

at_client() { ip netns exec "$client" "$@"; }
millrace() { "$bin/millrace" --socket "$socket" "$@"; }

# names COMMAND…: the different lines that it prints, sorted, on one line.
names() { "$@" | sort -u | tr '\n' ' '; }

# http ADDRESS COUNT: one curl for each request, each from a new port.
http() {
    for ((i = 0; i < $2; i++)); do
        at_client curl -sS --max-time 3 "http://$1/" || return
    done
}

# Both backends answer 24 requests: by chance one is left out once in eight million runs.
answers_from_both() { [[ $(names "$@") == "backend-1 backend-2 " ]]; }
answers_from() { local who=$1; shift; [[ $(names "$@") == "$who " ]]; }
ask_udp() { at_client python3 "$here/demo/ask-udp.py" "$@"; }

refused() {
    local status=0
    at_client curl -sS --max-time 3 "http://$1/" || status=$?
    ((status == 7))
}

path_is() {
    local destination=$1 hops
    shift
    hops=$(at_client traceroute -n -q 1 -w 2 -m 4 "$destination" | tee /dev/stderr | awk 'NR > 1 { print $2 }' | tr '\n' ' ')
    [[ $hops == "$* " ]]
}

same_file() { cmp "$work/file" "$work/copy"; }
gone() { ! kill -0 "$1" 2>/dev/null; }
still_running() { kill -0 "$1"; }

# counted EXPRESSION: a Python expression over `c`, what `millrace show counters --json` prints.
counted() {
    millrace show counters --json | python3 -c "import json, sys; c = json.load(sys.stdin); sys.exit(not ($1))"
}

# -------------------------------------------------------------------------------------------- the demo

((EUID == 0)) || { echo "the demo makes network namespaces: run it as root (make demo uses sudo)" >&2; exit 1; }
for program in millrace-dataplane millrace-control millrace; do
    [[ -x $bin/$program ]] || { echo "$bin/$program is not there: make build" >&2; exit 1; }
done
"$here/sweep.sh"

step "Building the network: client, backend-1 and backend-2, and a router namespace without addresses of its own"
for namespace in "$router" "$client" "$backend1" "$backend2"; do
    ip netns add "$namespace"
done
wire client0 "$client" 10.1.0 fd00:1
wire backend1 "$backend1" 10.2.1 fd00:2:1
wire backend2 "$backend2" 10.2.2 fd00:2:2
head -c 48M /dev/urandom >"$work/file"
background backend-1 "$backend1" python3 "$here/demo/backend.py" backend-1 8080 5353 "$work/file"
background backend-2 "$backend2" python3 "$here/demo/backend.py" backend-2 8080 5353 "$work/file"
write_configuration
endpoints 1 2
check "without the engine no packet passes" eval '! at_client ping -c 1 -W 1 10.2.1.2'

step "Starting the engine (workers on CPUs $(worker_cpus)) and control"
background engine "$router" "$bin/millrace-dataplane" --config "$work/router.toml"
engine_pid=$last_pid
check "the engine listens on its socket" within 10 test -S "$socket"
start_control
check "the service answers" within 10 eval 'http "$vip4" 1 && http "[$vip6]" 1'

step "TCP through the VIP: each request is a connection of its own"
check "IPv4: $vip4:80 is answered by both backends" answers_from_both http "$vip4" 24
check "IPv6: [$vip6]:80 is answered by both backends" answers_from_both http "[$vip6]" 24

step "UDP through the VIP"
check "IPv4: $vip4:53 is answered by both backends" answers_from_both ask_udp "$vip4" 53 24
check "IPv6: [$vip6]:53 is answered by both backends" answers_from_both ask_udp "$vip6" 53 24

step "The engine is a router like any other"
check "it answers ping on its own addresses" at_client ping -c 2 -i 0.2 -W 2 10.1.0.1
check "on IPv6 too" at_client ping -6 -c 2 -i 0.2 -W 2 fd00:1::1
check "ping passes through it" at_client ping -c 2 -i 0.2 -W 2 10.2.1.2
check "on IPv6 too" at_client ping -6 -c 2 -i 0.2 -W 2 fd00:2:1::2
check "traceroute shows it as one hop" path_is 10.2.1.2 10.1.0.1 10.2.1.2
check "on IPv6 too" path_is fd00:2:1::2 fd00:1::1 fd00:2:1::2

step "Changing the endpoints: editing a YAML file is all"
endpoints 2
check "backend-1 taken out: only backend-2 answers" within 5 answers_from backend-2 http "$vip4" 12
check "on IPv6 too" within 5 answers_from backend-2 http "[$vip6]" 12
endpoints
check "no endpoint left: connections are refused, at once" within 5 refused "$vip4"
check "on IPv6 too" within 5 refused "[$vip6]"
endpoints 1 2
check "both back: both answer" within 5 answers_from_both http "$vip4" 24

step "Killing control (kill -9) in the middle of a transfer of 48 MB"
background transfer "$client" curl -sS --limit-rate 12M -o "$work/copy" "http://$vip4/file"
transfer_pid=$last_pid
check "the transfer has begun" within 5 test -s "$work/copy"
kill -9 "$control_pid"
check "control is gone" within 5 gone "$control_pid"
check "the transfer goes on" still_running "$transfer_pid"
check "new connections are served without control" answers_from_both http "$vip4" 24
check "the transfer ends" within 20 gone "$transfer_pid"
check "all of its bytes are right" same_file
start_control
endpoints 1
check "brought back, control follows changes again: only backend-1 answers" within 10 answers_from backend-1 http "$vip4" 12

step "What the engine counted"
check "the engine has run all the time" still_running "$engine_pid"
millrace show services >"$work/services" || true
sed 's/^/    /' "$work/services"
check "the service is shown by its name" grep -q demo/web "$work/services"
# Tried again: the workers count on while they are read.
check "every packet is accounted for" within 3 counted 'c["balanced"]'
check "both workers carried packets" counted 'all(w["rx"] > 0 for w in c["workers"])'
millrace show counters >"$work/counters" || true
sed 's/^/    /' "$work/counters"
kill -TERM "$engine_pid"
check "told to, the engine ends and gives its interfaces back" within 5 eval 'gone "$engine_pid" && ! ip -n "$router" link | grep -q xdp'

finished=yes
echo
if ((failed)); then
    echo "demo: $failed checks FAILED (after $SECONDS s)"
    exit 1
fi
echo "demo: every check held (after $SECONDS s)"
