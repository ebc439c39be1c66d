{{- define "adit.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "adit.labels" -}}
app.kubernetes.io/name: adit
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "adit.config" -}}
listen: ":8080"
data-dir: /data/adit # its own: the volume's root may be for a group
grace: {{ .Values.grace }}s
{{- if .Values.existingSecret }}
secret-file: /secret/secret
{{- end }}
{{- if .Values.tcpPorts }}
tcp-ports: {{ .Values.tcpPorts | join "," | quote }}
{{- end }}
{{- if .Values.udpPorts }}
udp-ports: {{ .Values.udpPorts | join "," | quote }}
{{- end }}
{{- with omit .Values.config "grace" }}
{{ toYaml . }}
{{- end }}
{{- end -}}
