# Sourced by run.sh: what a check is, and how one asks.

ns() { echo "$prefix-$1"; }

# at NAME COMMAND…: in a namespace of ours.
at() {
    local name
    name=$(ns "$1")
    shift
    ip netns exec "$name" "$@"
}

step() { printf '\n%s\n' "$*"; }

good() {
    held=$((held + 1))
    [[ -n ${quiet:-} ]] || printf '  ✓ %s\n' "$1"
}

bad() {
    failed=$((failed + 1))
    printf '  ✗ %s\n' "$1"
    printf '%s\n' "${2:-}" | sed 's/^/      /'
}

# check WHAT PATTERN COMMAND…: whether the command's output matches the whole pattern.
check() {
    local what=$1 pattern=$2 said status=0
    shift 2
    said=$("$@" 2>&1) || status=$?
    if [[ $said =~ ^($pattern)$ ]]; then
        good "$what"
    else
        bad "$what" "wanted $pattern; got (status $status): $said"
    fi
}

# runs PID: a process of ours, which ends with us.
runs() { echo "$1" >>"$work/pids"; }

# aside COMMAND…: checks that wait more than they work, in the background; nothing that they leave in variables comes back.
asides=() behind=()
aside() {
    local log
    log=$(mktemp "$work/aside.XXXXXX")
    (asides=() && "$@" && gather) >"$log" 2>&1 &
    asides+=("$!:$log")
}

# gather: what the checks in the background have come to.
gather() {
    local it status
    for it in "${asides[@]}"; do
        status=0
        wait "${it%%:*}" || status=$?
        count "${it#*:}"
        ((status == 0)) || bad "checks in the background" "ended with status $status"
    done
    asides=()
}

# count FILE: checks that others have written down.
count() {
    cat "$1"
    held=$((held + $(grep -c '^  ✓' "$1" || true)))
    failed=$((failed + $(grep -c '^  ✗' "$1" || true)))
}

# patiently SECONDS COMMAND…: asks no longer than that.
patiently() {
    local patience=$1
    shift
    "$@"
}

# within SECONDS COMMAND…: until it holds, or the time is over.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

bracketed() { if [[ $1 == *:* ]]; then echo "[$1]"; else echo "$1"; fi; }

# Any pod.
one="[123][ab]"

# tcp FROM ADDRESS PORT [PATH]: who answers, and as whom we were seen; `refused` or `silence` where nobody does.
tcp() {
    local status=0
    at "$1" curl -s --max-time "${patience:-2}" "http://$(bracketed "$2"):$3${4:-/}" | sed 's/ 0$//' || status=$?
    case $status in
    0) ;;
    7) echo refused ;;
    28) echo silence ;;
    *) echo "curl: $status" ;;
    esac
}

# udp FROM ADDRESS PORT [SIZE]: the same.
udp() { at "$1" python3 -IS "$here/peer.py" ask "$2" "$3" "${4:-16}" "${patience:-2}" | sed 's/ [0-9]*$//'; }

# who FROM ADDRESS PORT [COUNT]: all who answer flows over UDP, each once.
who() { at "$1" python3 -IS "$here/peer.py" many "$2" "$3" "${4:-12}" "${patience:-2}"; }

ping_of() { at "$1" ping -c 2 -i 0.2 -W 1 "$2" | grep loss; }

size_of() { at "$1" curl -s --max-time 20 -o /dev/null -w '%{size_download}' "http://$2/big"; }

upload() { head -c 1048576 /dev/zero | at "$1" curl -s --max-time 20 --data-binary @- -H 'Expect:' "http://$(bracketed "$2"):$3/"; }
