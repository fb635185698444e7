{{- define "bearerd.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "bearerd.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "bearerd.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "bearerd.selector" -}}
app.kubernetes.io/name: {{ include "bearerd.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bearerd.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "bearerd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* The name of the Secret with the files of /run/secrets/bearerd. */}}
{{- define "bearerd.secret" -}}
{{- .Values.secret | default (include "bearerd.fullname" .) -}}
{{- end -}}

{{/* [shared] of proxy.toml */}}
{{- define "bearerd.shared" -}}
{{- with .Values.shared -}}
[shared]
url = {{ .url | quote }}
{{- with .username }}
username = {{ . | quote }}
{{- end }}
{{- if .password.key }}
password = { file = "/run/secrets/bearerd-shared/password" }
{{- end }}
key = { file = "/run/secrets/bearerd-shared/key" }
{{- if .ca.key }}
ca_file = "/run/secrets/bearerd-shared/ca.pem"
{{- end }}
{{- if .insecure }}
insecure = true
{{- end }}
when_away = {{ .whenAway | quote }}
{{- end -}}
{{- end -}}

{{/* proxy.toml */}}
{{- define "bearerd.config" -}}
{{- if .Values.extraConfig -}}
{{- if .Values.config -}}{{- fail "config and extraConfig exclude each other" -}}{{- end -}}
{{- if .Values.shared.enabled -}}{{- fail "write [shared] in extraConfig, instead of shared.enabled" -}}{{- end -}}
{{- .Values.extraConfig | trim -}}
{{- else -}}
{{- $name := include "bearerd.fullname" . -}}
{{- $hosts := list $name -}}
{{- range list "" ".svc" ".svc.cluster.local" -}}
{{- $hosts = append $hosts (printf "%s.%s%s" $name $.Release.Namespace .) -}}
{{- end -}}
{{- with .Values.server -}}
[server]
{{- if eq $.Values.mode "sidecar" }}
listen = "127.0.0.1:8080"
{{- else }}
listen = "0.0.0.0:8080"
allow_from = {{ .allowFrom | toJson }}
hosts = {{ concat $hosts .hosts | toJson }}
drain_delay = {{ .drainDelay | quote }}
{{- end }}
workers = {{ .workers | int }}
drain = {{ .drain | quote }}
{{- if $.Values.state.enabled }}
state_dir = "/var/lib/bearerd"
{{- end }}

[server.limits]
connections = {{ .connections | int }}
connection_age = {{ .connectionAge | quote }}
replay_total = {{ .replayTotal | quote }}
{{- end }}

[health]
listen = "0.0.0.0:9091"

[admin]
listen = "unix:/run/bearerd/admin.sock"
{{- if .Values.shared.enabled }}

{{ include "bearerd.shared" . }}
{{- end }}

{{ required "write credentials and routes in config, or a whole proxy.toml in extraConfig" .Values.config | trim }}
{{- end }}
{{ end -}}

{{/* The container, for both modes. */}}
{{- define "bearerd.container" -}}
{{- $health := ternary "bearerd-health" "health" (eq .Values.mode "sidecar") -}}
name: bearerd
image: {{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- if eq .Values.mode "sidecar" }}
restartPolicy: Always
{{- end }}
command: [/usr/bin/bearerd, run, -c, /etc/bearerd/proxy.toml]
{{- with .Values.env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- if eq .Values.mode "gateway" }}
  - name: http
    containerPort: 8080
  {{- end }}
  - name: {{ $health }}
    containerPort: 9091
startupProbe:
  httpGet:
    port: {{ $health }}
    path: /livez
  periodSeconds: 1
  failureThreshold: 30
livenessProbe:
  httpGet:
    port: {{ $health }}
    path: /livez
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet:
    port: {{ $health }}
    path: /readyz
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
volumeMounts:
  - name: bearerd-config
    mountPath: /etc/bearerd
    readOnly: true
  - name: bearerd-secrets
    mountPath: /run/secrets/bearerd
    readOnly: true
  - name: bearerd-run
    mountPath: /run/bearerd
  {{- if .Values.shared.enabled }}
  - name: bearerd-shared
    mountPath: /run/secrets/bearerd-shared
    readOnly: true
  {{- end }}
  {{- if .Values.state.enabled }}
  - name: bearerd-state
    mountPath: /var/lib/bearerd
  {{- end }}
{{- end -}}

{{- define "bearerd.volumes" -}}
- name: bearerd-config
  configMap:
    name: {{ include "bearerd.fullname" . }}
- name: bearerd-secrets
  secret:
    secretName: {{ include "bearerd.secret" . }}
    {{- if eq .Values.mode "gateway" }}
    defaultMode: 0440
    {{- end }}
- name: bearerd-run
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- if .Values.shared.enabled }}
- name: bearerd-shared
  projected:
    {{- if eq .Values.mode "gateway" }}
    defaultMode: 0440
    {{- end }}
    sources:
      {{- $files := dict "key" .Values.shared.key "password" .Values.shared.password "ca.pem" .Values.shared.ca }}
      {{- range $path, $from := $files }}
      {{- if $from.key }}
      - secret:
          name: {{ $from.secret | default (include "bearerd.secret" $) }}
          items:
            - key: {{ $from.key }}
              path: {{ $path }}
      {{- end }}
      {{- end }}
{{- end }}
{{- if .Values.state.enabled }}
- name: bearerd-state
  persistentVolumeClaim:
    claimName: {{ .Values.state.existingClaim | default (include "bearerd.fullname" .) }}
{{- end }}
{{- end -}}

{{- define "bearerd.annotations" -}}
checksum/config: {{ include "bearerd.config" . | sha256sum }}
{{- if not .Values.podMonitor.enabled }}
prometheus.io/scrape: "true"
prometheus.io/port: "9091"
prometheus.io/path: /metrics
{{- end }}
{{- end -}}

{{/*
For the chart of an application, with this chart as its dependency and `mode: sidecar`: the entry for initContainers, the
entries for volumes, and the pod's annotations. The argument is .Subcharts.bearerd. The pod needs enableServiceLinks: false.
*/}}
{{- define "bearerd.sidecar.container" -}}
- {{ include "bearerd.container" . | nindent 2 | trim }}
{{- end -}}

{{- define "bearerd.sidecar.volumes" -}}
{{ include "bearerd.volumes" . }}
{{- end -}}

{{- define "bearerd.sidecar.annotations" -}}
{{ include "bearerd.annotations" . }}
{{- end -}}
