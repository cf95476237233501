# Every command installs what it needs and lacks (deploy/install-deps.sh), and cleans up after itself.

CARGO ?= cargo
BINARIES = -p millrace-dataplane -p millrace-control -p millrace -p millrace-pktgen -p millrace-doctor

BIN = $(abspath $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)/release)
PERF = $(BIN)/millrace-perf

# The demo and the privileged tests make network namespaces; nothing else runs as root.
SUDO = $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=PATH,KUBECONFIG)

.PHONY: help build test demo cluster policy e2e bench bench-core bench-publish bench-policies bench-cluster bench-peers clean

help:
	@echo "make demo           curl, UDP, ping, traceroute, live changes and a killed control, on real packets"
	@echo "make cluster        three nodes in service-proxy mode, pods and a client: every kind of Service from everywhere"
	@echo "make policy         NetworkPolicies by packets, at length: random worlds, a thousand pod starts"
	@echo "make test           everything that CI runs"
	@echo "make e2e            Services of the cluster that KUBECONFIG names, or of an API server of ours, as they are served"
	@echo "make bench          the engine beside a bare AF_XDP forwarder, in one run"
	@echo "make bench-core     the engine alone, in memory: nanoseconds, cycles and instructions per packet, by scenario"
	@echo "make bench-publish  full loads and single changes from control to the workers, at full size"
	@echo "make bench-policies 10,000 policies and 5,000 pods from control to the workers: a label's change, bytes a rule and a pod"
	@echo "make bench-cluster  the control process on an API server of ours: start, changes and memory, at full size"
	@echo "make bench-peers    the engine beside DPDK's programs in memory, and beside Linux's rules on veth: some 25 minutes"
	@echo "make build          the release binaries, in target/release"
	@echo "make clean          removes what was built, and namespaces that a killed run left"

build:
	@deploy/install-deps.sh build
	$(CARGO) build --locked --release $(BINARIES)

test:
	@deploy/test.sh

demo: build
	@deploy/install-deps.sh run
	@$(SUDO) deploy/demo.sh

cluster: build
	@deploy/install-deps.sh run
	@$(SUDO) deploy/cluster/run.sh

policy: build
	@deploy/install-deps.sh run
	@$(CARGO) test --locked -p millrace-dataplane --test netns_policy --no-run
	@$(SUDO) env MILLRACE_PRIVILEGED=1 MILLRACE_BIN=$(BIN) $(CARGO) test --locked -p millrace-dataplane --test netns_policy -- --include-ignored --nocapture --test-threads 1

e2e: build
	@deploy/install-deps.sh run
	$(CARGO) build --locked --release -p millrace-apiserver
	@$(SUDO) deploy/e2e/run.sh $(if $(KUBECONFIG),,--own)

bench: build
	@deploy/install-deps.sh run
	$(CARGO) build --locked --release -p millrace-perf
	@$(SUDO) $(PERF) veth

bench-core:
	@deploy/install-deps.sh build count
	$(CARGO) build --locked --release -p millrace-perf
	$(PERF) core
	$(PERF) core --instructions --gate perf/budget.toml

# Needs no root: queues in memory.
bench-publish:
	@deploy/install-deps.sh build
	$(CARGO) build --locked --release -p millrace-perf
	$(PERF) publish --check

bench-policies:
	@deploy/install-deps.sh build
	$(CARGO) build --locked --release -p millrace-perf
	$(PERF) policies --check

bench-cluster:
	@deploy/install-deps.sh build
	$(CARGO) build --locked --release -p millrace-perf -p millrace-control
	$(PERF) cluster --check

# DPDK's packages are unpacked into the user's cache folder, not installed.
bench-peers: build
	@deploy/install-deps.sh run peers
	$(CARGO) build --locked --release -p millrace-perf
	$(PERF) peers --fetch
	@$(SUDO) $(PERF) peers --veth

clean:
	$(CARGO) clean
	@$(SUDO) deploy/sweep.sh
