#!/usr/bin/env bash
# Builds the Go module in folder $1 as one static binary named $2 with linker flags $3, once, and prints the binary's
# path. The result is kept outside the tree under the hash of what it is made from, so only a change builds again.
set -euo pipefail
cd "$1"
name=$2 ldflags=${3:-}
fail() { echo "build.sh: $1" >&2; exit 3; }
hash=$(cat go.mod go.sum main.go build.sh | sha256sum | cut -c1-16)
cache=${MESH_K8S_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mesh-k8s}
binary=$cache/$name-$hash
if [ -x "$binary" ]; then
    echo "$binary"
    exit 0
fi
need=$(sed -n 's/^go \([0-9.]*\)$/\1/p' go.mod)
command -v go >/dev/null || fail "Go is missing; install Go $need or newer"
have=$(go env GOVERSION)
printf '%s\n%s\n' "$need" "${have#go}" | sort -CV || fail "Go $need or newer is needed to build $name, and $have is installed; install a newer Go"
mkdir -p "$cache" || fail "cannot make the cache folder $cache; name a writable one in MESH_K8S_CACHE"
# Two runs at once would both take every core for minutes: the second waits and finds the binary.
exec 9>"$cache/$name.lock"
flock 9
if [ ! -x "$binary" ]; then
    # A build cache of its own, thrown away afterwards: it would be some gigabytes for nothing.
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    for folder in "$scratch" "$cache"; do
        free=$(df --output=avail -B1M "$folder" | tail -1)
        [ "$free" -ge 5000 ] || fail "building $name needs 5 GB and $folder has $free MB free; free some, or set TMPDIR and MESH_K8S_CACHE"
    done
    echo "build.sh: building $name from its Go modules (some minutes, once)" >&2
    # Without tables for debuggers, which take the compiler an eighth of its time.
    GOCACHE=$scratch CGO_ENABLED=0 go build -trimpath -gcflags=all=-dwarf=false -ldflags "-s -w $ldflags" -o "$binary.part" . >&2
    mv "$binary.part" "$binary"
fi
echo "$binary"
