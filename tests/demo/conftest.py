from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from oidc_proxy.demo.provider import Provider
from tests.demo.app import APP, POST_ONLY, SPA, App
from tests.world import Browser, Clock, running_provider


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[Provider]:
    async with running_provider(path="/realms/demo", clients=(APP, SPA, POST_ONLY), clock=clock) as provider:
        yield provider


@pytest.fixture
async def app(provider: Provider, clock: Clock) -> AsyncIterator[App]:
    async with Browser(clock=clock) as browser:
        yield App(provider, browser)
