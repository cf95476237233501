# Every command installs what it needs and lacks (deploy/install-deps.sh), and cleans up after itself.

CARGO ?= cargo
BINARIES = -p millrace-dataplane -p millrace-control -p millrace

# The demo and the privileged tests make network namespaces; nothing else runs as root.
SUDO = $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=PATH)

.PHONY: help build test demo bench clean

help:
	@echo "make demo    curl, UDP, ping, traceroute, live changes and a killed control, on real packets"
	@echo "make test    everything that CI runs"
	@echo "make bench   the engine beside a bare AF_XDP forwarder, in one run"
	@echo "make build   the release binaries, in target/release"
	@echo "make clean   removes what was built, and namespaces that a killed run left"

build:
	@deploy/install-deps.sh build
	$(CARGO) build --locked --release $(BINARIES)

test:
	@deploy/test.sh

demo: build
	@deploy/install-deps.sh run
	@$(SUDO) deploy/demo.sh

bench: build
	@deploy/install-deps.sh run
	$(CARGO) build --locked --release -p millrace-perf
	@$(SUDO) target/release/millrace-perf veth

clean:
	$(CARGO) clean
	@$(SUDO) deploy/sweep.sh
