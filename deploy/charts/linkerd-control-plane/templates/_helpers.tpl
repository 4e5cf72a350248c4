{{- define "control-plane.labels" -}}
linkerd.io/control-plane-ns: {{ .Release.Namespace }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Metadata of an object. Context: dict with root, name, component; namespaced unless cluster is set. */}}
{{- define "control-plane.metadata" -}}
metadata:
  annotations:
    {{- include "partials.created-by" .root | nindent 4 }}
    {{- with .annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- with .component }}
    linkerd.io/control-plane-component: {{ . }}
    {{- end }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- include "control-plane.labels" .root | nindent 4 }}
  name: {{ .name }}
  {{- if not .cluster }}
  namespace: {{ .root.Release.Namespace }}
  {{- end }}
{{- end }}

{{- define "control-plane.trust-domain" -}}
{{ .Values.identityTrustDomain | default .Values.clusterDomain }}
{{- end }}

{{- /* A Deployment up to its containers. Context: dict with root, name, component, annotations. */}}
{{- define "control-plane.deployment" -}}
{{- $v := .root.Values }}
apiVersion: apps/v1
kind: Deployment
{{ include "control-plane.metadata" (merge (dict "labels" (dict "app.kubernetes.io/name" .component "app.kubernetes.io/part-of" "Linkerd" "app.kubernetes.io/version" $v.linkerdVersion)) (dict "root" .root "name" .name "component" .component)) }}
spec:
  replicas: {{ int $v.controllerReplicas }}
  revisionHistoryLimit: {{ int $v.revisionHistoryLimit }}
  selector:
    matchLabels:
      linkerd.io/control-plane-component: {{ .component }}
      linkerd.io/control-plane-ns: {{ .root.Release.Namespace }}
      linkerd.io/proxy-deployment: {{ .name }}
  {{- with $v.deploymentStrategy }}
  strategy:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  template:
    metadata:
      annotations:
        {{- with .checksum }}
        checksum/config: {{ . }}
        {{- end }}
        {{- include "partials.created-by" .root | nindent 8 }}
        linkerd.io/trust-root-sha256: {{ sha256sum $v.identityTrustAnchorsPEM }}
        cluster-autoscaler.kubernetes.io/safe-to-evict: "true"
        {{- with $v.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- with .annotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      labels:
        linkerd.io/control-plane-component: {{ .component }}
        linkerd.io/proxy-deployment: {{ .name }}
        linkerd.io/workload-ns: {{ .root.Release.Namespace }}
        {{- include "control-plane.labels" .root | nindent 8 }}
        {{- with $v.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      automountServiceAccountToken: false
      serviceAccountName: {{ .name }}
      {{- include "partials.scheduling" $v | indent 6 }}
      {{- include "partials.affinity" (dict "label" "linkerd.io/control-plane-component" "value" .component "anti" $v.enablePodAntiAffinity "node" $v.nodeAffinity) | indent 6 }}
      {{- include "partials.pull-secrets" .root | indent 6 }}
      securityContext:
        seccompProfile:
          type: RuntimeDefault
{{- end }}

{{- /* Image, probes and rights of a control-plane container. Context: dict with root, admin (port), live, resources. */}}
{{- define "control-plane.container" -}}
{{- $v := .root.Values }}
image: {{ $v.controllerImage }}:{{ $v.controllerImageVersion | default $v.linkerdVersion }}
imagePullPolicy: {{ $v.imagePullPolicy }}
livenessProbe:
  httpGet:
    path: /ping
    port: {{ .admin }}
  initialDelaySeconds: 10
readinessProbe:
  failureThreshold: 7
  httpGet:
    path: /ready
    port: {{ .admin }}
  periodSeconds: 1
startupProbe:
  failureThreshold: 120
  httpGet:
    path: /ready
    port: {{ .admin }}
  periodSeconds: 1
{{- with .resources }}
{{ include "partials.resources" . | trim }}
{{- end }}
{{ include "partials.security" (dict "uid" $v.controllerUID "gid" $v.controllerGID) }}
{{- end }}

{{- /* A disruption budget, when enabled. Context: dict with root, name, component. */}}
{{- define "control-plane.pdb" -}}
{{- if .root.Values.enablePodDisruptionBudget }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
{{ include "control-plane.metadata" . }}
spec:
  maxUnavailable: {{ .root.Values.controller.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      linkerd.io/control-plane-component: {{ .component }}
{{- end }}
{{- end }}

{{- /* A Service of a component. Context: dict with root, name, component, port, port-name, headless, annotations. */}}
{{- define "control-plane.service" -}}
---
apiVersion: v1
kind: Service
{{ include "control-plane.metadata" . }}
spec:
  {{- if .headless }}
  clusterIP: None
  {{- else }}
  type: ClusterIP
  {{- end }}
  ports:
  - name: {{ .portName }}
    port: {{ .port }}
    targetPort: {{ .target }}
  selector:
    linkerd.io/control-plane-component: {{ .component }}
{{- end }}
