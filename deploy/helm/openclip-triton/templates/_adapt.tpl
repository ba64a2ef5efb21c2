{{/* Sets the values in a resource of deploy/kubernetes. */}}
{{- define "openclip.adapt" }}
{{- $resource := .resource }}
{{- $values := .root.Values }}
{{- $part := dict "app.kubernetes.io/part-of" "openclip-triton" }}
{{- if .labelled }}
  {{- $_ := set $resource.metadata "labels" (merge (deepCopy $part) (default dict $resource.metadata.labels)) }}
{{- end }}
{{- if eq $resource.kind "Deployment" }}
  {{- $own := get $values (trimPrefix "openclip-" $resource.metadata.name) }}
  {{- $template := $resource.spec.template }}
  {{- $_ := set $template.metadata "labels" (merge (deepCopy $part) $template.metadata.labels) }}
  {{- if $template.spec.containers | first | dig "envFrom" false }}
    {{- $_ := set $template.metadata "annotations" (dict "checksum/env" (include "openclip.env" .root | sha256sum)) }}
  {{- else if not $values.queueScaling }}
    {{- $_ := set $resource.spec "replicas" $own.replicas.min }}
  {{- end }}
  {{- $container := first $template.spec.containers }}
  {{- $tag := default .root.Chart.AppVersion $values.tag }}
  {{- $_ := set $container "image" (printf "%s/%s:%s" $values.registry $own.image $tag) }}
  {{- $_ := set $container "resources" $own.resources }}
  {{- range $name, $value := dict "nodeSelector" $own.nodeSelector "tolerations" $own.tolerations "imagePullSecrets" $values.imagePullSecrets }}
    {{- if $value }}{{ $_ := set $template.spec $name $value }}{{ end }}
  {{- end }}
{{- else if eq $resource.kind "HorizontalPodAutoscaler" }}
  {{- $own := $values.gateway }}
  {{- $_ := set $resource.spec "minReplicas" $own.replicas.min }}
  {{- $_ := set $resource.spec "maxReplicas" $own.replicas.max }}
  {{- $metric := first $resource.spec.metrics }}
  {{- $_ := set $metric.resource.target "averageUtilization" $own.cpuPercent }}
{{- else if eq $resource.kind "ScaledObject" }}
  {{- $_ := set $resource.spec "minReplicaCount" $values.triton.replicas.min }}
  {{- $_ := set $resource.spec "maxReplicaCount" $values.triton.replicas.max }}
{{- else if eq $resource.kind "PersistentVolumeClaim" }}
  {{- $_ := set $resource.spec.resources.requests "storage" $values.models.size }}
  {{- if $values.models.storageClass }}{{ $_ := set $resource.spec "storageClassName" $values.models.storageClass }}{{ end }}
  {{- $_ := set $resource.metadata "annotations" (dict "helm.sh/resource-policy" "keep") }}
{{- end }}
{{- end }}

{{/* The gateway's environment: that of the kustomization, then the values. */}}
{{- define "openclip.env" }}
{{- $env := dict }}
{{- $generator := first (fromYaml (.Files.Get "kubernetes/base/kustomization.yaml")).configMapGenerator }}
{{- range $generator.literals }}
  {{- $pair := splitn "=" 2 . }}
  {{- $_ := set $env $pair._0 $pair._1 }}
{{- end }}
{{- range $name, $value := .Values.gateway.env }}
  {{- /* A number of a values file is a float64: toString has 3.3554432e+07 for 33554432. */}}
  {{- if not (kindIs "invalid" $value) }}{{ $_ := set $env $name (ternary $value (toJson $value) (kindIs "string" $value)) }}{{ end }}
{{- end }}
{{- toYaml $env }}
{{- end }}
