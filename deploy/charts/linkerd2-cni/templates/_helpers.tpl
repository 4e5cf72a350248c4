{{- define "cni.labels" -}}
linkerd.io/cni-resource: "true"
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Metadata of an object. Context: dict with root, name; namespaced unless cluster is set. */}}
{{- define "cni.metadata" -}}
metadata:
  annotations:
    {{- include "partials.created-by" .root | nindent 4 }}
  labels:
    {{- include "cni.labels" .root | nindent 4 }}
  name: {{ .name }}
  {{- if not .cluster }}
  namespace: {{ .root.Release.Namespace }}
  {{- end }}
{{- end }}

{{- /* Ports and ranges as a JSON list of texts. Context: text with commas. */}}
{{- define "cni.list" -}}
{{- toJson (splitList "," (trim . | replace " " "")) }}
{{- end }}

{{- define "cni.config" -}}
{{- $v := .Values -}}
{
  "name": "linkerd-cni",
  "type": "linkerd-cni",
  "log_level": {{ toJson $v.logLevel }},
  "kubernetes": {
    "kubeconfig": "__KUBECONFIG_FILEPATH__"
  },
  "linkerd": {
    "incoming-proxy-port": {{ int $v.inboundProxyPort }},
    "outgoing-proxy-port": {{ int $v.outboundProxyPort }},
    "proxy-uid": {{ int $v.proxyUID }},
    "proxy-gid": {{ int $v.proxyGID }},
    "ports-to-redirect": {{ with $v.portsToRedirect }}{{ include "cni.list" . }}{{ else }}[]{{ end }},
    "inbound-ports-to-ignore": {{ include "cni.list" (printf "%d,%d%s" (int $v.proxyControlPort) (int $v.proxyAdminPort) (ternary (printf ",%s" $v.ignoreInboundPorts) "" (ne $v.ignoreInboundPorts ""))) }},
    "outbound-ports-to-ignore": {{ with $v.ignoreOutboundPorts }}{{ include "cni.list" . }}{{ else }}[]{{ end }},
    "simulate": false,
    "use-wait-flag": {{ $v.useWaitFlag }},
    "iptables-mode": {{ toJson $v.iptablesMode }},
    "ipv6": {{ not $v.disableIPv6 }}
  }
}
{{- end }}
