"""What an import makes of a few words of oauth2-proxy's command line."""

from __future__ import annotations

from pathlib import Path

from oidc_proxy.config import Config, read_config
from oidc_proxy.config.oauth2_proxy import Draft, convert, of_words

CORPUS = Path(__file__).parents[1] / "corpus" / "oauth2_proxy"
SECRETS = {
    "OAUTH2_PROXY_CLIENT_SECRET": "one secret",
    "OAUTH2_PROXY_REDIS_PASSWORD": "another",
    "OAUTH2_PROXY_REDIS_SENTINEL_PASSWORD": "a third",
}
LEAST = (
    "--provider=oidc", "--oidc-issuer-url=https://keycloak.example.com/realms/main", "--client-id=app",
    "--client-secret=canary", "--redirect-url=https://app.example.com/oauth2/callback", "--email-domain=*",
)  # fmt: skip
BACKEND = "--upstream=http://127.0.0.1:8080"


def imported(*words: str, **how: bool) -> Draft:
    """What becomes of the smallest command line with these words."""
    return convert(of_words([*LEAST, *words]), **how)


def codes(draft: Draft, code: str = "M") -> list[str]:
    return sorted(f"{note.code} {note.about}" for note in draft.notes if note.code.startswith(code))


def config_of(draft: Draft, folder: Path) -> Config:
    """What the program makes of the file."""
    file = folder / "config.yaml"
    file.write_text(draft.yaml())
    loaded = read_config([file], SECRETS)
    assert loaded.settings is not None, (draft.yaml(), [str(problem) for problem in loaded.problems])
    return loaded.settings
