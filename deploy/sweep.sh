#!/usr/bin/env bash
# Removes what tests, benches and demos left that were killed before they could clean up: network namespaces
# with the processes in them, and their temporary folders. Names tell whose a thing is:
# millrace-<what>-<pid>-<rest>. Those of processes that live are not touched.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

is_left_over() {
    [[ $1 =~ ^millrace-[a-z]+-([0-9]+)(-|$) ]] && [[ ! -e /proc/${BASH_REMATCH[1]} ]]
}

if command -v ip >/dev/null; then
    while read -r name _; do
        is_left_over "$name" || continue
        # Two sweeps may meet: the other one was faster.
        ip netns pids "$name" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns del "$name" 2>/dev/null || true
    done < <(ip netns list)
fi
for folder in "${TMPDIR:-/tmp}"/millrace-*; do
    if [[ -d $folder ]] && is_left_over "${folder##*/}"; then
        rm -rf "$folder"
    fi
done
