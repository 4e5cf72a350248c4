{{- define "multicluster.labels" -}}
linkerd.io/extension: multicluster
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Metadata of an object. Context: dict with root, name, labels, annotations; namespaced unless cluster is set. */}}
{{- define "multicluster.metadata" -}}
metadata:
  annotations:
    {{- include "partials.created-by" .root | nindent 4 }}
    {{- with .annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "multicluster.labels" .root | nindent 4 }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  name: {{ .name }}
  {{- if not .cluster }}
  namespace: {{ .root.Release.Namespace }}
  {{- end }}
{{- end }}

{{- define "multicluster.pdb" -}}
{{- if .root.Values.enablePodAntiAffinity }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
{{ include "multicluster.metadata" . }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- toYaml .selector | nindent 6 }}
{{- end }}
{{- end }}

{{- /* What the Pods read once at start: its change restarts them. */}}
{{- define "multicluster.checksum" -}}
checksum/config: {{ sha256sum (printf "%s %s %s %s %s" .Values.identityTrustAnchorsPEM .Values.identityTrustDomain .Values.clusterDomain .Values.linkerdNamespace .Values.gateway.exportSelector) }}
{{- end }}
