#!/bin/sh
# GitLab of one's own, started by hand
exec docker run --rm -p 127.0.0.1:4180:4180 quay.io/oauth2-proxy/oauth2-proxy:v7.15.2 \
  --provider gitlab --oidc-issuer-url=https://git.example.com --client-id=0123abcd --client-secret=canary \
  --redirect-url=https://docs.example.com/oauth2/callback --scope='openid profile email' \
  --gitlab-group=docs --gitlab-group=ops --email-domain='*' \
  --http-address=0.0.0.0:4180 --upstream=http://docs:80 --upstream=static://404 \
  --cookie-secret=canary --cookie-path=/docs --set-basic-auth --basic-auth-password=canary \
  --skip-provider-button --request-logging-format='{{.Client}} {{.Username}}' --no-such-option=canary
