{{- /*
The sidecar, as the injector adds it to Pods and as the gateway's Deployment has it.
Context: a dict with
  Values     proxy, proxyInit, clusterDomain, clusterNetworks, identityTrustAnchorsPEM, identityTrustDomain,
             disableIPv6, linkerdVersion, imagePullPolicy
  Namespace  of the control plane
  Pod        native (as an init container that restarts), inboundPorts, capabilities {add, drop},
             tokenMount (the application's service account mount), originalDestination, snapshot, gatewayExport
*/}}
{{- define "partials.proxy" -}}
{{- $v := .Values }}
{{- $p := .Values.proxy }}
{{- $pod := .Pod }}
{{- $trust := $v.identityTrustDomain | default $v.clusterDomain }}
{{- $any := ternary "0.0.0.0" "[::]" (eq (toJson $v.disableIPv6) "true") }}
env:
- name: _pod_name
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: _pod_ns
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: _pod_uid
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
- name: _pod_ip
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: _pod_nodeName
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: _pod_containerName
  value: linkerd-proxy
- name: _pod_sa
  valueFrom:
    fieldRef:
      fieldPath: spec.serviceAccountName
- name: _l5d_ns
  value: {{ .Namespace }}
- name: _l5d_trustdomain
  value: {{ $trust }}
{{- with $p.runtime.workers }}
- name: LINKERD2_PROXY_CORES
  value: {{ .minimum | default 1 | quote }}
- name: LINKERD2_PROXY_CORES_MIN
  value: {{ .minimum | default 1 | quote }}
{{- if .maximum }}
- name: LINKERD2_PROXY_CORES_MAX
  value: {{ .maximum | quote }}
{{- end }}
{{- if .maximumCPURatio }}
- name: LINKERD2_PROXY_CORES_MAX_RATIO
  value: {{ .maximumCPURatio | quote }}
{{- end }}
{{- end }}
{{- with $p.requireIdentityOnInboundPorts }}
- name: LINKERD2_PROXY_INBOUND_PORTS_REQUIRE_IDENTITY
  value: {{ . | quote }}
{{- end }}
- name: LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED
  value: {{ $p.enableShutdownEndpoint | default false | quote }}
- name: LINKERD2_PROXY_LOG
  value: {{ printf "%s%s" $p.logLevel (ternary "" ",[{headers}]=off,[{request}]=off" (eq (printf "%v" $p.logHTTPHeaders) "insecure")) | quote }}
- name: LINKERD2_PROXY_LOG_FORMAT
  value: {{ $p.logFormat | quote }}
- name: LINKERD2_PROXY_DESTINATION_SVC_ADDR
  value: linkerd-dst.{{ .Namespace }}.svc.{{ $v.clusterDomain }}.:8086
- name: LINKERD2_PROXY_DESTINATION_PROFILE_NETWORKS
  value: {{ $v.clusterNetworks | quote }}
- name: LINKERD2_PROXY_POLICY_SVC_ADDR
  value: linkerd-policy.{{ .Namespace }}.svc.{{ $v.clusterDomain }}.:8090
- name: LINKERD2_PROXY_POLICY_WORKLOAD
  value: |
    {"ns":"$(_pod_ns)", "pod":"$(_pod_name)"{{ with $pod.gatewayExport }}, "gateway":{"export":{{ toJson . }}}{{ end }}}
- name: LINKERD2_PROXY_INBOUND_DEFAULT_POLICY
  value: {{ $p.defaultInboundPolicy }}
- name: LINKERD2_PROXY_POLICY_CLUSTER_NETWORKS
  value: {{ $v.clusterNetworks | quote }}
{{- with $p.control.streams }}
- name: LINKERD2_PROXY_CONTROL_STREAM_INITIAL_TIMEOUT
  value: {{ .initialTimeout | quote }}
- name: LINKERD2_PROXY_CONTROL_STREAM_IDLE_TIMEOUT
  value: {{ .idleTimeout | quote }}
- name: LINKERD2_PROXY_CONTROL_STREAM_LIFETIME
  value: {{ .lifetime | quote }}
{{- end }}
{{- with $p.inboundConnectTimeout }}
- name: LINKERD2_PROXY_INBOUND_CONNECT_TIMEOUT
  value: {{ . | quote }}
{{- end }}
{{- with $p.outboundConnectTimeout }}
- name: LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT
  value: {{ . | quote }}
{{- end }}
{{- with $p.outboundDiscoveryCacheUnusedTimeout }}
- name: LINKERD2_PROXY_OUTBOUND_DISCOVERY_IDLE_TIMEOUT
  value: {{ . | quote }}
{{- end }}
{{- with $p.inboundDiscoveryCacheUnusedTimeout }}
- name: LINKERD2_PROXY_INBOUND_DISCOVERY_IDLE_TIMEOUT
  value: {{ . | quote }}
{{- end }}
{{- if $p.disableOutboundProtocolDetectTimeout }}
- name: LINKERD2_PROXY_OUTBOUND_DETECT_TIMEOUT
  value: 365d
{{- end }}
{{- if $p.disableInboundProtocolDetectTimeout }}
- name: LINKERD2_PROXY_INBOUND_DETECT_TIMEOUT
  value: 365d
{{- end }}
- name: LINKERD2_PROXY_CONTROL_LISTEN_ADDR
  value: "{{ $any }}:{{ $p.ports.control }}"
- name: LINKERD2_PROXY_ADMIN_LISTEN_ADDR
  value: "{{ $any }}:{{ $p.ports.admin }}"
- name: LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR
  value: "127.0.0.1:{{ $p.ports.outbound }}"
- name: LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS
  value: "127.0.0.1:{{ $p.ports.outbound }}{{ if not $v.disableIPv6 }},[::1]:{{ $p.ports.outbound }}{{ end }}"
- name: LINKERD2_PROXY_INBOUND_LISTEN_ADDR
  value: "{{ $any }}:{{ $p.ports.inbound }}"
- name: LINKERD2_PROXY_INBOUND_IPS
  valueFrom:
    fieldRef:
      fieldPath: status.podIPs
- name: LINKERD2_PROXY_INBOUND_PORTS
  value: {{ $pod.inboundPorts | default "" | quote }}
{{- if $p.isGateway }}
- name: LINKERD2_PROXY_INBOUND_GATEWAY_SUFFIXES
  value: svc.{{ $v.clusterDomain }}.
{{- end }}
{{- if $p.isIngress }}
- name: LINKERD2_PROXY_INGRESS_MODE
  value: "true"
{{- end }}
{{- with $pod.originalDestination }}
- name: MESH_ORIGINAL_DST
  value: {{ . }}
{{- end }}
{{- with $pod.snapshot }}
- name: MESH_SNAPSHOT
  value: {{ . }}
{{- end }}
- name: LINKERD2_PROXY_DESTINATION_PROFILE_SUFFIXES
  value: {{ ternary "." (printf "svc.%s." $v.clusterDomain) (eq (printf "%v" $p.enableExternalProfiles) "true") }}
- name: LINKERD2_PROXY_INBOUND_ACCEPT_KEEPALIVE
  value: 10000ms
- name: LINKERD2_PROXY_OUTBOUND_CONNECT_KEEPALIVE
  value: 10000ms
- name: LINKERD2_PROXY_INBOUND_ACCEPT_USER_TIMEOUT
  value: 30s
- name: LINKERD2_PROXY_OUTBOUND_CONNECT_USER_TIMEOUT
  value: 30s
- name: LINKERD2_PROXY_OUTBOUND_METRICS_HOSTNAME_LABELS
  value: {{ $p.metrics.hostnameLabels | default false | quote }}
{{- with $p.inbound.server.http2 }}
- name: LINKERD2_PROXY_INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL
  value: {{ .keepAliveInterval | quote }}
- name: LINKERD2_PROXY_INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT
  value: {{ .keepAliveTimeout | quote }}
{{- end }}
{{- with $p.outbound.server.http2 }}
- name: LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL
  value: {{ .keepAliveInterval | quote }}
- name: LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT
  value: {{ .keepAliveTimeout | quote }}
{{- end }}
- name: LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION
  value: {{ $p.opaquePorts | default "" | quote }}
- name: LINKERD2_PROXY_DESTINATION_CONTEXT
  value: |
    {"ns":"$(_pod_ns)", "nodeName":"$(_pod_nodeName)", "pod":"$(_pod_name)"{{ with $pod.gatewayExport }}, "gateway":{"export":{{ toJson . }}}{{ end }}}
{{ include "partials.identity-env" (dict "Namespace" .Namespace "ClusterDomain" $v.clusterDomain "TrustDomain" $trust "Anchors" $v.identityTrustAnchorsPEM) }}
- name: LINKERD2_PROXY_DESTINATION_SVC_NAME
  value: linkerd-destination.{{ .Namespace }}.serviceaccount.identity.{{ .Namespace }}.{{ $trust }}
- name: LINKERD2_PROXY_POLICY_SVC_NAME
  value: linkerd-destination.{{ .Namespace }}.serviceaccount.identity.{{ .Namespace }}.{{ $trust }}
{{- with $p.accessLog }}
- name: LINKERD2_PROXY_ACCESS_LOG
  value: {{ . | quote }}
{{- end }}
{{- with $p.shutdownGracePeriod }}
- name: LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD
  value: {{ . | quote }}
{{- end }}
{{- with $p.additionalEnv }}
{{ toYaml . }}
{{- end }}
{{- with $p.experimentalEnv }}
{{ toYaml . }}
{{- end }}
image: {{ $p.image.name }}:{{ $p.image.version | default $v.linkerdVersion }}
imagePullPolicy: {{ $p.image.pullPolicy | default $v.imagePullPolicy }}
livenessProbe:
  httpGet:
    path: /live
    port: {{ $p.ports.admin }}
  initialDelaySeconds: {{ $p.livenessProbe.initialDelaySeconds }}
  timeoutSeconds: {{ $p.livenessProbe.timeoutSeconds }}
name: linkerd-proxy
ports:
- containerPort: {{ $p.ports.inbound }}
  name: linkerd-proxy
- containerPort: {{ $p.ports.admin }}
  name: linkerd-admin
readinessProbe:
  httpGet:
    path: /ready
    port: {{ $p.ports.admin }}
  initialDelaySeconds: {{ $p.readinessProbe.initialDelaySeconds }}
  timeoutSeconds: {{ $p.readinessProbe.timeoutSeconds }}
  {{- with $p.readinessProbe.periodSeconds }}
  periodSeconds: {{ . }}
  {{- end }}
{{- if or $pod.startup (and $pod.native $p.await) }}
startupProbe:
  httpGet:
    path: /ready
    port: {{ $p.ports.admin }}
  initialDelaySeconds: {{ $p.startupProbe.initialDelaySeconds }}
  periodSeconds: {{ $p.startupProbe.periodSeconds }}
  failureThreshold: {{ $p.startupProbe.failureThreshold }}
{{- end }}
{{- if $pod.native }}
restartPolicy: Always
{{- else }}
{{- $wait := int $p.waitBeforeExitSeconds }}
{{- if or $wait (and $p.await (not $pod.startup)) }}
lifecycle:
  {{- if and $p.await (not $pod.startup) }}
  postStart:
    exec:
      command:
      - /usr/lib/linkerd/linkerd-await
      - --timeout=2m
      - --port={{ $p.ports.admin }}
  {{- end }}
  {{- if $wait }}
  preStop:
    exec:
      command:
      - /bin/sleep
      - {{ $wait | quote }}
  {{- end }}
{{- end }}
{{- end }}
{{- with $p.resources }}
{{ include "partials.resources" . | trim }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  {{- with $pod.capabilities }}
  capabilities:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: {{ int $p.uid }}
  {{- if gt (int $p.gid) -1 }}
  runAsGroup: {{ int $p.gid }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
{{ include "partials.identity-mounts" . }}
{{- with $pod.tokenMount }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- /* The container that sets redirect rules. Context as above. */}}
{{- define "partials.proxy-init" -}}
{{- $v := .Values }}
{{- $p := .Values.proxy }}
{{- $i := .Values.proxyInit }}
{{- $pod := .Pod }}
args:
{{- if eq $i.iptablesMode "nft" }}
- --firewall-bin-path
- iptables-nft
- --firewall-save-bin-path
- iptables-nft-save
{{- else if not (eq $i.iptablesMode "legacy") }}
{{- fail (printf "proxyInit.iptablesMode %q is not known; use nft or legacy" $i.iptablesMode) }}
{{- end }}
{{- if $v.disableIPv6 }}
- --ipv6=false
{{- end }}
- --incoming-proxy-port
- {{ $p.ports.inbound | quote }}
- --outgoing-proxy-port
- {{ $p.ports.outbound | quote }}
- --proxy-uid
- {{ int $p.uid | quote }}
{{- if gt (int $p.gid) -1 }}
- --proxy-gid
- {{ int $p.gid | quote }}
{{- end }}
- --inbound-ports-to-ignore
- "{{ $p.ports.control }},{{ $p.ports.admin }}{{ with $i.ignoreInboundPorts }},{{ . }}{{ end }}"
{{- with $i.ignoreOutboundPorts }}
- --outbound-ports-to-ignore
- {{ . | quote }}
{{- end }}
{{- with int $i.closeWaitTimeoutSecs }}
- --timeout-close-wait-secs
- {{ . | quote }}
{{- end }}
{{- with $i.logFormat }}
- --log-format
- {{ . }}
{{- end }}
{{- with $i.logLevel }}
- --log-level
- {{ . }}
{{- end }}
{{- with $i.skipSubnets }}
- --subnets-to-ignore
- {{ . | quote }}
{{- end }}
command:
- /usr/lib/linkerd/linkerd2-proxy-init
image: {{ $p.image.name }}:{{ $p.image.version | default $v.linkerdVersion }}
imagePullPolicy: {{ $p.image.pullPolicy | default $v.imagePullPolicy }}
name: linkerd-init
{{- with $p.resources }}
{{ include "partials.resources" . | trim }}
{{- end }}
securityContext:
  {{- /* A close-wait timeout is a setting of the kernel: it needs a privileged container. */}}
  {{- $privileged := or $i.privileged (gt (int $i.closeWaitTimeoutSecs) 0) }}
  allowPrivilegeEscalation: {{ ternary true false $privileged }}
  capabilities:
    add:
    - NET_ADMIN
    - NET_RAW
    {{- range ($pod.capabilities).add }}
    {{- if not (has . (list "NET_ADMIN" "NET_RAW")) }}
    - {{ . }}
    {{- end }}
    {{- end }}
    {{- with $pod.initDrop }}
    drop:
    {{- toYaml . | nindent 4 }}
    {{- end }}
  privileged: {{ ternary true false $privileged }}
  readOnlyRootFilesystem: true
  {{- if $i.runAsRoot }}
  runAsGroup: 0
  runAsNonRoot: false
  runAsUser: 0
  {{- else }}
  runAsGroup: {{ int $i.runAsGroup }}
  runAsNonRoot: true
  runAsUser: {{ int $i.runAsUser }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
- mountPath: {{ $i.xtMountPath.mountPath }}
  name: {{ $i.xtMountPath.name }}
{{- with $pod.tokenMount }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- /* The container that proves, where the CNI plugin sets the rules, that it has. Context as above. */}}
{{- define "partials.network-validator" -}}
{{- $v := .Values }}
{{- $p := .Values.proxy }}
{{- $n := .Values.networkValidator }}
{{- $pod := .Pod }}
args:
- --log-format
- {{ $n.logFormat }}
- --log-level
- {{ $n.logLevel }}
- --connect-addr
- {{ $n.connectAddr | default (ternary "1.1.1.1:20001" "[fd00::1]:20001" $v.disableIPv6) | quote }}
- --listen-addr
- {{ $n.listenAddr | default (printf "%s:%d" (ternary "0.0.0.0" "[::]" $v.disableIPv6) (int $p.ports.outbound)) | quote }}
- --timeout
- {{ $n.timeout }}
command:
- /usr/lib/linkerd/linkerd2-network-validator
image: {{ $p.image.name }}:{{ $p.image.version | default $v.linkerdVersion }}
imagePullPolicy: {{ $p.image.pullPolicy | default $v.imagePullPolicy }}
name: linkerd-network-validator
{{- with $p.resources }}
{{ include "partials.resources" . | trim }}
{{- end }}
{{- if $n.enableSecurityContext }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop:
    - ALL
  readOnlyRootFilesystem: true
  runAsGroup: {{ int $v.proxyInit.runAsGroup }}
  runAsNonRoot: true
  runAsUser: {{ int $v.proxyInit.runAsUser }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}
terminationMessagePolicy: FallbackToLogsOnError
{{- with $pod.tokenMount }}
volumeMounts:
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}
