#!/usr/bin/env bash
# Builds helm from its Go module, once, and prints the binary's path. The result is kept outside the tree under its
# version; Go checks the modules against the public checksum database.
set -euo pipefail
version=v3.16.4
fail() { echo "build.sh: $1" >&2; exit 3; }
cache=${MESH_K8S_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mesh-k8s}
binary=$cache/helm-$version
if [ -x "$binary" ]; then
    echo "$binary"
    exit 0
fi
command -v go >/dev/null || fail "Go is missing; install Go 1.22 or newer"
mkdir -p "$cache" || fail "cannot make the cache folder $cache; name a writable one in MESH_K8S_CACHE"
exec 9>"$cache/helm.lock"
flock 9
if [ ! -x "$binary" ]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    free=$(df --output=avail -B1M "$scratch" | tail -1)
    [ "$free" -ge 2000 ] || fail "building helm needs 2 GB and $scratch has $free MB free; free some, or set TMPDIR"
    echo "build.sh: building helm $version from its Go module (some minutes, once)" >&2
    GOCACHE=$scratch/cache GOBIN=$scratch CGO_ENABLED=0 \
        go install -trimpath -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$version" \
        "helm.sh/helm/v3/cmd/helm@$version" >&2
    mv "$scratch/helm" "$binary"
fi
echo "$binary"
