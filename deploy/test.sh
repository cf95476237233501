#!/usr/bin/env bash
# Everything that CI runs, in one go: formatting, lints, all tests on real interfaces too, the model
# checks, the release build and the demo's network under it. The last line says how it went.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PATH:/usr/sbin:/sbin
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}

step=start
passed=()
finish() {
    local status=$?
    trap - EXIT
    as_root deploy/sweep.sh || true
    if ((status == 0)); then
        echo "make test: passed in $SECONDS s: ${passed[*]}"
    elif ((status == 130 || status == 143)); then
        echo "make test: interrupted in: $step"
    else
        echo "make test: FAILED in: $step (after $SECONDS s; passed before: ${passed[*]:-nothing})"
    fi
    exit "$status"
}
as_root() {
    if ((EUID == 0)); then "$@"; else sudo --preserve-env "$@"; fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

run() {
    step=$1
    shift
    local began=$SECONDS
    printf '\n== %s: %s\n' "$step" "$*"
    "$@"
    passed+=("$step ($((SECONDS - began)) s)")
}

# What a packet costs in instructions, beside its budget.
instructions() {
    "$cargo" build --locked --release -p millrace-perf
    "$MILLRACE_BIN/millrace-perf" core --instructions --gate perf/budget.toml
}

step=dependencies
deploy/install-deps.sh

# A test that finds no privilege fails instead of skipping; the binaries are those that users run.
export MILLRACE_PRIVILEGED=1
export MILLRACE_BIN=$PWD/target/release
[[ $target == /* ]] && MILLRACE_BIN=$target/release
if ((EUID != 0)); then
    host=$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')
    runner=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUNNER
    export "$runner=sudo --preserve-env"
fi

run format "$cargo" fmt --all --check
run clippy "$cargo" clippy --locked --workspace --all-targets -- -D warnings
run release "$cargo" build --locked --release -p millrace-dataplane -p millrace-control -p millrace -p millrace-apiserver -p millrace-pktgen
run tests "$cargo" test --locked --workspace
if command -v kubectl >/dev/null; then
    run e2e as_root deploy/e2e/run.sh --own
else
    echo "e2e: skipped: no kubectl here"
fi
run cluster as_root deploy/cluster/run.sh --short
run instructions instructions
run models env RUSTFLAGS="--cfg loom" "$cargo" test --locked --release -p millrace-tables --test loom --target-dir "$target/loom"
