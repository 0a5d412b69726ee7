"""oauth2-proxy's configuration as it is written: file, alpha file, command line, Compose file, objects, environment.

Whatever it is read from, it becomes flags and what they are set to, by the names that the command line has.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import yaml

from oidc_proxy.config.oauth2_proxy.options import BY_KEY, NO_SETTINGS, OPTIONS, Kind
from oidc_proxy.values import Duration

Values: TypeAlias = dict[str, Any]
"""Flag → text, truth or list; a name that is no option of oauth2-proxy stays as it was written."""

_VARIABLE = "OAUTH2_PROXY_"
_FLAG = re.compile(r"--?([A-Za-z][A-Za-z0-9_-]*)(?:=(.*))?", re.DOTALL)
_TRUE, _FALSE = {"1", "t", "true"}, {"0", "f", "false"}


def read(text: str) -> Values:
    """Whatever kind of file it is. ValueError, without what is in it, if it is none of them."""
    try:
        values = _read(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not values.keys() & OPTIONS.keys():
        raise ValueError("has no option of oauth2-proxy")
    return values


_COMMAND = re.compile(r"(-{1,2}[A-Za-z]|(\S*/)?oauth2-proxy\b|(sudo|exec|docker|podman) )")


def _read(text: str) -> Values:
    if _COMMAND.match(_first_line(text)) and "--" in text:
        return of_words(shlex.split(text.replace("\\\n", " "), comments=True))
    if assigned := _assigned(text):
        return of_environ(assigned)
    try:
        return of_settings(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        not_toml = re.search(r"at line \d+, column \d+", str(error))
    try:
        documents = list(yaml.safe_load_all(text))
    except (yaml.YAMLError, ValueError):
        documents = []
    if not any(isinstance(document, Mapping) for document in documents):
        where = f", by what is {not_toml[0]}," if not_toml else ""
        raise ValueError(f"is no configuration file{where} and neither YAML nor a command line")
    if len(documents) == 1 and _ALPHA & documents[0].keys():
        return of_alpha(documents[0])
    return _within(documents)


def _lines(text: str) -> Iterator[str]:
    lines = (line.strip() for line in text.splitlines())
    return (line for line in lines if line and not line.startswith("#"))


def _first_line(text: str) -> str:
    return next(_lines(text), "")


_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Z_][A-Z0-9_]*)=(?!.*\s--)(?:\"(.*)\"|'(.*)'|(.*))")


def _assigned(text: str) -> dict[str, str]:
    """The variables of a file that has nothing else, such as Docker's ``--env-file`` takes."""
    found = [_ASSIGNMENT.fullmatch(line) for line in _lines(text)]
    variables = {part[1]: part[2] or part[3] or part[4] or "" for part in found if part}
    return variables if all(found) and any(name.startswith(_VARIABLE) for name in variables) else {}


# ── what it is written in ─────────────────────────────────────────────────────────────────────────────────────────────


def of_settings(settings: Mapping[str, Any]) -> Values:
    """From the names of the configuration file."""
    return dict(_settled(BY_KEY.get(key, key), value) for key, value in settings.items())


def of_environ(environ: Mapping[str, str]) -> Values:
    """From ``OAUTH2_PROXY_…`` variables; others are passed over."""
    found = {name.removeprefix(_VARIABLE): value for name, value in environ.items() if name.startswith(_VARIABLE)}
    return of_settings({name.lower(): value for name, value in found.items()})


def of_words(words: Sequence[str]) -> Values:
    """From a command line, and the variables that it sets; whatever else is no flag is passed over."""
    variables = (word.partition("=") for word in words if word.startswith(_VARIABLE))
    values = of_environ({name: value for name, _, value in variables})
    counted: set[str] = set()
    rest = list(words)
    while rest:
        found = _FLAG.fullmatch(rest.pop(0))
        if not found:
            continue
        flag, value = found[1].replace("_", "-"), found[2]
        option = OPTIONS.get(flag)
        if value is None and option and option.kind != Kind.TRUTH and rest:
            value = rest.pop(0)
        flag, settled = _settled(flag, True if value is None else value)
        if option and option.kind == Kind.LIST:
            settled = [*(values[flag] if flag in counted else []), *settled]
        counted.add(flag)
        values[flag] = settled
    return values


def _within(documents: list[Any]) -> Values:
    """From the command and variables of oauth2-proxy's container, in a Compose file or an object of Kubernetes."""
    escaped = any("services" in document for document in documents if isinstance(document, Mapping))
    containers = [_container(mapping, escaped=escaped) for mapping in _mappings(documents)]
    found = [values for values in containers if values.keys() & OPTIONS.keys()] or [{}]
    if len(found) > 1:
        raise ValueError(f"has {len(found)} containers of oauth2-proxy: keep one of them")
    files = [values for mapping in _mappings(documents) for values in _config_map(mapping)]
    if len(files) > 1:
        raise ValueError(f"has {len(files)} files of oauth2-proxy in ConfigMaps: keep one of them")
    for values in files:
        found[0].pop("config", None)
        return values | found[0]
    return found[0]


def _config_map(mapping: Mapping[Any, Any]) -> Iterator[Values]:
    """The configuration files in an object that is a ConfigMap."""
    data = mapping.get("data")
    for text in data.values() if mapping.get("kind") == "ConfigMap" and isinstance(data, Mapping) else ():
        try:
            settings = tomllib.loads(str(text))
        except tomllib.TOMLDecodeError:
            continue
        if settings.keys() & BY_KEY.keys():
            yield of_settings(settings)


def _container(mapping: Mapping[Any, Any], *, escaped: bool) -> Values:
    """Its flags over its variables. In Compose files (``escaped``), two dollar signs are one."""
    words: list[str] = []
    for key in ("entrypoint", "command", "args"):
        given = mapping.get(key)
        words += shlex.split(given) if isinstance(given, str) else map(str, given if isinstance(given, list) else ())
    variables = {**_variables(mapping.get("environment")), **_variables(mapping.get("env"))}
    if escaped:
        words = [word.replace("$$", "$") for word in words]
        variables = {name: value.replace("$$", "$") for name, value in variables.items()}
    image = str(mapping.get("image")).partition(":")[0]
    if not ("oauth2-proxy" in image or variables.keys() & _NAMES or any(map(_is_ours, words))):
        return {}
    return of_environ(variables) | of_words(words)


_NAMES = frozenset(_VARIABLE + key.upper() for key in BY_KEY)


def _is_ours(word: str) -> bool:
    found = _FLAG.fullmatch(word)
    return bool(found and found[1].replace("_", "-") in OPTIONS.keys() - NO_SETTINGS)


def _mappings(document: Any) -> Iterator[Mapping[Any, Any]]:
    """Every mapping once, however often aliases lead to it."""
    seen: set[int] = set()
    waiting = [document]
    while waiting:
        tree = waiting.pop()
        if isinstance(tree, Mapping | list) and id(tree) not in seen:
            seen.add(id(tree))
            waiting += reversed(list(tree.values()) if isinstance(tree, Mapping) else tree)
            if isinstance(tree, Mapping):
                yield tree


def _variables(environment: Any) -> dict[str, str]:
    """``{NAME: value}``, ``[NAME=value]`` and ``[{name: NAME, value: value}]``; from elsewhere: ``${NAME}``."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(environment, Mapping):
        pairs += [(str(name), value) for name, value in environment.items()]
    for entry in environment if isinstance(environment, list) else ():
        if isinstance(entry, Mapping):
            pairs.append((str(entry.get("name")), entry.get("value")))
        else:
            name, equals, value = str(entry).partition("=")
            pairs.append((name, value if equals else None))
    return {name: f"${{{name}}}" if value is None else _text(value) for name, value in pairs}


# ── what it means ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _settled(flag: str, value: Any) -> tuple[str, Any]:
    """The value as the option's kind has it. ValueError for what cannot be meant."""
    option = OPTIONS.get(flag)
    if option is None:
        return flag, ""
    if option.kind == Kind.LIST:
        return flag, list(_listed(value))
    if isinstance(value, Mapping | list):
        raise ValueError(f"has more than one value for {flag}")
    text = _text(value).strip()
    if option.kind == Kind.TRUTH:
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError(f"has a value for {flag} that is neither true nor false")
        return flag, text.lower() in _TRUE
    return flag, text


def _listed(value: Any) -> Iterator[str]:
    """A list as pflag's string slices are written: commas between members."""
    members: Iterable[Any] = value if isinstance(value, list) else [value]
    for member in members:
        text = _text(member)
        parts = text.split(",") if not isinstance(value, list) else [text]
        yield from (part.strip().strip('"') for part in parts if part.strip())


_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")
_SECONDS: Mapping[str, float] = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def duration(text: str) -> Duration | None:
    """As Go writes it: ``168h0m0s``, ``1h30m``, ``0``. None for anything else."""
    if text == "0":
        return Duration(0)
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text or len(text) > 100:
        return None
    return Duration(sum(float(part[1]) * _SECONDS[part[2]] for part in parts))


# ── the alpha file ────────────────────────────────────────────────────────────────────────────────────────────────────

_ALPHA = {"upstreamConfig", "injectRequestHeaders", "injectResponseHeaders", "server", "metricsServer", "providers"}

_ALPHA_NAMES: Mapping[str, str] = {
    "provider": "provider", "clientID": "client-id", "clientSecret": "client-secret",
    "clientSecretFile": "client-secret-file", "scope": "scope", "allowedGroups": "allowed-group",
    "loginURL": "login-url", "redeemURL": "redeem-url", "profileURL": "profile-url", "validateURL": "validate-url",
    "skipClaimsFromProfileURL": "skip-claims-from-profile-url", "caFiles": "provider-ca-file",
    "useSystemTrustStore": "use-system-trust-store", "code_challenge_method": "code-challenge-method",
    "backendLogoutURL": "backend-logout-url", "name": "provider-display-name", "resource": "resource",
    "keycloakConfig.groups": "keycloak-group", "keycloakConfig.roles": "allowed-role",
    "oidcConfig.issuerURL": "oidc-issuer-url", "oidcConfig.emailClaim": "oidc-email-claim",
    "oidcConfig.groupsClaim": "oidc-groups-claim", "oidcConfig.userIDClaim": "user-id-claim",
    "oidcConfig.audienceClaims": "oidc-audience-claim", "oidcConfig.extraAudiences": "oidc-extra-audience",
    "oidcConfig.insecureAllowUnverifiedEmail": "insecure-oidc-allow-unverified-email",
    "oidcConfig.insecureSkipIssuerVerification": "insecure-oidc-skip-issuer-verification",
    "oidcConfig.insecureSkipNonce": "insecure-oidc-skip-nonce", "oidcConfig.skipDiscovery": "skip-oidc-discovery",
    "oidcConfig.jwksURL": "oidc-jwks-url", "oidcConfig.publicKeyFiles": "oidc-public-key-file",
    "oidcConfig.enabledSigningAlgs": "oidc-enabled-signing-alg",
    "microsoftEntraIDConfig.allowedTenants": "entra-id-allowed-tenant", "googleConfig.group": "google-group",
    "githubConfig.org": "github-org", "githubConfig.team": "github-team", "githubConfig.users": "github-user",
    "gitlabConfig.group": "gitlab-group", "gitlabConfig.projects": "gitlab-project",
}  # fmt: skip


def of_alpha(document: Mapping[Any, Any]) -> Values:
    """From the alpha file: one provider, plain upstreams and addresses; the rest by its own name, for the list."""
    values: Values = {}
    for section, content in document.items():
        match section, content:
            case "providers", [Mapping() as provider, *others]:
                values |= _provider(provider)
                values |= {f"providers[{number}]": "" for number, _ in enumerate(others, start=1)}
            case "upstreamConfig", Mapping():
                values |= _upstreams(content)
            case "server" | "metricsServer", Mapping():
                values |= _server("" if section == "server" else "metrics-", str(section), content)
            case _:
                values[str(section)] = ""
    return values


def _leaves(tree: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _provider(provider: Mapping[Any, Any]) -> Values:
    values: Values = {}
    for name, value in _leaves(provider):
        if name != "id":
            flag, settled = _settled(_ALPHA_NAMES.get(name, f"providers[0].{name}"), value)
            values[flag] = settled
    return values


_OF_UPSTREAMS: Mapping[str, str] = {
    "passHostHeader": "pass-host-header", "proxyWebSockets": "proxy-websockets", "timeout": "upstream-timeout",
    "insecureSkipTLSVerify": "ssl-upstream-insecure-skip-verify", "flushInterval": "flush-interval",
    "disableKeepAlives": "disable-keep-alives",
}  # fmt: skip


def _upstreams(config: Mapping[Any, Any]) -> Values:
    values: Values = {f"upstreamConfig.{key}": "" for key in config if key != "upstreams"}
    listed = config.get("upstreams")
    upstreams = listed if isinstance(listed, list) else []
    servers: list[str] = []
    for number, upstream in enumerate(upstreams):
        name = f"upstreamConfig.upstreams[{number}]"
        server = _upstream(upstream) if isinstance(upstream, Mapping) else None
        if server is None:
            values[name] = ""
            continue
        servers.append(server)
        for key, flag in _OF_UPSTREAMS.items():
            if key in upstream:  # of several, one must not loosen the others
                values |= [_settled(flag if len(upstreams) == 1 else f"{name}.{key}", upstream[key])]
    return {**values, "upstream": servers}


def _upstream(upstream: Mapping[Any, Any]) -> str | None:
    """As the option has it, if it says all that the file says."""
    path, uri = str(upstream.get("path", "/")), str(upstream.get("uri", ""))
    if not re.fullmatch(r"/[/\w.~-]*", path) or upstream.get("rewriteTarget"):
        return None
    if upstream.get("static"):
        return f"static://{upstream.get('staticCode', 200)}" if path == "/" else None
    if re.fullmatch(r"https?://[^/?#]+/?", uri):
        return uri.rstrip("/") + path
    return uri if uri.startswith("unix:") and path == "/" else None


def _server(prefix: str, section: str, server: Mapping[Any, Any]) -> Values:
    values: Values = {}
    names = {"bindAddress": "address" if prefix else "http-address",
             "secureBindAddress": "secure-address" if prefix else "https-address",
             "tls.key.fromFile": "tls-key-file", "tls.cert.fromFile": "tls-cert-file",
             "tls.minVersion": "tls-min-version", "tls.cipherSuites": "tls-cipher-suite"}  # fmt: skip
    for name, value in _leaves(server):
        flag = f"{prefix}{names[name]}" if name in names else ""
        values |= [_settled(flag if flag in OPTIONS else f"{section}.{name}", value)]
    return values
