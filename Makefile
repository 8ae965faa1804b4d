# The commands of README. Everything is safe to run again.
#   make setup   what building and testing need; DEVICE=cuda: and PyTorch with CUDA and NCCL
#   make demo    fetch libtorch, build, train a real job on 2 ranks
#   make test    every test
#   make test-peers   the tests that run scripts of PyTorch: its peers of `make bench`, 3 GB, are installed
#   make soak    the long forms of tests: every combination of settings; hours
#   make bench   side by side with PyTorch DDP, DeepSpeed and Gloo (installs them into a cache)
#   make lint    rustfmt and clippy, as CI runs them
#   make install [PREFIX=~/.local]   a release build with its libtorch, for this machine
#   make dist    the same as an archive for others; make deb: as a Debian package

SHELL := /bin/bash
CARGO ?= cargo
# cuda: set up for nodes with GPUs, too.
DEVICE ?= cpu
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# Where the system tests and demo find the four binaries.
export RUSTSPEED_BIN_DIR = $(CARGO_TARGET_DIR)/debug
BINARIES = --bin coordinator --bin worker --bin trainer --bin rsctl

.PHONY: all setup build demo test test-peers soak bench portable install dist deb lint clean

all: build

setup:
	@DEVICE=$(DEVICE) tools/setup.sh

build: setup
	$(CARGO) build -p coordinator -p worker -p trainer -p rsctl $(BINARIES)

demo: build
	$(RUSTSPEED_BIN_DIR)/rsctl run configs/jobs/co2-lstm.toml

# The control plane first (seconds, no libtorch), then what links libtorch, then real processes.
test: build
	$(CARGO) test -q
	$(CARGO) test -q -p engine -p trainer
	$(CARGO) test -q -p tests -- --test-threads 2

# Unmodified scripts of PyTorch on our workers; `make test` skips them where no Python has torch.
test-peers: build
	RUSTSPEED_PEERS_PYTHON=$$(python3 bench/run.py --peers)/bin/python RUSTSPEED_NO_SKIPS=1 \
		$(CARGO) test -q -p tests --test it launch

# Tests named soak_* have a long form. SOAK=soak_part_of_a_name picks some; each ends after
# SOAK_MINUTES at the latest, and the order of its cases is that of RUSTSPEED_SOAK_SEED, if given.
SOAK ?= soak_
SOAK_MINUTES ?= 60
# The same three builds as `make test`: after it nothing is built again.
soak: export RUSTSPEED_SOAK = 1
soak: export RUSTSPEED_SOAK_MINUTES = $(SOAK_MINUTES)
soak: LONG_FORMS = --nocapture --test-threads 1 $(SOAK)
soak: build
	$(CARGO) test -q -- $(LONG_FORMS)
	$(CARGO) test -q -p engine -p trainer -- $(LONG_FORMS)
	$(CARGO) test -q -p tests -- $(LONG_FORMS)

bench: setup
	$(CARGO) build --release -p coordinator -p worker -p trainer -p rsctl $(BINARIES)
	$(CARGO) build --release -p collectives -p checkpoint -p coordinator --examples
	python3 bench/run.py --bin-dir $(CARGO_TARGET_DIR)/release $(BENCH_ARGS)

# What goes elsewhere finds libtorch beside itself only (trainer/build.rs).
portable: export WITHOUT_TESTS = 1
portable: setup
	RUSTSPEED_PORTABLE=1 $(CARGO) build --release --locked -p coordinator -p worker -p trainer -p rsctl $(BINARIES)

PREFIX ?= $(HOME)/.local
install: portable
	tools/install.sh "$(CARGO_TARGET_DIR)/release" "$(PREFIX)"

dist: portable
	tools/dist.sh "$(CARGO_TARGET_DIR)/release" target/dist

# cargo-deb packs the tree that `make install PREFIX=/usr` would lay; rsctl/Cargo.toml says how.
deb: portable
	@$(CARGO) deb --version >/dev/null 2>&1 || { echo "make deb needs cargo-deb: cargo install --locked cargo-deb"; exit 1; }
	rm -rf target/deb && mkdir -p target/dist
	DESTDIR=target/deb tools/install.sh "$(CARGO_TARGET_DIR)/release" /usr
	$(CARGO) deb -p rsctl --no-build --no-strip -o target/dist/

lint: setup
	$(CARGO) fmt --check
	$(CARGO) clippy -q --workspace --all-targets -- -D warnings

clean:
	$(CARGO) clean
