{{- /* How a process proves who it is: what a sidecar and a control-plane process are told alike.
Context: dict with Namespace (of the control plane), ClusterDomain, TrustDomain, Anchors (PEM, or empty to
take them from the ConfigMap linkerd-identity-trust-roots). The variables _pod_ns and _pod_sa come before. */}}
{{- define "partials.identity-env" -}}
- name: LINKERD2_PROXY_IDENTITY_DIR
  value: /var/run/linkerd/identity/end-entity
- name: LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS
  {{- if .Anchors }}
  value: |
    {{- trim .Anchors | nindent 4 }}
  {{- else }}
  valueFrom:
    configMapKeyRef:
      key: ca-bundle.crt
      name: linkerd-identity-trust-roots
  {{- end }}
- name: LINKERD2_PROXY_IDENTITY_TOKEN_FILE
  value: /var/run/secrets/tokens/linkerd-identity-token
- name: LINKERD2_PROXY_IDENTITY_SVC_ADDR
  value: linkerd-identity.{{ .Namespace }}.svc.{{ .ClusterDomain }}.:8080
- name: LINKERD2_PROXY_IDENTITY_LOCAL_NAME
  value: $(_pod_sa).$(_pod_ns).serviceaccount.identity.{{ .Namespace }}.{{ .TrustDomain }}
- name: LINKERD2_PROXY_IDENTITY_SVC_NAME
  value: linkerd-identity.{{ .Namespace }}.serviceaccount.identity.{{ .Namespace }}.{{ .TrustDomain }}
{{- end }}

{{- define "partials.pod-env" -}}
- name: _pod_name
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: _pod_ns
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: _pod_sa
  valueFrom:
    fieldRef:
      fieldPath: spec.serviceAccountName
{{- end }}

{{- define "partials.identity-mounts" -}}
- mountPath: /var/run/linkerd/identity/end-entity
  name: linkerd-identity-end-entity
- mountPath: /var/run/secrets/tokens
  name: linkerd-identity-token
{{- end }}

{{- define "partials.end-entity-volume" -}}
emptyDir:
  medium: Memory
name: linkerd-identity-end-entity
{{- end }}

{{- define "partials.token-volume" -}}
name: linkerd-identity-token
projected:
  sources:
  - serviceAccountToken:
      audience: identity.l5d.io
      expirationSeconds: 86400
      path: linkerd-identity-token
{{- end }}

{{- define "partials.xtables-volume" -}}
emptyDir: {}
name: {{ .Values.proxyInit.xtMountPath.name }}
{{- end }}
