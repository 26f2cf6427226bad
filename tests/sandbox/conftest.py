"""The sandbox providers that the conformance suite runs against."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from genprm_trl.sandbox import Limits, LocalSandbox, Sandbox, Session

TIMEOUT = 1.0  # seconds; the suite's programs are written for it
PROVIDERS: dict[str, Callable[[], Sandbox]] = {
    "local": lambda: LocalSandbox(Limits(timeout=TIMEOUT, grace=1.0)),
}


@pytest.fixture(scope="session", params=sorted(PROVIDERS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """One sandbox of each provider for all tests, used from each test's own event loop."""
    provider = PROVIDERS[request.param]()
    yield provider
    asyncio.run(provider.close())


@pytest.fixture
async def session(sandbox: Sandbox) -> AsyncIterator[Session]:
    async with sandbox.session() as opened:
        yield opened
