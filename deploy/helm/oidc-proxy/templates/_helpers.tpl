{{- define "oidc-proxy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "oidc-proxy.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "oidc-proxy.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "oidc-proxy.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "oidc-proxy.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "oidc-proxy.selectorLabels" -}}
app.kubernetes.io/name: {{ include "oidc-proxy.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: proxy
{{- end -}}

{{/* Labels of every object; takes the context and the component. */}}
{{- define "oidc-proxy.labelsOf" -}}
{{- $ := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "oidc-proxy.name" $ }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/version: {{ $.Values.image.tag | default $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "oidc-proxy.labels" -}}
{{- include "oidc-proxy.labelsOf" (list . "proxy") -}}
{{- end -}}

{{- define "oidc-proxy.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "oidc-proxy.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "oidc-proxy.image" -}}
{{- $image := .repository -}}
{{- with .registry }}{{ $image = printf "%s/%s" . $image }}{{ end -}}
{{- if .digest -}}
{{- printf "%s@%s" $image .digest -}}
{{- else -}}
{{- printf "%s:%s" $image .tag -}}
{{- end -}}
{{- end -}}

{{- define "oidc-proxy.ownImage" -}}
{{- include "oidc-proxy.image" (merge (dict "tag" (.Values.image.tag | default .Chart.AppVersion)) .Values.image) -}}
{{- end -}}

{{/* A duration of the configuration, such as 1m30s, in whole seconds. */}}
{{- define "oidc-proxy.seconds" -}}
{{- $text := toString . -}}
{{- $sum := 0.0 -}}
{{- range $part := regexFindAll "[0-9.]+(ms|s|m|h|d|w)" $text -1 -}}
{{- $unit := regexFind "[a-z]+$" $part -}}
{{- $factor := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0 "w" 604800.0) $unit -}}
{{- $sum = addf $sum (mulf (trimSuffix $unit $part | float64) $factor) -}}
{{- end -}}
{{- ceil $sum | int -}}
{{- end -}}

{{/* How long a Pod may take to end: what Kubernetes waits for, what oidc_proxy waits for, and time to spare. */}}
{{- define "oidc-proxy.gracePeriod" -}}
{{- $config := include "oidc-proxy.config" . | fromYaml -}}
{{- $timeouts := dig "http" "timeouts" (dict) $config -}}
{{- $pre := dig "preStop" "sleep" "seconds" 0 (.Values.lifecycle | default dict) | int -}}
{{- $delay := include "oidc-proxy.seconds" (get $timeouts "drain_delay" | default "0s") | int -}}
{{- $drain := include "oidc-proxy.seconds" (get $timeouts "drain_max" | default "20s") | int -}}
{{- $least := add $pre $delay $drain 6 | int -}}
{{- $asked := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $asked -}}
{{- add $least 4 -}}
{{- else if lt (int $asked) $least -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but preStop (%d s), http.timeouts.drain_delay (%d s), http.timeouts.drain_max (%d s) and the end itself take up to %d s: leave it out, or write %d" (int $asked) $pre $delay $drain (sub $least 1) $least) -}}
{{- else -}}
{{- int $asked -}}
{{- end -}}
{{- end -}}

{{/* The hosts that browsers use, as a JSON list: those of public_url, unless `hosts` says. */}}
{{- define "oidc-proxy.hosts" -}}
{{- $hosts := .Values.hosts -}}
{{- if not $hosts -}}
{{- $urls := get .Values.config "public_url" -}}
{{- range (kindIs "slice" $urls | ternary $urls (list $urls)) -}}
{{- $hosts = append $hosts (urlParse (toString .)).hostname -}}
{{- end -}}
{{- end -}}
{{- $hosts | uniq | toJson -}}
{{- end -}}

{{- define "oidc-proxy.prefix" -}}
{{- dig "endpoints" "prefix" "/oauth2" .Values.config -}}
{{- end -}}

{{/* What leads to us where another proxy asks: everything below the prefix; or only the pages, one by one, where it asks on
the same port. */}}
{{- define "oidc-proxy.pages" -}}
{{- $prefix := include "oidc-proxy.prefix" . -}}
{{- $pages := list -}}
{{- if include "oidc-proxy.onePort" . -}}
{{- range list "start" "callback" "handover" "sign_in" "unavailable" "sign_out" "signed_out" "backchannel_logout" "frontchannel_logout" "userinfo" "session" "refresh" -}}
{{- $pages = append $pages (dict "type" "Exact" "value" (printf "%s/%s" $prefix .)) -}}
{{- end -}}
{{- else -}}
{{- $pages = list (dict "type" "PathPrefix" "value" (printf "%s/" $prefix)) -}}
{{- end -}}
{{- $pages | toJson -}}
{{- end -}}

{{/* The headers of an answer that the application reads. */}}
{{- define "oidc-proxy.said" -}}
{{- $said := list "X-Auth-Request-User" "X-Auth-Request-Email" "X-Auth-Request-Preferred-Username" "X-Auth-Request-Groups" -}}
{{- $headers := dig "identity" "headers" (dict) .Values.config -}}
{{- $own := include "oidc-proxy.identityHeaders" . | fromJsonArray -}}
{{- with $headers }}{{ $own = keys . | sortAlpha }}{{ end -}}
{{- append (concat $said $own | uniq) "Authorization" | toJson -}}
{{- end -}}

{{/* identity.headers, unless the configuration says otherwise. */}}
{{- define "oidc-proxy.identityHeaders" -}}
{{- list "X-Forwarded-User" "X-Forwarded-Email" "X-Forwarded-Preferred-Username" "X-Forwarded-Groups" | toJson -}}
{{- end -}}

{{/* The headers that a client must not be believed, and that no answer replaces. */}}
{{- define "oidc-proxy.unsaid" -}}
{{- $unsaid := list "X-Auth-Request-Access-Token" "X-Forwarded-Access-Token" "X-Original-URL" "X-Original-URI" "X-Original-Method" "X-Rewrite-URL" -}}
{{- $said := include "oidc-proxy.said" . | fromJsonArray -}}
{{- range include "oidc-proxy.identityHeaders" . | fromJsonArray -}}
{{- if not (has . $said) }}{{ $unsaid = append $unsaid . }}{{ end -}}
{{- end -}}
{{- $unsaid | toJson -}}
{{- end -}}

{{/* What a decision is made of, for proxies that send only what they are told to. */}}
{{- define "oidc-proxy.asked" -}}
{{- list "cookie" "accept" "content-type" "origin" "user-agent" "x-requested-with" "sec-fetch-mode" "sec-fetch-dest" "sec-fetch-site" "sec-purpose" "sec-websocket-key" "upgrade" "x-forwarded-for" "x-request-id" "traceparent" "tracestate" | toJson -}}
{{- end -}}

{{- define "oidc-proxy.serviceHost" -}}
{{- printf "%s.%s.svc.%s" (include "oidc-proxy.fullname" .) (include "oidc-proxy.namespace" .) .Values.clusterDomain -}}
{{- end -}}

{{/* The port of the Service where other proxies ask over HTTP. */}}
{{- define "oidc-proxy.checkPort" -}}
{{- if include "oidc-proxy.listener" . }}{{ .Values.forwardAuth.listener.port }}{{ else }}{{ .Values.service.port }}{{ end -}}
{{- end -}}

{{- define "oidc-proxy.checkUrl" -}}
{{- printf "http://%s:%s%s/authz" (include "oidc-proxy.serviceHost" .) (include "oidc-proxy.checkPort" .) (include "oidc-proxy.prefix" .) -}}
{{- end -}}

{{- define "oidc-proxy.parentRefs" -}}
{{- $parent := dict -}}
{{- range $key, $value := .Values.gatewayApi.gatewayRef }}{{ if $value }}{{ $_ := set $parent $key $value }}{{ end }}{{ end -}}
{{- list $parent | toYaml -}}
{{- end -}}

{{/* What an Ingress of the application says to ingress-nginx. */}}
{{- define "oidc-proxy.nginxAnnotations" -}}
nginx.ingress.kubernetes.io/auth-url: {{ include "oidc-proxy.checkUrl" . }}/nginx
nginx.ingress.kubernetes.io/auth-signin: https://$host{{ include "oidc-proxy.prefix" . }}/start
nginx.ingress.kubernetes.io/auth-response-headers: {{ include "oidc-proxy.said" . | fromJsonArray | join "," }}
nginx.ingress.kubernetes.io/proxy-buffer-size: 32k
{{- end -}}

{{/* What belongs into Istio's own settings. */}}
{{- define "oidc-proxy.meshConfig" -}}
pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}
extensionProviders:
  - name: {{ .Values.forwardAuth.istio.providerName }}
    {{- if .Values.grpc.enabled }}
    envoyExtAuthzGrpc:
      service: {{ include "oidc-proxy.serviceHost" . }}
      port: {{ .Values.grpc.port }}
      timeout: 2s
      failOpen: false
    {{- else }}
    envoyExtAuthzHttp:
      service: {{ include "oidc-proxy.serviceHost" . }}
      port: {{ include "oidc-proxy.checkPort" . }}
      pathPrefix: {{ include "oidc-proxy.prefix" . }}/authz/envoy
      timeout: 2s
      failOpen: false
      includeRequestHeadersInCheck: {{ include "oidc-proxy.asked" . }}
      headersToUpstreamOnAllow: {{ include "oidc-proxy.said" . }}
      headersToDownstreamOnDeny: [content-type, location, www-authenticate, cache-control, retry-after]
    {{- end }}
{{- end -}}
