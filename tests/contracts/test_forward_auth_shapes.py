"""Every dialect × every way of not saying what is asked about, over real sockets: never a yes, and the log says why.

What is asked about is open to everybody, and somebody is signed in: whatever is guessed would be let pass. nginx cannot
show a 421; Envoy's own words are the request line and Host, so what is wrong there is often for the listener to refuse.
gRPC has a table of its own (test_envoy_grpc.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.contracts.test_forward_auth import BROWSER, NAMES, asked_world, cookie_of
from tests.gateway import World
from tests.wire import ask, authority, message

TABLE = """
                              nginx  forward  envoy  oauth2_proxy
target: public/x              403    400      400    403
target:                       400    400      400    400
target: *                     400    400      400    400
target: ?x                    400    400      400    400
target: \\x00                  400    400      400    400
target: /public/x\\x00          400    400      400    400
target: /public/x\\x01          400    400      400    400
target: /public/x\\x7f          400    400      400    400
target: /public/x\\ry           400    400      400    400
target: /public/x\\ty           400    400      400    400
target: /public/x y           400    400      400    400
target: /public/x#y           400    400      400    400
target: /public/\\xc3\\xa9       400    400      400    400
target: http://{host}/public/x 403   400      400    403
scheme:                       400    -        -      400
scheme: ftp                   400    -        -      400
scheme: javascript            400    -        -      400
scheme: http:http             400    -        -      400
host:                         400    421      421    400
host: evil.test               403    421      421    403
host: user@{host}             403    421      421    403
host: evil.test@{host}        403    421      421    403
host: {host}@evil.test        403    421      421    403
host: {host}:80               403    421      421    403
host: {host}, {host}          403    421      421    403
host: {host}#                 400    421      421    400
host: {host}?                 400    421      421    400
host: {host}\\x00              400    400      400    400
host: {host}\\x01              400    400      400    400
method:                       400    400      -      400
method: GET /public/x         400    400      -      400
method: GET, HEAD             400    400      -      400
method: GET\\x00               400    400      -      400
method: (GET)                 400    400      -      400
method: TRACE                 403    405      405    403
method: CONNECT               403    405      -      403
without: method               400    400      -      400
without: host                 -      400      400    -
without: target               400    400      -      400
without: anything             400    400      400    400
twice: method                 400    400      -      400
twice: host                   -      400      400    -
twice: target                 400    400      -      400
in the words of another       400    400      -      400
"""
USUAL = {"method": "GET", "scheme": "http", "host": "{host}", "target": "/public/x"}
ORIGINAL = {"method": "X-Original-Method: {method}", "target": "X-Original-URL: {scheme}://{host}{target}"}
FORWARDED = {
    "method": "X-Forwarded-Method: {method}",
    "host": "X-Forwarded-Host: {host}",
    "target": "X-Forwarded-Uri: {target}",
}
DIALECTS: Mapping[str, tuple[str, Mapping[str, str], Mapping[str, str]]] = {
    # where it asks, in which words, and in whose words it does not
    "nginx": ("GET /oauth2/authz/nginx", ORIGINAL, FORWARDED),
    "forward": ("GET /oauth2/authz/forward", FORWARDED, ORIGINAL),
    "envoy": ("{method} /oauth2/authz/envoy{target}", {"host": "Host: {host}"}, FORWARDED),
    "oauth2_proxy": ("GET /oauth2/auth", ORIGINAL, FORWARDED),
}


def shapes(name: str) -> list[tuple[str, int]]:
    """The shapes in which this dialect can be asked, and the status of each answer."""
    head, *rows = TABLE.strip().splitlines()
    column = head.split().index(name)
    cut = [row.rsplit(maxsplit=len(DIALECTS)) for row in rows]
    return [(shape.strip(), int(cells[column])) for shape, *cells in cut if cells[column] != "-"]


def question(world: World, name: str, shape: str, lines: tuple[str, ...], cookie: str) -> bytes:
    """A request for ``/public/x`` that is said in this shape. Escapes in the shape stand for bytes."""
    line, words, others = DIALECTS[name]
    what, _, how = shape.partition(":")
    host = authority(world.url)
    said = {key: value.replace("{host}", host) for key, value in {**USUAL, what: how.lstrip()}.items()}
    given = dict(others if what == "in the words of another" else words)
    if what == "without":
        given = {key: word for key, word in given.items() if how.strip() not in {key, "anything"}}
    fields = [*given.values(), *([given[how.strip()]] if what == "twice" else [])]
    host_line = [] if name == "envoy" else ["Host: gateway:4180"]
    encoded = [bytes_of(field.format(**said)) for field in fields]
    sent = message(world.url, bytes_of(line.format(**said)), *host_line, *encoded, *lines, cookie=cookie)
    lost = name == "envoy" and "host" not in given  # a request without Host has none put in
    return sent.replace(f"Host: {host}\r\n".encode(), b"") if lost else sent


def bytes_of(text: str) -> bytes:
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


@pytest.mark.parametrize("name", DIALECTS)
async def test_f208_what_does_not_say_what_is_asked_about_never_passes(name: str) -> None:
    assert len(shapes(name)) >= 12
    async with asked_world() as world:
        cookie = await cookie_of(world, "ann")
        usual = question(world, name, "target: /public/x", (), cookie)
        assert (await ask(world.url, usual)).status == 200, "it is the shape alone that is wrong"
        for shape, status in shapes(name):
            for lines in ((), BROWSER[0]):
                seen = len(world.lines(type="access"))
                response = await ask(world.url, question(world, name, shape, lines, cookie), "GET")
                assert response.status == status, shape
                for header in [*NAMES, "Authorization", "Location", "Set-Cookie"]:
                    assert response.all(header) == [], shape
                logged = world.lines(type="access")[seen:]
                assert [bool(line["detail"]) for line in logged] in ([], [True]), "the listener's own are not logged"
