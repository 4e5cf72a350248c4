#!/usr/bin/env bash
# Builds CoreDNS with the plugins that a cluster's DNS uses, once, and prints the binary's path.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/../go-build.sh" "$here" mesh-coredns
