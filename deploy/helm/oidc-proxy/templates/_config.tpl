{{- define "oidc-proxy.dialect" -}}
{{- $dialect := get (dict "nginx" "nginx" "traefik" "forward" "envoyGateway" "envoy" "istio" "envoy" "gatewayApi" "envoy") .Values.frontProxy -}}
{{- if not .Values.grpc.enabled }}{{ $dialect }}{{ end -}}
{{- end -}}

{{/* Whether anybody asks over HTTP, as far as can be seen here. */}}
{{- define "oidc-proxy.asksOverHttp" -}}
{{- $unseen := and .Values.existingConfig (eq .Values.mode "forwardAuth") (not .Values.grpc.enabled) -}}
{{- if or $unseen (dig "forward_auth" "dialects" list .Values.config) (include "oidc-proxy.dialect" .) }}true{{ end -}}
{{- end -}}

{{/* Whether it is on a port of its own. */}}
{{- define "oidc-proxy.listener" -}}
{{- if .Values.forwardAuth.listener.enabled }}{{ include "oidc-proxy.asksOverHttp" . }}{{ end -}}
{{- end -}}

{{/* Whether it is, or may be, on the port that browsers are led to. */}}
{{- define "oidc-proxy.onePort" -}}
{{- $seen := and (include "oidc-proxy.asksOverHttp" .) (not (include "oidc-proxy.listener" .)) -}}
{{- if or .Values.existingConfig $seen }}true{{ end -}}
{{- end -}}

{{/* Where sessions are kept, from sessionStorage and devValkey. */}}
{{- define "oidc-proxy.store" -}}
{{- $redis := .Values.sessionStorage.redis -}}
{{- $store := dict "type" "redis" -}}
{{- if .Values.devValkey.enabled -}}
{{- $_ := set $store "url" (printf "redis://%s-valkey:6379/0" (include "oidc-proxy.fullname" .)) -}}
{{- else if eq $redis.clientType "sentinel" -}}
{{- $addresses := required "sessionStorage.redis.sentinel.addresses is missing: write host:port of each Sentinel" $redis.sentinel.addresses -}}
{{- $_ := set $store "url" $redis.sentinel.connectionUrl -}}
{{- $sentinel := dict "master" $redis.sentinel.masterName "addresses" $addresses -}}
{{- if $redis.sentinel.existingSecret -}}
{{- $_ := set $sentinel "password_file" "/run/secrets/oidc-proxy/sentinel-password" -}}
{{- end -}}
{{- $_ := set $store "sentinel" $sentinel -}}
{{- else -}}
{{- $url := (get $redis $redis.clientType).connectionUrl -}}
{{- $hint := "write the address of Redis or Valkey, or devValkey.enabled: true for a trial, or sessionStorage.type: memory with replicaCount: 1" -}}
{{- $_ := set $store "url" (required (printf "sessionStorage.redis.%s.connectionUrl is missing: %s" $redis.clientType $hint) $url) -}}
{{- if eq $redis.clientType "cluster" }}{{ $_ := set $store "cluster" true }}{{ end -}}
{{- end -}}
{{- with $redis.username }}{{ $_ := set $store "username" . }}{{ end -}}
{{- if or $redis.existingSecret .Values.secrets.redisPassword -}}
{{- $_ := set $store "password_file" "/run/secrets/oidc-proxy/redis-password" -}}
{{- end -}}
{{- $store | toYaml -}}
{{- end -}}

{{/* Entry of the Secret → file name, for what there is of it; as JSON. */}}
{{- define "oidc-proxy.secretItems" -}}
{{- $items := dict -}}
{{- range $name, $file := dict "clientSecret" "client-secret" "sessionKey" "session-key" "previousSessionKey" "previous-session-key" "adminToken" "admin-token" -}}
{{- if $.Values.existingSecret -}}
{{- with get $.Values.existingSecretKeys $name }}{{ $_ := set $items . $file }}{{ end -}}
{{- else if get $.Values.secrets $name -}}
{{- $_ := set $items $file $file -}}
{{- end -}}
{{- end -}}
{{- $items | toJson -}}
{{- end -}}

{{/* What oidc_proxy reads: what follows from the other values, and `config` over it. */}}
{{- define "oidc-proxy.config" -}}
{{- $files := include "oidc-proxy.secretItems" . | fromJson | values -}}
{{- $own := dict
  "listen" (dict "address" "0.0.0.0:4180")
  "admin" (dict "address" "0.0.0.0:9180" "require_store" false)
  "provider" dict "session" dict -}}
{{- if has "client-secret" $files }}{{ $_ := set $own.provider "client_secret_file" "/run/secrets/oidc-proxy/client-secret" }}{{ end -}}
{{- if has "session-key" $files }}{{ $_ := set $own.session "key_file" "/run/secrets/oidc-proxy/session-key" }}{{ end -}}
{{- if has "previous-session-key" $files }}{{ $_ := set $own.session "previous_key_file" "/run/secrets/oidc-proxy/previous-session-key" }}{{ end -}}
{{- if has "admin-token" $files }}{{ $_ := set $own.admin "token_file" "/run/secrets/oidc-proxy/admin-token" }}{{ end -}}
{{- if not $own.session }}{{ $_ := unset $own "session" }}{{ end -}}
{{- if not (dig "store" "type" "" .Values.config) -}}
{{- if and (eq .Values.sessionStorage.type "redis") (not .Values.existingConfig) -}}
{{- $_ := set $own "store" (include "oidc-proxy.store" . | fromYaml) -}}
{{- else -}}
{{- $_ := set $own "store" (dict "type" "memory") -}}
{{- end -}}
{{- end -}}
{{- $asks := dict -}}
{{- if eq .Values.mode "forwardAuth" }}{{ $_ := set $asks "trusted_proxies" .Values.forwardAuth.trustedProxies }}{{ end -}}
{{- with include "oidc-proxy.dialect" . }}{{ $_ := set $asks "dialects" (list .) }}{{ end -}}
{{- if .Values.grpc.enabled }}{{ $_ := set $asks "grpc" (dict "address" "0.0.0.0:4181") }}{{ end -}}
{{- if include "oidc-proxy.listener" . }}{{ $_ := set $asks "address" "0.0.0.0:4182" }}{{ end -}}
{{- with $asks }}{{ $_ := set $own "forward_auth" . }}{{ end -}}
{{- mergeOverwrite $own (deepCopy .Values.config) | toYaml -}}
{{- end -}}

{{/* What contradicts itself is said before anything is made. */}}
{{- define "oidc-proxy.check" -}}
{{- $config := .Values.config -}}
{{- if not .Values.existingConfig -}}
{{- $_ := required "config.public_url is missing: write the origin that browsers use, such as https://app.example.com" $config.public_url -}}
{{- $_ := required "config.provider.issuer is missing: write the provider's issuer, such as https://keycloak.example.com/realms/main" (dig "provider" "issuer" "" $config) -}}
{{- $_ := required "config.provider.client_id is missing: write the client id that the provider knows" (dig "provider" "client_id" "" $config) -}}
{{- if and (eq .Values.mode "reverseProxy") (not (or $config.upstream $config.upstreams $config.routes)) -}}
{{- fail "config.upstream is missing: write the address of the application, such as http://app:8080, or mode: forwardAuth" -}}
{{- end -}}
{{- $store := dig "store" "type" .Values.sessionStorage.type $config -}}
{{- if and (eq $store "memory") (or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled) -}}
{{- fail "sessionStorage.type memory is not shared: with more than one replica, users would sign in again and again; write replicaCount: 1 without autoscaling, or sessionStorage.type: redis" -}}
{{- end -}}
{{- if and (eq .Values.mode "forwardAuth") (not .Values.forwardAuth.trustedProxies) (not (dig "forward_auth" "trusted_proxies" "" $config)) -}}
{{- fail "forwardAuth.trustedProxies is missing: write the networks that the proxy asks from, such as the range of the Pods [10.0.0.0/8]; nobody else gets an answer" -}}
{{- end -}}
{{- if and (eq .Values.mode "forwardAuth") (eq .Values.frontProxy "none") (not .Values.grpc.enabled) (not (dig "forward_auth" "dialects" "" $config)) -}}
{{- fail "frontProxy is none, and neither config.forward_auth.dialects nor grpc.enabled says how the proxy asks: write one of them" -}}
{{- end -}}
{{- if and (dig "forward_auth" "address" "" $config) (not (include "oidc-proxy.listener" .)) -}}
{{- fail "config.forward_auth.address would be a port that no Service or policy knows: leave it out, since forwardAuth.listener.enabled sets it where somebody asks over HTTP" -}}
{{- end -}}
{{- if and (dig "forward_auth" "grpc" "" $config) (not .Values.grpc.enabled) -}}
{{- fail "config.forward_auth.grpc would be a port that no Service or policy knows: write grpc.enabled: true instead" -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.hosts) (or (ne .Values.frontProxy "none") .Values.ingress.enabled .Values.gatewayApi.enabled) -}}
{{- if or .Values.existingConfig (contains "${" (toString $config.public_url)) -}}
{{- fail "hosts is missing: the chart cannot see public_url; write the hosts that browsers use" -}}
{{- end -}}
{{- end -}}
{{- if and (ne .Values.frontProxy "none") (ne .Values.mode "forwardAuth") -}}
{{- fail (printf "frontProxy is %s, but mode is %s: write mode: forwardAuth, or frontProxy: none" .Values.frontProxy .Values.mode) -}}
{{- end -}}
{{- if and .Values.grpc.enabled (ne .Values.mode "forwardAuth") -}}
{{- fail "grpc.enabled is for a proxy that asks: write mode: forwardAuth, or grpc.enabled: false" -}}
{{- end -}}
{{- if and .Values.grpc.enabled (has .Values.frontProxy (list "nginx" "traefik")) -}}
{{- fail (printf "frontProxy %s asks over HTTP only: write grpc.enabled: false" .Values.frontProxy) -}}
{{- end -}}
{{- $ports := dict "service.port" (toString .Values.service.port) -}}
{{- if .Values.grpc.enabled }}{{ $_ := set $ports "grpc.port" (toString .Values.grpc.port) }}{{ end -}}
{{- if include "oidc-proxy.listener" . }}{{ $_ := set $ports "forwardAuth.listener.port" (toString .Values.forwardAuth.listener.port) }}{{ end -}}
{{- if ne (len $ports) (values $ports | uniq | len) -}}
{{- fail (printf "%s must differ: they are ports of one Service" (keys $ports | sortAlpha | join " and ")) -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would count everything twice: enable one of them" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor needs the Service of metrics.enabled: write true, or enable metrics.podMonitor instead" -}}
{{- end -}}
{{- if and (eq .Values.mode "forwardAuth") (or .Values.ingress.enabled .Values.gatewayApi.enabled) -}}
{{- fail "ingress.enabled and gatewayApi.enabled lead everything to oidc_proxy, which has no application behind it in mode forwardAuth: frontProxy makes the objects for that" -}}
{{- end -}}
{{- if and (has .Values.frontProxy (list "envoyGateway" "gatewayApi")) (not .Values.gatewayApi.gatewayRef.name) -}}
{{- fail (printf "gatewayApi.gatewayRef.name is missing: frontProxy %s needs the name of the Gateway" .Values.frontProxy) -}}
{{- end -}}
{{- if and .Values.gatewayApi.enabled (not .Values.gatewayApi.gatewayRef.name) -}}
{{- fail "gatewayApi.gatewayRef.name is missing: write the name of the Gateway" -}}
{{- end -}}
{{- if and .Values.existingSecret (or .Values.secrets.clientSecret .Values.secrets.sessionKey .Values.secrets.previousSessionKey .Values.secrets.adminToken) -}}
{{- fail "existingSecret and secrets are both given: write one of them" -}}
{{- end -}}
{{- if and .Values.devValkey.enabled (or .Values.sessionStorage.redis.existingSecret .Values.secrets.redisPassword) -}}
{{- fail "devValkey has no password: leave sessionStorage.redis.existingSecret and secrets.redisPassword empty" -}}
{{- end -}}
{{- range $section, $port := dict "listen" "4180" "admin" "9180" "forward_auth" "4182" "forward_auth.grpc" "4181" -}}
{{- $address := $config -}}
{{- range splitList "." (printf "%s.address" $section) }}{{ $address = kindIs "map" $address | ternary (get (kindIs "map" $address | ternary $address dict) .) "" }}{{ end -}}
{{- if and $address (not (hasSuffix (printf ":%s" $port) (toString $address))) -}}
{{- fail (printf "config.%s.address is %s: the chart's Services, probes and policies expect 0.0.0.0:%s, so leave it out" $section $address $port) -}}
{{- end -}}
{{- end -}}
{{- range $path := list "provider.client_secret" "store.password" "session.key" "session.previous_key" "admin.token" "store.sentinel.password" -}}
{{- $secret := $config -}}
{{- range splitList "." $path }}{{ $secret = kindIs "map" $secret | ternary (get (kindIs "map" $secret | ternary $secret dict) .) "" }}{{ end -}}
{{- if and $secret (not (contains "${" (toString $secret))) -}}
{{- fail (printf "config.%s would be in a ConfigMap for everybody to read: write it under secrets, or name a Secret as existingSecret" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
