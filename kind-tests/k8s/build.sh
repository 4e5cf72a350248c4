#!/usr/bin/env bash
# Builds Kubernetes, etcd and CoreDNS as one binary, once, and prints its path.
set -euo pipefail
version=v1.34.4
flags=""
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=34"
    flags+=" -X $package.gitTreeState=clean -X $package.gitCommit=unknown -X $package.buildDate=2026-01-01T00:00:00Z"
done
here=$(cd "$(dirname "$0")" && pwd)
"$here/../go-build.sh" "$here" mesh-k8s "$flags"
