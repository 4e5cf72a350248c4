# Trims Kubernetes' own OpenAPI v3 documents to the structure of the kinds the sandbox serves.
# Run by trim.sh, which slurps the documents: input is an array of them.

def roots: [
  "io.k8s.api.core.v1." + ("Namespace", "Pod", "Service", "Endpoints", "ConfigMap", "Secret", "ServiceAccount",
    "Node", "Event", "ReplicationController"),
  "io.k8s.api.apps.v1." + ("Deployment", "ReplicaSet", "DaemonSet", "StatefulSet"),
  "io.k8s.api.batch.v1." + ("Job", "CronJob"),
  "io.k8s.api.autoscaling.v1.Scale",
  "io.k8s.api.coordination.v1.Lease",
  "io.k8s.api.discovery.v1.EndpointSlice",
  "io.k8s.api.events.v1.Event",
  "io.k8s.api.rbac.v1." + ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"),
  "io.k8s.api.policy.v1.PodDisruptionBudget",
  "io.k8s.api.admissionregistration.v1." + ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"),
  "io.k8s.api.authentication.v1." + ("TokenReview", "TokenRequest", "SelfSubjectReview"),
  "io.k8s.api.authorization.v1." + ("SubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview",
    "LocalSubjectAccessReview"),
  "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
  "io.k8s.apimachinery.pkg.apis.meta.v1." + ("Status", "DeleteOptions")
];

def ref_name: sub("^#/components/schemas/"; "");

# Only what a machine reads stays; a reference wrapped in a one-element allOf becomes the reference.
def trim:
  if type == "object" then
    (if (.allOf? | type) == "array" and (.allOf | length) == 1 and (.allOf[0] | has("$ref")?) then
       (. + .allOf[0]) | del(.allOf) else . end)
    | with_entries(select(.key != "description" and .key != "x-kubernetes-unions"))
    | with_entries(if .key == "properties" then .value |= with_entries(.value = (.value | trim))
                   elif .key == "default" then .
                   else .value = (.value | trim) end)
    | if (.default? == {}) then del(.default) else . end
  elif type == "array" then map(trim)
  else . end;

def refs: [.. | objects | .["$ref"]? // empty | strings | ref_name] | unique;

def closure($all; $todo; $done):
  ($todo - ($done | keys)) as $next
  | if ($next | length) == 0 then $done
    else reduce $next[] as $name ($done; .[$name] = ($all[$name] | trim))
      | . as $grown
      | closure($all; ([$next[] | $grown[.] | refs] | add | unique); $grown)
    end;

(map(.components.schemas) | add) as $all
| closure($all; [roots]  | flatten; {})
# Status and DeleteOptions are registered in every group; the list is long and of no use here.
| with_entries(if ((.value["x-kubernetes-group-version-kind"]? // []) | length) > 1
    then .value |= del(.["x-kubernetes-group-version-kind"]) else . end)
