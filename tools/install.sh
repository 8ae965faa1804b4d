#!/usr/bin/env bash
# Lays an installed tree: the four binaries in PREFIX/bin, the libraries of libtorch that the trainer needs
# in PREFIX/lib/rustspeed, where it looks first, and systemd's units, examples and documents.
#
#   tools/install.sh target/release /usr/local
#   DESTDIR=stage tools/install.sh target/release /usr    # the same below `stage`, for packages
#   LIBTORCH=DIR, COPY="ln -s"                            # another libtorch; how its 450 MB get there
set -euo pipefail
# Daemons run as other users than whoever installs.
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf 'install: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
[ $# = 2 ] || die "usage: $0 BIN_DIR PREFIX"
bin_dir=$(cd "$1" && pwd)
prefix=${2%/}
case $prefix in /*) ;; *) die "PREFIX=$2 must be an absolute path" ;; esac
# Units name it in ExecStart=, where these mean something else.
case $prefix in *[[:space:]\"\'\\%$\;\|\&]*) die "PREFIX=$2 must hold no spaces and none of \" ' \\ % \$ ; | &" ;; esac
to=${DESTDIR:-}$prefix
copy=${COPY:-cp}
libtorch=${LIBTORCH:-$(sed -n 's/^LIBTORCH = "\(.*\)"$/\1/p' "$root/.cargo/config.toml" 2>/dev/null || true)}
[ -e "$libtorch/lib/libtorch_cpu.so" ] || die "no libtorch in '$libtorch': run \`make setup\`, or set LIBTORCH"

# A running binary cannot be overwritten: `install` removes the old one first.
install_binaries() {
    local name
    for name in coordinator worker trainer rsctl; do
        [ -x "$bin_dir/$name" ] || die "$bin_dir/$name is missing: build it first"
        install -D -m 755 -t "$to/bin" "$bin_dir/$name"
    done
}

# Of libtorch what the dynamic loader takes for the trainer, and not the rest.
install_libraries() {
    local needed name path
    needed=$(LD_LIBRARY_PATH=$libtorch/lib ldd "$bin_dir/trainer") || die "ldd: $bin_dir/trainer"
    ! grep 'not found' <<<"$needed" >&2 || die "the trainer lacks these libraries"
    mkdir -p "$to/lib/rustspeed"
    while read -r name _ path _; do
        [[ $path == "$libtorch/lib/"* ]] || continue
        rm -f "$to/lib/rustspeed/$name"
        $copy "$path" "$to/lib/rustspeed/$name"
    done <<<"$needed"
    [ -e "$to/lib/rustspeed/libtorch_cpu.so" ] || die "the trainer does not use $libtorch/lib"
}

# The units name their binaries and documents by full paths.
install_units() {
    local unit
    for unit in "$root"/deploy/systemd/*.service; do
        install -D -m 644 -t "$to/lib/systemd/system" "$unit"
        sed -i "s|/usr/local/|$prefix/|" "$to/lib/systemd/system/$(basename "$unit")"
    done
    install -D -m 644 "$root/deploy/systemd/rustspeed.sysusers" "$to/lib/sysusers.d/rustspeed.conf"
}

install_documents() {
    install -D -m 644 -t "$to/share/doc/rustspeed" "$root"/{LICENSE,README.md,CHANGELOG.md} "$root"/docs/*.md
    install -D -m 644 -t "$to/share/rustspeed/config" "$root"/deploy/config/*.toml
    install -D -m 644 -t "$to/share/rustspeed/slurm" "$root"/deploy/slurm/*.sbatch
}

install_binaries
install_libraries
install_units
install_documents
say "installed in $to"
