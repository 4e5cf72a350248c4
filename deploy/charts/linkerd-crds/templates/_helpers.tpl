{{- /* Head of a CRD. Context: dict with root, group, kind, plural, singular, short. */}}
{{- define "crds.head" -}}
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  annotations:
    {{- include "partials.created-by" .root | nindent 4 }}
  labels:
    linkerd.io/control-plane-ns: {{ .root.Release.Namespace }}
  name: {{ .plural }}.{{ .group }}
spec:
  group: {{ .group }}
  names:
    kind: {{ .kind }}
    plural: {{ .plural }}
    singular: {{ .singular }}
    {{- with .short }}
    shortNames:
    {{- toYaml . | nindent 4 }}
    {{- end }}
  scope: Namespaced
{{- end }}

{{- /* A reference to an object. Context: dict with namespaced, required. */}}
{{- define "crds.ref" -}}
type: object
required: {{ toJson .required }}
properties:
  group:
    description: API group of the object; empty for the core group
    type: string
    maxLength: 253
    pattern: "^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
  kind:
    description: Kind of the object
    type: string
    maxLength: 63
    minLength: 1
    pattern: "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"
  name:
    description: Name of the object
    type: string
    maxLength: 253
    minLength: 1
  {{- if .namespaced }}
  namespace:
    description: Namespace of the object; the referrer's own when absent
    type: string
    maxLength: 253
    minLength: 1
  {{- end }}
{{- end }}

{{- /* A label selector. */}}
{{- define "crds.selector" -}}
type: object
properties:
  matchLabels:
    type: object
    x-kubernetes-preserve-unknown-fields: true
  matchExpressions:
    type: array
    items:
      type: object
      required: ["key", "operator"]
      properties:
        key:
          type: string
        operator:
          type: string
          enum: ["In", "NotIn", "Exists", "DoesNotExist"]
        values:
          type: array
          items:
            type: string
{{- end }}

{{- /* Networks with exceptions. */}}
{{- define "crds.networks" -}}
type: array
items:
  type: object
  required: ["cidr"]
  properties:
    cidr:
      description: A network, or an address, in CIDR form
      type: string
    except:
      description: Parts of the network that do not count
      type: array
      items:
        type: string
{{- end }}

{{- /* Conditions of a status. */}}
{{- define "crds.conditions" -}}
type: array
items:
  type: object
  required: ["lastTransitionTime", "message", "reason", "status", "type"]
  properties:
    lastTransitionTime:
      type: string
      format: date-time
    message:
      type: string
      maxLength: 32768
    observedGeneration:
      type: integer
      format: int64
      minimum: 0
    reason:
      type: string
      maxLength: 1024
      minLength: 1
      pattern: "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
    status:
      type: string
      enum: ["True", "False", "Unknown"]
    type:
      type: string
      maxLength: 316
{{- end }}
