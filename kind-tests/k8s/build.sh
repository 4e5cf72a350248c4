#!/usr/bin/env bash
# Builds the real Kubernetes control plane for the API suite once, and prints the binary's path.
# The result is kept outside the tree under the hash of the module files, so only a version change builds again.
set -euo pipefail
cd "$(dirname "$0")"
hash=$(cat go.mod go.sum main.go build.sh | sha256sum | cut -c1-16)
cache=${MESH_K8S_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mesh-k8s}
binary=$cache/mesh-k8s-$hash
if [ ! -x "$binary" ]; then
    command -v go >/dev/null || { echo "build.sh: Go is missing; install Go 1.24 or newer to run the API suite against a real API server" >&2; exit 3; }
    mkdir -p "$cache"
    version=v1.34.4
    flags=""
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=34"
        flags+=" -X $package.gitTreeState=clean -X $package.gitCommit=unknown -X $package.buildDate=2026-01-01T00:00:00Z"
    done
    # A build cache of its own, thrown away afterwards: it would be some gigabytes for nothing.
    scratch=$(mktemp -d)
    trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT
    GOCACHE=$scratch CGO_ENABLED=0 go build -trimpath -ldflags "-s -w$flags" -o "$binary.part" . >&2
    mv "$binary.part" "$binary"
fi
echo "$binary"
