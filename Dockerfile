# syntax=docker/dockerfile:1
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# --build-arg EXTRA=grpc: with what Envoy's ext_authz over gRPC takes.
ARG EXTRA=
COPY requirements-build.lock requirements.lock requirements-grpc.lock ./
RUN python -m venv --without-pip /app \
 && pip install --require-hashes --only-binary :all: -r requirements-build.lock \
 && pip --python /app/bin/python install --require-hashes --no-deps --only-binary :all: \
    -r requirements.lock ${EXTRA:+-r "requirements-${EXTRA}.lock"}
COPY pyproject.toml README.md LICENSE ./
COPY oidc_proxy ./oidc_proxy
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
 && pip --python /app/bin/python install --no-deps --no-index /wheels/*.whl

FROM python:${PYTHON}-slim-trixie
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="oidc-proxy" \
      org.opencontainers.image.description="Authenticating reverse proxy: OpenID Connect sign-in in front of any web application." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OIDC_PROXY_CONFIG=/etc/oidc-proxy/config.yaml
# Nothing is ever written: the root file system may be read-only.
USER 65532:65532
WORKDIR /
EXPOSE 4180 9180
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["oidc-proxy", "healthcheck"]
ENTRYPOINT ["oidc-proxy"]
CMD ["serve"]
