#!/usr/bin/env bash
# Prepares a machine to build and test RustSpeed; safe to run again. Installs what is missing:
# build tools from apt (only as root, only if absent), libtorch 2.11.0 for the CPU from PyPI wheels
# into a cache outside the checkout, and writes the git-ignored .cargo/config.toml.
#
#   tools/setup.sh                # everything that `make test` and `make demo` need
#   DEVICE=cuda tools/setup.sh    # and PyTorch with CUDA and NCCL, for nodes with GPUs (3 GB)
#   RUSTSPEED_CACHE=DIR tools/setup.sh
#   WITHOUT_TESTS=1 tools/setup.sh   # what building needs, and no more
set -euo pipefail

TORCH=2.11.0
CUDART=13.0.96
CUPTI=13.0.85
# The folder's format; raise it when the steps below change, so that old caches are made anew.
LAYOUT=1

device=${DEVICE:-cpu}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${RUSTSPEED_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rustspeed}
libtorch=$cache/libtorch-$TORCH-cpu
cuda=$cache/torch-$TORCH-cuda
say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

ensure_apt_packages() {
    local missing=()
    command -v cc >/dev/null && command -v g++ >/dev/null || missing+=(build-essential)
    command -v python3 >/dev/null || missing+=(python3)
    python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || die "install these by hand: ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "run as root once, or: sudo apt-get install ${missing[*]}"
    say "apt-get install ${missing[*]}"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"
}

# Daemons that the system tests start themselves, so they are not to start by themselves.
install_daemons() {
    local policy=/usr/sbin/policy-rc.d
    say "apt-get install $*"
    (
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            install -m 755 /dev/stdin "$policy" <<<$'#!/bin/sh\nexit 101'
        fi
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$@"
    )
}

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# A real SLURM for the system tests, which need root to start it: without it they are skipped, and
# say so.
ensure_slurm() {
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
    if ! can_install; then
        say "no SLURM here: its system tests will be skipped (they need root and Debian's slurm packages)"
        return
    fi
    install_daemons slurmctld slurmd slurm-client munge ||
        say "SLURM could not be installed: its system tests will be skipped"
}

# A real sshd, and ssh, for the system tests of hosts that are reached over ssh.
ensure_sshd() {
    { command -v sshd >/dev/null || [ -x /usr/sbin/sshd ]; } && command -v ssh >/dev/null && return
    if ! can_install; then
        say "no sshd here: its system tests will be skipped (Debian's openssh-server and openssh-client)"
        return
    fi
    install_daemons openssh-server openssh-client ||
        say "sshd could not be installed: its system tests will be skipped"
}

ensure_rust() {
    command -v cargo >/dev/null || die "no cargo: install Rust 1.95 or later from https://rustup.rs"
}

unpack() { python3 -m zipfile -e "$1" "$2"; }

# The wheel's libtorch.so needs the CUDA library; torch-sys only wants something to link by that
# name, so a stub that pulls in libtorch_cpu.so takes its place.
make_torch_stub() {
    cc -shared -o "$1/libtorch.so" -x c /dev/null -Wl,-soname,libtorch.so \
        -Wl,--no-as-needed -L"$1" -ltorch_cpu -Wl,-rpath,"\$ORIGIN" -Wl,--allow-shlib-undefined
}

ensure_libtorch() {
    [ "$(cat "$libtorch/.layout" 2>/dev/null)" = "$LAYOUT" ] && { say "libtorch $TORCH: $libtorch"; return; }
    say "fetching libtorch $TORCH (CPU, 545 MB from PyPI) into $libtorch"
    tmp=$(mktemp -d "$cache/.libtorch.XXXXXX") # not local: the trap runs after this function
    trap 'rm -rf "$tmp"' EXIT
    local platforms=() glibc
    for glibc in 2_28 2_27 2_25 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64)
    python3 -m pip download -q --no-deps --only-binary :all: --python-version 3.11 \
        "${platforms[@]}" -d "$tmp/wheels" \
        "torch==$TORCH" "nvidia-cuda-runtime==$CUDART" "nvidia-cuda-cupti==$CUPTI"
    for wheel in "$tmp"/wheels/*.whl; do unpack "$wheel" "$tmp/unpacked"; done
    mkdir -p "$tmp/new/lib"
    mv "$tmp/unpacked/torch/include" "$tmp/new/include"
    for name in libtorch_cpu.so libc10.so libgomp.so.1 libcudart.so.13 libcupti.so.13; do
        local found; found=$(find "$tmp/unpacked" -name "$name" -print -quit)
        [ -n "$found" ] || die "the wheels hold no $name"
        mv "$found" "$tmp/new/lib/$name"
    done
    make_torch_stub "$tmp/new/lib"
    echo "$LAYOUT" > "$tmp/new/.layout"
    rm -rf "$libtorch" && mv "$tmp/new" "$libtorch"
    rm -rf "$tmp"; trap - EXIT
}

# What a GPU needs: PyTorch as PyPI has it, with the CUDA and NCCL packages that it asks for. The same
# trainer binary runs on it with its `lib` first in LD_LIBRARY_PATH, and Python has it for
# comparisons. Nothing is linked against it.
ensure_cuda() {
    local lib
    [ "$(cat "$cuda/.layout" 2>/dev/null)" = "$LAYOUT" ] && { say "PyTorch $TORCH with CUDA: $cuda"; return; }
    say "fetching PyTorch $TORCH with CUDA and NCCL (3 GB from PyPI) into $cuda"
    rm -rf "$cuda"
    python3 -m venv "$cuda"
    "$cuda/bin/pip" install -q --no-compile --only-binary :all: "torch==$TORCH" numpy
    lib=$(echo "$cuda"/lib/python3*/site-packages)
    [ -e "$lib/torch/lib/libtorch_cuda.so" ] || die "PyPI's torch $TORCH for this machine has no CUDA"
    [ -e "$lib/nvidia/nccl/lib/libnccl.so.2" ] || die "PyPI's torch $TORCH brought no NCCL"
    echo "$LAYOUT" > "$cuda/.layout"
}

# TensorBoard's and safetensors' own readers, for the system tests, and linters of what lies in deploy/.
ensure_test_venv() {
    local wanted=$root/tests/requirements.txt venv=$cache/test-venv
    cmp -s "$wanted" "$venv/requirements.txt" && return
    say "installing the system tests' Python readers into $venv"
    # In place where it works: tests of another clone may be reading from it.
    "$venv/bin/pip" --version >/dev/null 2>&1 || { rm -rf "$venv"; python3 -m venv "$venv"; }
    "$venv/bin/pip" install -q -r "$wanted"
    cp "$wanted" "$venv/requirements.txt"
}

# Each clone has a build-dir of its own in the cache: cargo gives path crates the same hash in every
# clone, so clones that shared one would silently use each other's code.
write_cargo_config() {
    mkdir -p "$root/.cargo"
    local new; new=$(cat <<CONFIG
# Written by tools/setup.sh; not in git. The same in every clone of this user.
[build]
build-dir = "$cache/build/{workspace-path-hash}"

[env]
LIBTORCH = "$libtorch"
LIBTORCH_LIB = "$libtorch"
LIBTORCH_INCLUDE = "$libtorch"
CONFIG
)
    [ "$(cat "$root/.cargo/config.toml" 2>/dev/null)" = "$new" ] || printf '%s\n' "$new" > "$root/.cargo/config.toml"
}

# What a new clone takes from another's build-dir: compiled dependencies, above all torch-sys, and
# nothing of our own rooms. Cargo holds these locks while it builds: a copy taken meanwhile would
# hold half-written libraries that pass for whole ones.
copy_dependencies() {
    local from=$1 to=$2 room excludes=(--exclude=incremental --exclude=examples --exclude=tmp)
    for room in $(sed -n '/^members/,/^]/s/"\([a-z]*\)",*/\1/gp' "$root/Cargo.toml") it tidy numerics; do
        excludes+=("--exclude=deps/$room-*" "--exclude=deps/lib$room-*" "--exclude=.fingerprint/$room-*" "--exclude=build/$room-*")
    done
    local lock fd
    for lock in "$from"/*/.cargo-lock; do
        exec {fd}<"$lock"
        flock -n -s "$fd" || { say "not from the clone $(cat "$from/.clone"): it is being built"; return 1; }
    done
    rm -rf "$to.new" && mkdir -p "$to.new"
    tar -C "$from" "${excludes[@]}" --exclude=.clone -cf - . | tar -C "$to.new" -xf - ||
        { say "not from the clone $(cat "$from/.clone"): it could not be copied"; rm -rf "$to.new"; return 1; }
    mv "$to.new" "$to"
}

# Build-dirs of clones that are gone give their dependencies to this one, if it is new, and go too.
ensure_build_dir() {
    local dir clone donor=
    dir=$(cd "$root" && cargo metadata --no-deps --format-version 1 |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["build_directory"])')
    if [ ! -e "$dir" ]; then
        mkdir -p "$(dirname "$dir")"
        for clone in $(ls -t "$cache"/build/*/*/.clone 2>/dev/null); do
            donor=$(dirname "$clone")
            # In a shell of its own, whose end gives the locks back.
            (copy_dependencies "$donor" "$dir") || continue
            say "took compiled dependencies from the clone $(cat "$donor/.clone")"
            break
        done
    fi
    mkdir -p "$dir" && printf '%s\n' "$root" > "$dir/.clone"
    for clone in "$cache"/build/*/*/.clone; do
        [ -d "$(cat "$clone")" ] || { rm -rf "$(dirname "$clone")"; rmdir "$(dirname "$(dirname "$clone")")" 2>/dev/null || true; }
    done
}

case $device in cpu | cuda) ;; *) die "DEVICE=$device: cpu or cuda" ;; esac
mkdir -p "$cache"
ensure_apt_packages
ensure_rust
ensure_libtorch
[ "$device" = cpu ] || ensure_cuda
[ "${WITHOUT_TESTS:-}" = 1 ] || { ensure_slurm; ensure_sshd; ensure_test_venv; }
write_cargo_config
ensure_build_dir
say "ready: make demo, make test"
