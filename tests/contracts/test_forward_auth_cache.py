"""What a proxy may keep of our answers: nothing, unless it is set; then a yes, for whoever asks the very same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest

from tests.contracts.test_forward_auth import ASKERS, BROWSER, METHODS, PROGRAM, asked_world, cookie_of
from tests.gateway import World
from tests.wire import Response, ask

KEPT = {"forward_auth": {"cache": "3s"}}


class Keeper:
    """A proxy that asks, and keeps answers as RFC 9111 lets a cache keep them."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._asker, self.asked = world, ASKERS[name], 0
        self._kept: list[tuple[bytes, Mapping[bytes, list[bytes]], float, Response]] = []

    async def ask(self, method: str, target: str, lines: tuple[str, ...] = (), cookie: str = "") -> Response:
        question = self._asker.question(self._world, method, target, lines, cookie=cookie)
        line, *fields = question.rstrip(b"\r\n").split(b"\r\n")
        said: dict[bytes, list[bytes]] = {}
        for name, _, value in (field.partition(b": ") for field in fields):
            said.setdefault(name.lower(), []).append(value)
        for kept_line, same, until, response in self._kept:
            if line == kept_line and time.monotonic() < until and same == {name: said.get(name, []) for name in same}:
                return response
        self.asked += 1
        response = await ask(self._world.url, question)
        control = response.one("Cache-Control").decode()
        if control != "no-store" and line.split()[0] in {b"GET", b"HEAD"}:
            assert control == "max-age=3"
            names = response.one("Vary").lower().split(b", ")
            same = {name: said.get(name, []) for name in names}
            self._kept.append((line, same, time.monotonic() + 3, response))
        return response


@pytest.mark.parametrize("name", ASKERS)
async def test_f212_nothing_is_kept_unless_it_is_set(name: str) -> None:
    async with asked_world() as world:
        cookie, keeper = await cookie_of(world, "ann"), Keeper(world, name)
        for count in (1, 2, 3):
            assert (await keeper.ask("GET", "/page", cookie=cookie)).status == 200
            assert keeper.asked == count


@pytest.mark.parametrize("name", ASKERS)
async def test_f212_only_a_yes_about_what_changes_nothing_may_be_kept(name: str) -> None:
    async with asked_world(KEPT) as world:
        ann, eve = await cookie_of(world, "ann"), await cookie_of(world, "eve")
        passing = (("/page", ann), ("/public/x", ""), ("/optional/x", ann))
        held = (("/page", ""), ("/staff/x", eve), ("/nothing", ann), ("/public/../staff/x", ann))
        for method in METHODS:
            for target, cookie in (*passing, *held):
                for lines in (BROWSER[0], PROGRAM[0]):
                    question = ASKERS[name].question(world, method, target, lines, cookie=cookie)
                    response = await ask(world.url, question)
                    yes = (target, cookie) in passing
                    kept = yes and method in {"GET", "HEAD"}
                    assert (response.status == 200) is yes
                    assert response.all("Cache-Control") == [b"max-age=3" if kept else b"no-store"]
                    assert len(response.all("Vary")) == int(kept)


@pytest.mark.parametrize("name", ASKERS)
async def test_f212_what_is_kept_answers_nobody_else_and_nothing_else(name: str) -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA")
    async with asked_world({**KEPT, "routes": [{"path": "/staff/", "groups": ["/staff/ops"]}, {"path": "/"}]}) as world:
        ann, eve, keeper = await cookie_of(world, "ann"), await cookie_of(world, "eve"), Keeper(world, name)
        answered: list[tuple[str, str, tuple[str, ...], str, int]] = [
            ("GET", "/staff/x", (), ann, 200), ("GET", "/staff/x", (), ann, 200), ("GET", "/staff/x", (), eve, 403),
            ("GET", "/staff/x", (), "", 401), ("HEAD", "/staff/x", (), ann, 200), ("GET", "/page", (), eve, 200),
            ("GET", "/staff/y", (), eve, 403), ("GET", "/page", ("Origin: https://evil.test",), ann, 200),
            ("GET", "/page", (*upgrade, "Origin: https://evil.test"), ann, 403), ("GET", "/page", upgrade, ann, 403),
            ("POST", "/staff/x", (), eve, 403),
        ]  # fmt: skip
        for method, target, lines, cookie, status in answered:
            assert (await keeper.ask(method, target, lines, cookie)).status == status, (method, target, lines)
        assert keeper.asked == len(answered) - 1, "the second is known"


@pytest.mark.parametrize("name", ["nginx", "envoy"])
async def test_f212_a_sign_out_is_heard_of_when_the_time_is_over(name: str) -> None:
    async with asked_world(KEPT) as world, world.browser() as ann:
        await ann.sign_in(f"{world.url}/oauth2/start?rd=/page", "ann", "ann")
        cookie, keeper = ann.cookies.header(world.url), Keeper(world, name)
        assert (await keeper.ask("GET", "/page", cookie=cookie)).status == 200
        kept_at = time.monotonic()
        await ann.navigate(f"{world.url}/oauth2/sign_out", initiator=f"{world.url}/")
        if time.monotonic() < kept_at + 2.5:
            assert (await keeper.ask("GET", "/page", cookie=cookie)).status == 200, "that is the price"
            assert keeper.asked == 1
        assert (await keeper.ask("GET", "/page?new", cookie=cookie)).status == 401, "what was not asked before is"
        await asyncio.sleep(max(0.0, kept_at + 3.1 - time.monotonic()))
        assert (await keeper.ask("GET", "/page", cookie=cookie)).status == 401
        assert (await keeper.ask("GET", "/page", cookie=cookie)).status == 401
