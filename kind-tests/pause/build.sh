#!/usr/bin/env bash
# Builds the program of the image that holds a Pod together, once, and prints its path.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/../go-build.sh" "$here" mesh-pause
