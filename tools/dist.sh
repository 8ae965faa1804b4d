#!/usr/bin/env bash
# One archive of everything that a node needs: DIR/rustspeed-VERSION-MACHINE-linux.tar.gz and its checksum.
# The same files give the same archive: sorted, owned by root, as old as the commit.
#
#   tools/dist.sh target/release target/dist
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# = 2 ] || { echo "usage: $0 BIN_DIR DIR" >&2; exit 1; }
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
name=rustspeed-$version-$(uname -m)-linux
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}

mkdir -p "$2"
stage=$(mktemp -d "$2/.stage.XXXXXX")
trap 'rm -rf "$stage"' EXIT
# Laid for /usr/local, which the units name.
DESTDIR=$stage "$root/tools/install.sh" "$1" /usr/local
chmod -R u=rwX,go=rX "$stage"
tar -C "$stage/usr/local" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" --format=gnu \
    --transform="s,^\.,$name," -cf - . | gzip -n -6 > "$2/$name.tar.gz.new"
mv "$2/$name.tar.gz.new" "$2/$name.tar.gz"
(cd "$2" && sha256sum "$name.tar.gz" > "$name.tar.gz.sha256")
echo "$2/$name.tar.gz"
