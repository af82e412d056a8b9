{{- define "dbtrun.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Objects without a namespace: two releases of one name may live in two namespaces. */}}
{{- define "dbtrun.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "dbtrun.fullname" .) -}}
{{- end -}}

{{- define "dbtrun.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "dbtrun.labels" -}}
{{ include "dbtrun.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- define "dbtrun.serviceAccountName" -}}
{{- $own := ternary (include "dbtrun.fullname" .) "default" .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default $own -}}
{{- end -}}

{{/* The lists of namespaces, as JSON for fromJsonArray. */}}
{{- define "dbtrun.watchNamespaces" -}}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | toJson -}}
{{- end -}}

{{- define "dbtrun.secretNamespaces" -}}
{{- $watched := ternary (list) .Values.watchNamespaces .Values.watchAllNamespaces -}}
{{- .Values.secretNamespaces | default $watched | default (list .Release.Namespace) | toJson -}}
{{- end -}}

{{- define "dbtrun.airflowNamespaces" -}}
{{- $watched := ternary (list) .Values.watchNamespaces .Values.watchAllNamespaces -}}
{{- .Values.airflow.namespaces | default $watched | default (list .Release.Namespace) | toJson -}}
{{- end -}}

{{- define "dbtrun.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* What the watcher does with DbtRuns: everything but creating them. Nothing here reads a Secret. */}}
{{- define "dbtrun.watcherRules" -}}
- apiGroups: [dbtrun.dev]
  resources: [dbtruns]
  # patch: the finalizer; delete: ttlSecondsAfterFinished
  verbs: [get, list, watch, patch, delete]
- apiGroups: [dbtrun.dev]
  resources: [dbtruns/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# spec.artifacts: a ConfigMap that is not the run's own is never changed, and none can be listed
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create, get, patch]
{{- end -}}

{{- define "dbtrun.subjects" -}}
- kind: ServiceAccount
  name: {{ include "dbtrun.serviceAccountName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
{{- end -}}
