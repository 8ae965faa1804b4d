# The commands of README. Everything is safe to run again.
#   make demo    fetch libtorch, build, train a real job on 2 ranks
#   make test    every test
#   make bench   side by side with PyTorch DDP, DeepSpeed and Gloo (installs them into a cache)
#   make lint    rustfmt and clippy, as CI runs them

SHELL := /bin/bash
CARGO ?= cargo
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# Where the system tests and demo find the four binaries.
export RUSTSPEED_BIN_DIR = $(CARGO_TARGET_DIR)/debug
BINARIES = --bin coordinator --bin worker --bin trainer --bin rsctl

.PHONY: all setup build demo test bench install lint clean

all: build

setup:
	@tools/setup.sh

build: setup
	$(CARGO) build -p coordinator -p worker -p trainer -p rsctl $(BINARIES)

demo: build
	$(RUSTSPEED_BIN_DIR)/rsctl run configs/jobs/co2-lstm.toml

# The control plane first (seconds, no libtorch), then what links libtorch, then real processes.
test: build
	$(CARGO) test -q
	$(CARGO) test -q -p engine -p trainer
	$(CARGO) test -q -p tests -- --test-threads 2

bench: setup
	$(CARGO) build --release -p coordinator -p worker -p trainer -p rsctl $(BINARIES)
	$(CARGO) build --release -p collectives --examples
	python3 bench/run.py --bin-dir $(CARGO_TARGET_DIR)/release $(BENCH_ARGS)

PREFIX ?= $(HOME)/.local
install: setup
	$(CARGO) build --release -p coordinator -p worker -p trainer -p rsctl $(BINARIES)
	install -D -t $(PREFIX)/bin $(addprefix $(CARGO_TARGET_DIR)/release/,coordinator worker trainer rsctl)

lint: setup
	$(CARGO) fmt --check
	$(CARGO) clippy -q --workspace --all-targets -- -D warnings

clean:
	$(CARGO) clean
