{{/* Stops at values that cannot work. Every template with values begins with it. */}}
{{- define "dbtrun.check" -}}
{{- if not (and (hasKey .Values "mode") (hasKey .Values "webhooks")) -}}
{{- fail "These values come from an older version of the chart and lack the new ones: upgrade with --reset-then-reuse-values in place of --reuse-values." -}}
{{- end -}}
{{- with .Values.settings -}}
{{- if lt (int .quietPeriodSeconds) (add (int .requestSeconds) (int .submitWindowSeconds)) -}}
{{- fail "settings.quietPeriodSeconds must be at least settings.requestSeconds and settings.submitWindowSeconds together, or a start could be sent twice." -}}
{{- end -}}
{{- end -}}
{{- if and .Values.caBundle.configMap .Values.caBundle.secret -}}
{{- fail "caBundle.configMap and caBundle.secret are both set: choose one." -}}
{{- end -}}
{{- if and .Values.rbac.existingClusterRole .Values.watchAllNamespaces -}}
{{- fail "rbac.existingClusterRole is bound in single namespaces: set watchNamespaces, or leave it empty to serve every namespace." -}}
{{- end -}}
{{- if and .Values.webhooks.enabled (eq (int .Values.webhooks.port) (int .Values.port)) -}}
{{- fail "webhooks.port and port are the same: webhooks have a port of their own, so choose another." -}}
{{- end -}}
{{- if and .Values.webhooks.enabled (ne .Values.mode "deployment") -}}
{{- fail "webhooks.enabled needs mode deployment: the pod of Airflow's triggerer has no Service." -}}
{{- end -}}
{{- if and .Values.monitor.enabled (eq .Values.monitor.kind "ServiceMonitor") (not .Values.service.enabled) -}}
{{- fail "monitor.kind is ServiceMonitor, and service.enabled is false: enable the Service, or choose PodMonitor." -}}
{{- end -}}
{{- end -}}

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
{{- include "dbtrun.labelsWith" (list . dict) -}}
{{- end -}}

{{/* The labels of every object with further ones, which may not replace them. Takes a list of the context and those. */}}
{{- define "dbtrun.labelsWith" -}}
{{- $root := first . -}}
{{- $chart := printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" -}}
{{- $own := dict "app.kubernetes.io/version" $root.Chart.AppVersion "helm.sh/chart" $chart
  "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $selected := include "dbtrun.selectorLabels" $root | fromYaml -}}
{{- merge dict $selected $own (last .) $root.Values.commonLabels | toYaml -}}
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

{{/* The projects of each namespace, as the watcher reads them. Takes the map. int64: a large number would get an exponent. */}}
{{- define "dbtrun.connectionProjects" -}}
{{- $limits := list -}}
{{- range $namespace, $projects := . -}}
{{- $ids := list -}}
{{- range $projects -}}{{- $ids = append $ids (printf "%d" (int64 .)) -}}{{- end -}}
{{- $limits = append $limits (printf "%s=%s" $namespace (join "+" $ids)) -}}
{{- end -}}
{{- join "," $limits -}}
{{- end -}}

{{- define "dbtrun.image" -}}
{{- $image := .Values.image -}}
{{- $registry := (.Values.global).imageRegistry | default $image.registry -}}
{{- $name := list $registry $image.repository | compact | join "/" -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* What the watcher does with DbtRuns and DbtRunMirrors. Nothing here reads a Secret. */}}
{{- define "dbtrun.watcherRules" -}}
- apiGroups: [dbtrun.dev]
  resources: [dbtruns]
  # create: those of a DbtRunMirror; patch: the finalizer; delete: ttlSecondsAfterFinished
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [dbtrun.dev]
  resources: [dbtruns/status]
  verbs: [patch]
- apiGroups: [dbtrun.dev]
  resources: [dbtrunmirrors]
  verbs: [list, watch]
- apiGroups: [dbtrun.dev]
  resources: [dbtrunmirrors/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* get alone: the watcher reads the Secret that a connectionRef names, and can list none. */}}
{{- define "dbtrun.connectionRules" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
{{- end -}}

{{/* The default connection, where nothing else lets the watcher read it. */}}
{{- define "dbtrun.defaultConnectionRules" -}}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ .Values.connection.existingSecret | quote }}]
  verbs: [get]
{{- end -}}

{{/* spec.artifacts. The watcher changes no ConfigMap that is not the run's own, and can list none. */}}
{{- define "dbtrun.artifactRules" -}}
- apiGroups: [""]
  resources: [configmaps]
  # get, patch: files that come later
  verbs: [create, get, patch]
{{- end -}}

{{- define "dbtrun.leaderRules" -}}
# RBAC cannot limit a create to a name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "dbtrun.fullname" . | quote }}]
  verbs: [get, update]
{{- end -}}

{{- define "dbtrun.artifactNamespaces" -}}
{{- $watched := ternary (list) (include "dbtrun.watchNamespaces" . | fromJsonArray) .Values.watchAllNamespaces -}}
{{- ternary (.Values.artifacts.namespaces | default $watched) (list) .Values.artifacts.enabled | toJson -}}
{{- end -}}

{{/* A Role and its binding to the watcher. Takes a dict: root, name, namespace, rules (as text). */}}
{{- define "dbtrun.roleAndBinding" -}}
{{- if include "dbtrun.namespaceExists" . -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name | quote }}
  namespace: {{ .namespace | quote }}
  labels:
    {{- include "dbtrun.labels" .root | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
{{ include "dbtrun.binding" (merge (dict "kind" "Role" "role" .name) .) }}
{{- end -}}
{{- end -}}

{{/* A Role cannot be created in a namespace that does not exist, and one that is missing must not stop an upgrade for
     the others. Without a cluster (helm template) every namespace counts as existing. */}}
{{- define "dbtrun.namespaceExists" -}}
{{- $own := .root.Release.Namespace -}}
{{- if eq .namespace $own -}}true
{{- else if not (lookup "v1" "Namespace" "" $own) -}}true
{{- else if lookup "v1" "Namespace" "" .namespace -}}true
{{- end -}}
{{- end -}}

{{/* What the watcher needs in a namespace that is being deleted: its RoleBinding there is deleted before the DbtRuns. */}}
{{- define "dbtrun.deletionRules" -}}
- apiGroups: [dbtrun.dev]
  resources: [dbtruns]
  # list: what is left; get, patch: the finalizer
  verbs: [get, list, patch]
{{- end -}}

{{/* Binds a role to the watcher in one namespace. Takes a dict: root, name, namespace, kind, role. */}}
{{- define "dbtrun.binding" -}}
{{- if include "dbtrun.namespaceExists" . -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name | quote }}
  namespace: {{ .namespace | quote }}
  labels:
    {{- include "dbtrun.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .role | quote }}
subjects:
  {{- include "dbtrun.subjects" .root | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "dbtrun.subjects" -}}
- kind: ServiceAccount
  name: {{ include "dbtrun.serviceAccountName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
{{- end -}}

{{/* A cluster has each CRD once. Helm's own words for one that is there already do not say what to do. */}}
{{- define "dbtrun.checkCrd" -}}
{{- $foreign := list -}}
{{- $owner := "" -}}
{{- range list "dbtruns.dbtrun.dev" "dbtrunmirrors.dbtrun.dev" -}}
{{- $crd := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" . -}}
{{- $annotations := dig "metadata" "annotations" (dict) ($crd | default dict) -}}
{{- $name := get $annotations "meta.helm.sh/release-name" -}}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" -}}
{{- $mine := and (eq $name $.Release.Name) (eq $namespace $.Release.Namespace) -}}
{{- if and $crd (not $mine) -}}
{{- $foreign = append $foreign . -}}
{{- $owner = ternary (printf "by the release %s in the namespace %s" $name $namespace) "without Helm" (ne $name "") -}}
{{- end -}}
{{- end -}}
{{- if $foreign -}}
{{- $which := ternary (printf "The CRDs %s are" (join " and " $foreign)) (printf "The CRD %s is" (first $foreign)) (gt (len $foreign) 1) -}}
{{- $names := join " " $foreign -}}
{{- printf `
%s in this cluster already, installed %s.
If the owner stays, install this release beside it: --set crds.enabled=false
If this release is to own and upgrade the CRDs from now on, hand them over first:
  kubectl annotate --overwrite crd %s meta.helm.sh/release-name=%s meta.helm.sh/release-namespace=%s
  kubectl label --overwrite crd %s app.kubernetes.io/managed-by=Helm` $which $owner $names .Release.Name .Release.Namespace $names | fail -}}
{{- end -}}
{{- end -}}

{{/* What a pod needs on this cluster's nodes and network: the watcher's, and the one of helm test. */}}
{{- define "dbtrun.surroundings" -}}
enableServiceLinks: false
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
