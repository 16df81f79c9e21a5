# Two commands matter: `make run` (the quickstart) and `make test` (every check). Both set up what they need.
# Each step says what it does and how long it took (.ci/step).

SHELL := /bin/bash
STEP  := .ci/step
CARGO := cargo
ifdef CI
# A warning that nobody sees is a warning that stays.
DENY_WARNINGS := -D warnings
endif

.PHONY: help soak run run-cluster test setup setup-run build format lint dependencies apiserver h2spec unit quickstart quickstart-cluster doc bench deny clean attack attack-short fuzz

help: ## These lines.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: setup-run ## Build, and serve the quickstart of conf/quickstart on 8080, 8443 and 10254.
	@$(STEP) "Build the gateway" $(CARGO) build --locked --package sluicegate
	@exec conf/quickstart/start

run-cluster: ## The whole system on this machine: an API server, the controller, a gateway. The first build takes ten minutes.
	@$(STEP) "Set up" .ci/setup run-cluster
	@$(STEP) "Build the API server (the first time five minutes)" .ci/apiserver
	@$(STEP) "Build gateway and controller" $(CARGO) build --locked --package sluicegate --package sluicegate-controller --package sluicegate-testbed
	@exec conf/quickstart-cluster/start

test: setup ## Set up and run every check: what CI runs.
	@$(MAKE) --no-print-directory format lint dependencies apiserver h2spec unit attack-short quickstart quickstart-cluster doc
	@echo "==> All checks passed"

setup: ## Install what the checks need.
	@$(STEP) "Set up" .ci/setup test

setup-run:
	@$(STEP) "Set up" .ci/setup run

build: ## Build everything.
	@$(STEP) "Build" $(CARGO) build --locked --workspace --all-targets

format:
	@$(STEP) "Format" $(CARGO) fmt --all --check

lint:
	@$(STEP) "Lints (the first time also compiles the dependencies)" $(CARGO) clippy --locked --workspace --all-targets --quiet -- $(DENY_WARNINGS)

dependencies:
	@$(STEP) "Dependencies: one TLS stack, one HTTP stack" .ci/dependencies

apiserver: # A real one, for the controller's tests.
	@$(STEP) "API server for the tests (the first time five minutes)" .ci/apiserver

h2spec: # The conformance suite of HTTP/2, for the gateway's tests.
	@$(STEP) "Build h2spec" .ci/h2spec

unit: # The programs first: a test runs those of other packages, the quickstarts all.
	@$(STEP) "Build programs and tests" $(CARGO) build --locked --workspace --bins --tests
	@$(STEP) "Tests: unit, property, integration" $(CARGO) test --locked --workspace

attack-short: # Apart from the other tests, which it would take the CPUs from.
	@$(STEP) "Attacks, in short" $(CARGO) test --locked --package sluicegate --test suite --quiet -- --ignored attack

quickstart: # After `unit`, which builds the programs, as the next.
	@$(STEP) "Quickstart: what it prints works" .ci/quickstart

quickstart-cluster:
	@$(STEP) "Cluster quickstart: what it prints works" .ci/quickstart-cluster

doc:
	@$(STEP) "Documentation" env RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet

fuzz: setup ## Ten million broken inputs (or FUZZ=N of FUZZ_SEED=N) for everything that reads what others send.
	@$(STEP) "Fuzz" env FUZZ=$(or $(FUZZ),10000000) $(CARGO) test --locked --profile soak --package sluicegate --test suite -- fuzz:: --nocapture

bench: ## Measure lookups, compile, memory and load (docs/benchmarks.md).
	@$(STEP) "Set up" .ci/setup bench
	@$(STEP) "API server (the first time five minutes)" .ci/apiserver
	@$(STEP) "Lookups and compile" $(CARGO) bench --locked --package sluicegate-benches
	@$(STEP) "Build for the measurements" $(CARGO) build --locked --release --package sluicegate --package sluicegate-controller --package sluicegate-benches
	@for what in table certificates wire file-edit connections cluster; do $(STEP) "Measure: $$what" target/release/measure $$what || exit 1; done
	@$(STEP) "Load beside nginx" benches/load/run

soak: setup ## What goes on for long, in full, with optimised programs. `make test` has the short forms.
	@$(MAKE) --no-print-directory apiserver
	@$(STEP) "Build the tests" $(CARGO) build --locked --workspace --bins --tests
	@$(STEP) "Build optimised programs" $(CARGO) build --locked --release --package sluicegate --package sluicegate-controller --package sluicegate-testbed
	@$(STEP) "Rolling updates: a million requests (the gateway as the tests have it)" env SOAK=1 $(CARGO) test --locked --package sluicegate --test suite -- rollouts --nocapture
	@$(STEP) "Build optimised tests" $(CARGO) build --locked --profile soak --package sluicegate-controller --package sluicegate-testbed --bins --tests
	@for what in endurance leader::one_writes; do $(STEP) "Controller: $$what" env SOAK=1 PROGRAMS=$(CURDIR)/target/release $(CARGO) test --locked --profile soak --package sluicegate-controller --test suite -- $$what --nocapture --test-threads 1 || exit 1; done

attack: setup ## Every attack on the gateway, in full, with an optimised one: docs/security-figures.md. `make test` has the short form.
	@$(STEP) "Build an optimised gateway" $(CARGO) build --locked --release --package sluicegate
	@$(STEP) "Build the attackers" $(CARGO) test --locked --profile soak --package sluicegate --test suite --no-run
	@$(STEP) "Attack" env ATTACK=1 PROGRAMS=$(CURDIR)/target/release $(CARGO) test --locked --profile soak --package sluicegate --test suite --quiet -- --ignored attack

deny: ## Licences, advisories, sources and bans of all dependencies, with cargo-deny.
	@command -v cargo-deny >/dev/null || $(STEP) "Install cargo-deny" $(CARGO) install --locked cargo-deny
	@$(STEP) "cargo-deny" $(CARGO) deny check

clean: ## Remove what was built.
	$(CARGO) clean
