{{- /* Who rendered an object. Context: the chart's root. */}}
{{- define "partials.created-by" -}}
linkerd.io/created-by: {{ ternary "linkerd/cli" "linkerd/helm" (eq .Release.Service "CLI") }} {{ .Values.linkerdVersion }}
{{- end }}

{{- define "partials.pull-secrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Where Pods may run. Context: dict with Values (nodeSelector, tolerations, nodeAffinity, ...). */}}
{{- define "partials.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}

{{- /* Affinity. Context: dict with label (key), value, anti (bool), node (nodeAffinity or nothing). */}}
{{- define "partials.affinity" -}}
{{- if or .anti .node }}
affinity:
  {{- with .node }}
  nodeAffinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .anti }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - podAffinityTerm:
        labelSelector:
          matchExpressions:
          - key: {{ .label }}
            operator: In
            values:
            - {{ .value }}
        topologyKey: topology.kubernetes.io/zone
      weight: 100
    requiredDuringSchedulingIgnoredDuringExecution:
    - labelSelector:
        matchExpressions:
        - key: {{ .label }}
          operator: In
          values:
          - {{ .value }}
      topologyKey: kubernetes.io/hostname
  {{- end }}
{{- end }}
{{- end }}

{{- /* Requests and limits. Context: map of cpu, memory, ephemeral-storage with request and limit. */}}
{{- define "partials.resources" -}}
{{- $limits := dict }}
{{- $requests := dict }}
{{- range $name, $bounds := . }}
{{- with $bounds }}
{{- if .limit }}{{ $limits = merge $limits (dict $name .limit) }}{{ end }}
{{- if .request }}{{ $requests = merge $requests (dict $name .request) }}{{ end }}
{{- end }}
{{- end }}
{{- if or $limits $requests }}
resources:
  {{- with $limits }}
  limits:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $requests }}
  requests:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* What a control-plane container may do. Context: dict with uid, gid. */}}
{{- define "partials.security" -}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop:
    - ALL
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: {{ int .uid }}
  {{- if gt (int .gid) -1 }}
  runAsGroup: {{ int .gid }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- /* The API token, mounted by hand so that nothing else gets it. */}}
{{- define "partials.api-access.mount" -}}
- mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  name: kube-api-access
  readOnly: true
{{- end }}

{{- define "partials.api-access.volume" -}}
- name: kube-api-access
  projected:
    defaultMode: 420
    sources:
    - serviceAccountToken:
        expirationSeconds: 3607
        path: token
    - configMap:
        items:
        - key: ca.crt
          path: ca.crt
        name: kube-root-ca.crt
    - downwardAPI:
        items:
        - fieldRef:
            apiVersion: v1
            fieldPath: metadata.namespace
          path: namespace
{{- end }}
