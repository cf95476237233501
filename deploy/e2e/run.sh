#!/usr/bin/env bash
# Services of a cluster through control and engine: what `millrace show` and `millrace explain` say is compared with what the API says.
#
#   KUBECONFIG=FILE deploy/e2e/run.sh            on that cluster: one namespace is made and removed, nothing else is changed
#   KUBECONFIG=FILE deploy/e2e/run.sh --pods     besides, what kube-controller-manager makes of Pods: three Nodes are made too, with Pods that
#                                                no kubelet runs, and removed. For clusters where nothing else is at work
#   deploy/e2e/run.sh --own                      on an API server of ours (control/apiserver), where there is no cluster
#
# Without KUBECONFIG and --own it says that it is skipped. Needs root (a network namespace and a veth pair for the engine), kubectl and
# python3. MILLRACE_BIN names the folder of the binaries (default: target/release beside this folder). Exit status: 0 when every
# check held or it was skipped.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${MILLRACE_BIN:-$here/../../target/release}
export PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C

own=no
more=()
case ${1:-} in
    --own) own=yes ;;
    --pods) more=(--pods) ;;
    '') ;;
    *) echo "deploy/e2e: $1 is no option: --own or --pods, or KUBECONFIG=FILE alone" >&2; exit 2 ;;
esac
if [[ $own == no && -z ${KUBECONFIG:-} ]]; then
    echo "deploy/e2e: skipped: KUBECONFIG names no cluster (--own runs it on an API server of ours)"
    exit 0
fi
for need in kubectl python3 ip; do
    command -v "$need" >/dev/null || { echo "deploy/e2e: $need is missing" >&2; exit 1; }
done
((EUID == 0)) || { echo "deploy/e2e: needs root, for a network namespace" >&2; exit 1; }

node_namespace=millrace-e2e-$$-node
work=$(mktemp -d "${TMPDIR:-/tmp}/millrace-e2e.XXXXXX")
pids=()
held=no

clean_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    if [[ -s $work/cluster-objects ]]; then
        while read -r object; do
            # Nobody else ends Pods that no kubelet runs, and their namespace would wait for them.
            [[ ${#more[@]} == 0 || $object != /api/v1/namespaces/* ]] || kubectl --kubeconfig "$work/kubeconfig" delete pods --all \
                --namespace "${object##*/}" --grace-period=0 --force --wait=false >/dev/null 2>&1 || true
            kubectl --kubeconfig "$work/kubeconfig" delete --raw "$object" >/dev/null 2>&1 || true
        done <"$work/cluster-objects"
    fi
    [[ ! -s $work/control.pid ]] || pids+=("$(<"$work/control.pid")")
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    exec 9>&-
    wait 2>/dev/null || true
    ip netns del "$node_namespace" 2>/dev/null || true
    if [[ $held == yes ]] || ((status == 130 || status == 143)); then
        rm -rf "$work"
    else
        echo "logs are kept in $work"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits for a file to be there and not empty.
await() {
    for _ in $(seq 100); do
        [[ -s $1 || -S $1 ]] && return
        sleep 0.1
    done
    echo "deploy/e2e: $1 did not come" >&2
    return 1
}

if [[ $own == yes ]]; then
    mkfifo "$work/hold"
    "$bin/millrace-apiserver" "$work/kubeconfig" <"$work/hold" >"$work/apiserver.log" 2>&1 &
    # It ends when this shell lets go of the other end.
    exec 9>"$work/hold"
    await "$work/kubeconfig"
else
    kubectl config view --raw --flatten --minify >"$work/kubeconfig"
    kubectl --kubeconfig "$work/kubeconfig" get --raw /api/v1/services?limit=1 >/dev/null
fi

ip netns add "$node_namespace"
ip -n "$node_namespace" link set lo up
ip -n "$node_namespace" link add up0 type veth peer name far0
ip netns exec "$node_namespace" sysctl -qw net.ipv6.conf.up0.disable_ipv6=1
ip -n "$node_namespace" link set up0 up
ip -n "$node_namespace" link set far0 up
cat >"$work/engine.toml" <<TOML
mode = "router"
socket = "$work/engine.sock"
[[interface]]
name = "up0"
addresses = ["198.18.0.1/24", "2001:db8:18::1/64"]
TOML
cat >"$work/control.toml" <<TOML
[[route]]
prefix = "0.0.0.0/0"
via = "198.18.0.2"
[[route]]
prefix = "::/0"
via = "2001:db8:18::2"
[[neighbor]]
interface = "up0"
address = "198.18.0.2"
mac = "02:00:00:00:00:02"
[[neighbor]]
interface = "up0"
address = "2001:db8:18::2"
mac = "02:00:00:00:00:02"
TOML
ip netns exec "$node_namespace" "$bin/millrace-dataplane" --config "$work/engine.toml" >"$work/engine.log" 2>&1 9>&- &
pids+=($!)
await "$work/engine.sock"

python3 -B "$here/services.py" --bin "$bin" --work "$work" ${more[@]+"${more[@]}"} 9>&- && held=yes
[[ $held == yes ]]
