#!/bin/sh
# Writes kubernetes.json, the one schema file of the sandbox, from a Kubernetes source tree:
#   go mod download -json k8s.io/kubernetes@v1.34.4     (prints the tree's folder as Dir)
#   ./trim.sh <that folder>
set -eu
here=$(cd "$(dirname "$0")" && pwd)
spec=${1:?"usage: trim.sh <kubernetes source tree>"}/api/openapi-spec/v3
jq -c -S -s -f "$here/trim.jq" \
  "$spec/api__v1_openapi.json" "$spec"/apis__apps__v1_openapi.json "$spec"/apis__batch__v1_openapi.json \
  "$spec"/apis__coordination.k8s.io__v1_openapi.json "$spec"/apis__discovery.k8s.io__v1_openapi.json \
  "$spec"/apis__events.k8s.io__v1_openapi.json "$spec"/apis__rbac.authorization.k8s.io__v1_openapi.json \
  "$spec"/apis__policy__v1_openapi.json "$spec"/apis__admissionregistration.k8s.io__v1_openapi.json \
  "$spec"/apis__authentication.k8s.io__v1_openapi.json "$spec"/apis__authorization.k8s.io__v1_openapi.json \
  "$spec"/apis__apiextensions.k8s.io__v1_openapi.json > "$here/kubernetes.json"
