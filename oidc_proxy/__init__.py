"""oidc_proxy: an authenticating reverse proxy in front of a web application that knows nothing of OpenID Connect."""

__version__ = "0.1.0"
