#!/bin/sh
# Writes kubernetes.json and protobuf.json, the schema files of the sandbox, from Kubernetes' own sources. In a
# folder with a go.mod that requires k8s.io/kubernetes v1.34.4 and its staging modules:
#   ./trim.sh $(for m in kubernetes@v1.34.4 api@v0.34.4 apimachinery@v0.34.4 apiextensions-apiserver@v0.34.4; do
#                 go mod download -json k8s.io/$m | jq -r .Dir; done)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
usage="usage: trim.sh <kubernetes> <api> <apimachinery> <apiextensions-apiserver>"
spec=${1:?"$usage"}/api/openapi-spec/v3
api=${2:?"$usage"} machinery=${3:?"$usage"}/pkg extensions=${4:?"$usage"}/pkg/apis/apiextensions/v1
jq -c -S -s -f "$here/trim.jq" \
  "$spec/api__v1_openapi.json" "$spec"/apis__apps__v1_openapi.json "$spec"/apis__batch__v1_openapi.json \
  "$spec"/apis__coordination.k8s.io__v1_openapi.json "$spec"/apis__discovery.k8s.io__v1_openapi.json \
  "$spec"/apis__events.k8s.io__v1_openapi.json "$spec"/apis__rbac.authorization.k8s.io__v1_openapi.json \
  "$spec"/apis__policy__v1_openapi.json "$spec"/apis__admissionregistration.k8s.io__v1_openapi.json \
  "$spec"/apis__authentication.k8s.io__v1_openapi.json "$spec"/apis__authorization.k8s.io__v1_openapi.json \
  "$spec"/apis__apiextensions.k8s.io__v1_openapi.json > "$here/kubernetes.json"
folders="$extensions $machinery/apis/meta/v1 $machinery/api/resource $machinery/runtime $machinery/util/intstr"
for group in core apps batch coordination discovery events rbac policy admissionregistration authentication \
  authorization autoscaling; do folders="$folders $api/$group/v1"; done
go_files=$(for f in $folders; do ls "$f"/types*.go "$f"/micro_time.go 2>/dev/null || true; done)
proto_files=$(for f in $folders; do ls "$f"/generated.proto; done)
awk -f "$here/protobuf.awk" $go_files $proto_files \
  | jq -R -n -c -S --slurpfile kinds "$here/kubernetes.json" -f "$here/protobuf.jq" > "$here/protobuf.json"
