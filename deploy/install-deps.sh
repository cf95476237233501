#!/usr/bin/env bash
# Installs, with apt, what building and testing Millrace needs and this machine lacks; says what.
#
#   install-deps.sh [build|run|count|peers|browser]…
#       build: compile; run: tests and demo; count: instructions; peers: rules of Linux that the engine is compared with; browser: looks at
#       reports. Default: build, run and count.
#
# Nothing missing: no package manager is called, and no root is needed.
set -euo pipefail

# A thing to look for (a command, a file's path, or a shared library) and the Debian or Ubuntu package that has it.
build_needs=(
    "cc gcc"
    "/usr/include/stdlib.h libc6-dev"
    "clang clang"
    "/usr/include/bpf/bpf_helpers.h libbpf-dev"
    "/usr/include/linux/bpf.h linux-libc-dev"
    "m4 m4"
    "/usr/include/libelf.h libelf-dev"
    "/usr/include/zlib.h zlib1g-dev"
)
run_needs=(
    "ip iproute2"
    "ethtool ethtool"
    "ping iputils-ping"
    "traceroute traceroute"
    "curl curl"
    "python3 python3"
    "nft nftables"
    "lib:libusrsctp.so.2 libusrsctp2"
)
count_needs=(
    "valgrind valgrind"
)
peers_needs=(
    "nft nftables"
    "iptables-legacy-restore iptables"
)

browser_needs=(
    "chromium chromium"
)

# Root's PATH on Debian has sbin, a user's has not.
export PATH=$PATH:/usr/sbin:/sbin

missing=()
look() {
    local thing package
    for need in "$@"; do
        read -r thing package <<<"$need"
        if [[ $thing == lib:* ]]; then
            ldconfig -p | grep -qF "${thing#lib:} " || missing+=("$package")
        elif [[ $thing == /* ]]; then
            [[ -e $thing ]] || missing+=("$package")
        else
            command -v "$thing" >/dev/null || missing+=("$package")
        fi
    done
}

(($#)) || set -- build run count
for group in "$@"; do
    case $group in
    build) look "${build_needs[@]}" ;;
    run) look "${run_needs[@]}" ;;
    count) look "${count_needs[@]}" ;;
    peers) look "${peers_needs[@]}" ;;
    browser) look "${browser_needs[@]}" ;;
    *) echo "install-deps.sh: $group: say build, run, count, peers or browser" >&2; exit 2 ;;
    esac
done

if ! command -v cargo >/dev/null; then
    echo "install-deps.sh: there is no cargo; install Rust 1.90 or newer first (rustup, or your distribution's packages)" >&2
    exit 1
fi
if ((${#missing[@]} == 0)); then
    exit 0
fi
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if ! command -v apt-get >/dev/null; then
    echo "install-deps.sh: missing, and there is no apt-get to install them: ${missing[*]}" >&2
    exit 1
fi
as_root=()
if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
        echo "install-deps.sh: missing: ${missing[*]}; run as root (there is no sudo)" >&2
        exit 1
    fi
    as_root=(sudo)
fi
echo "Installing: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" >"$log" 2>&1 </dev/null
}
if ! apt update || ! apt install --no-install-recommends "${missing[@]}"; then
    tail -n 20 "$log" >&2
    echo "install-deps.sh: apt-get failed (its last lines are above); missing: ${missing[*]}" >&2
    exit 1
fi
