{{/* Not empty where a Secret is made of `secrets`. */}}
{{- define "oidc-proxy.createdSecret" -}}
{{- $given := list -}}
{{- range $name, $value := .Values.secrets }}{{ if $value }}{{ $given = append $given $name }}{{ end }}{{ end -}}
{{- if $given }}yes{{ end -}}
{{- end -}}

{{/* The Secrets that are mounted at /run/secrets/oidc-proxy, as the sources of a projected volume. */}}
{{- define "oidc-proxy.secretSources" -}}
{{- $sources := list -}}
{{- $own := include "oidc-proxy.fullname" . -}}
{{- $items := list -}}
{{- range $key, $path := include "oidc-proxy.secretItems" . | fromJson -}}
{{- $items = append $items (dict "key" $key "path" $path) -}}
{{- end -}}
{{- if $items -}}
{{- $sources = append $sources (dict "secret" (dict "name" (.Values.existingSecret | default $own) "items" $items)) -}}
{{- end -}}
{{- $redis := .Values.sessionStorage.redis -}}
{{- if $redis.existingSecret -}}
{{- $item := dict "key" $redis.passwordKey "path" "redis-password" -}}
{{- $sources = append $sources (dict "secret" (dict "name" $redis.existingSecret "items" (list $item))) -}}
{{- else if .Values.secrets.redisPassword -}}
{{- $item := dict "key" "redis-password" "path" "redis-password" -}}
{{- $sources = append $sources (dict "secret" (dict "name" $own "items" (list $item))) -}}
{{- end -}}
{{- if $redis.sentinel.existingSecret -}}
{{- $item := dict "key" $redis.sentinel.passwordKey "path" "sentinel-password" -}}
{{- $sources = append $sources (dict "secret" (dict "name" $redis.sentinel.existingSecret "items" (list $item))) -}}
{{- end -}}
{{- if $sources }}{{ toYaml $sources }}{{ end -}}
{{- end -}}
