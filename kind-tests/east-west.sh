#!/usr/bin/env bash
# Two kind clusters, east and west, joined by the mesh: needs docker or podman, kind, kubectl and Rust.
#   east-west.sh up     make the clusters and give them the images
#   east-west.sh demo   install, link, export and call across; every step is one that CI runs
#   east-west.sh down   take them away
set -euo pipefail
cd "$(dirname "$0")/.."

tool() { cargo run --quiet -p mesh-kind-tests -- --state "${TMPDIR:-/tmp}/mesh-east-west" "$@"; }

case "${1:-}" in
    up) tool up --provider kind ;;
    demo) tool e2e walk --provider kind --keep ;;
    down) tool down --provider kind ;;
    *)
        sed -n '2,5s/^# *//p' "$0" >&2
        exit 2
        ;;
esac
