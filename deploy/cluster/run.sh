#!/usr/bin/env bash
# A cluster of three nodes, each with a kernel's stack of its own, an engine in service-proxy mode and a control process, and two pods
# behind a plain bridge; and a client outside. Every kind of Service is asked from everywhere, on real packets.
#
#   client 10.40.0.9 ─┬─ node-1 10.40.0.1 ── cni0 10.41.1.1/24 ─┬─ pod a 10.41.1.11
#                     │    millrace0 ── engine                  └─ pod b 10.41.1.12
#                     ├─ node-2, node-3: the same
#
# IPv6 is the same with fd40:: and fd41:N::. Needs root, python3, curl, nftables and libusrsctp2. Exit status: 0 when every check held.
#
#   run.sh [--short] [--keep] [--only ACT,…]    --short: each kind of check once, for `make test`; --keep: leaves all of it there, and says
#                                               how to enter; --only: these acts alone, in their order (the list is at this file's end)
#
# MILLRACE_BIN names the folder of the binaries (default: target/release of this repository).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${MILLRACE_BIN:-$here/../../target/release}
export PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C PYTHONDONTWRITEBYTECODE=1
for part in check nodes manifests proxy kinds policies netpol egress hosts refusals sizes sctp icmp health conntrack router crash changes handover others; do
    . "$here/$part.sh"
done

short=no keep=no only=
while (($#)); do
    case $1 in
    --short) short=yes ;;
    --keep) keep=yes ;;
    --only)
        only=,${2:-},
        shift
        ;;
    *)
        echo "usage: $0 [--short] [--keep] [--only ACT,…]" >&2
        exit 2
        ;;
    esac
    shift
done

prefix=millrace-cluster-$$
work=$(mktemp -d "${TMPDIR:-/tmp}/$prefix-XXXXXX")
failed=0 held=0 finished=no

clean_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    if [[ $keep == yes ]]; then
        echo "namespaces $prefix-*, logs in $work; the engines run on: kill \$(cat $work/pids); for n in \$(ip netns list | grep -o '$prefix-[^ ]*'); do ip netns del \$n; done"
        exit "$status"
    fi
    # Those of the background, too.
    # shellcheck disable=SC2046
    kill -9 $(cat "$work/pids" 2>/dev/null) $(jobs -p) 2>/dev/null || true
    wait 2>/dev/null || true
    local name
    for name in $(ip netns list | grep -o "^$prefix-[^ ]*"); do
        ip netns del "$name" 2>/dev/null || true
    done
    if [[ $finished == yes ]] && ((failed == 0)); then
        rm -rf "$work"
    else
        echo "logs are kept in $work"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

wanted() { [[ -z $only || $only == *,$1,* ]]; }

# act NAME [COMMAND…]: one theme's checks, if it is among those asked for.
act() {
    local name=$1 began=$SECONDS
    wanted "$name" || return 0
    shift
    if (($#)); then "$@"; else "$name"; fi
    gather
    seconds+=" $name $((SECONDS - began))"
}
seconds=

# beside NAME [COMMAND…]: the same, while others go on: those that wait more than they work, and touch nothing that others look at.
beside() {
    local name=$1 log
    wanted "$name" || return 0
    shift
    (($#)) || set -- "$name"
    log=$(mktemp "$work/beside.XXXXXX")
    (asides=() && "$@" && gather) >"$log" 2>&1 &
    behind+=("$!:$log")
}

# meet: what those beside have come to.
meet() {
    asides=("${behind[@]}")
    behind=()
    gather
}

raise
beside router
beside fragments
if [[ $short == yes ]]; then
    beside sctp sctp_services
else
    beside affinity
    beside narrow
fi
act kinds
act policies
act hosts
act refusals
act sizes
[[ $short == yes ]] || act sctp sctp_services
act health
meet
# Here time counts, or the engine ends.
[[ $short == yes ]] || act rolling
act conntrack udp_flows
act netpol
act egress
act others
act crash
if [[ $short == no ]]; then
    act changes
    act services services_change
    act nftables hand_over nftables
    if command -v iptables-legacy-restore >/dev/null; then
        act iptables hand_over iptables
    else
        echo "  – hand-over from iptables rules: no iptables-legacy-restore here"
    fi
fi

finished=yes
step "$held checks held, $failed failed, in $SECONDS s ($prepared to make the cluster;$seconds)"
((held > 0 && failed == 0))
