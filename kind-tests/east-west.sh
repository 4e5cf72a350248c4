#!/usr/bin/env bash
# Two kind clusters, east and west, joined by the mesh: needs docker or podman, kind, kubectl and Rust.
#   east-west.sh up     make the clusters
#   east-west.sh demo   the same if they are not up; then install, link, export and call across: every step is one that
#                       CI runs. Takes flags of `mesh-kind-tests e2e`, such as --images FOLDER for images made before.
#   east-west.sh down   take them away
# MESH_KIND_IMAGE=IMAGE names the image of the nodes where kind's own cannot be pulled (a private registry's copy).
# KIND_EXPERIMENTAL_PROVIDER=docker|podman chooses between two engines that both answer.
set -euo pipefail
state=${XDG_STATE_HOME:-${HOME:-/tmp}/.local/state}/mesh-east-west

tool() { cargo run --release --quiet -p mesh-kind-tests -- --state "$state" "$@"; }
usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

verb=${1:-}
case "$verb" in
    up | down) [ $# -eq 1 ] || usage ;;
    demo) shift ;;
    *) usage ;;
esac
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || { echo "cargo is missing: install Rust (https://rustup.rs)" >&2; exit 1; }
case "$verb" in
    up) tool up --provider kind ;;
    demo)
        # Once installed, only the walk is repeated.
        if kubectl --kubeconfig "$state/kubeconfig" --context west get namespace linkerd-multicluster >/dev/null 2>&1; then
            set -- --only "$@"
        fi
        tool e2e walk --provider kind --keep "$@"
        ;;
    down) tool down --provider kind ;;
esac
