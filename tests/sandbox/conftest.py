"""The sandbox providers that the conformance suite runs against."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from genprm_trl.sandbox import FusionSandbox, Limits, LocalSandbox, Sandbox, Session

LIMITS = Limits(timeout=1.0, grace=1.0)  # the suite's programs are written for a second


@contextmanager
def local() -> Iterator[Sandbox]:
    sandbox = LocalSandbox(LIMITS)
    yield sandbox
    asyncio.run(sandbox.close())


@contextmanager
def fusion() -> Iterator[Sandbox]:
    if importlib.util.find_spec("sandbox_fusion") is None:
        pytest.skip("needs the extra 'fusion'")
    from tests.helpers.fusion_server import FusionServer

    with FusionServer().running() as server:
        # Its fresh interpreters import their libraries within the block.
        yield FusionSandbox(server.endpoint, Limits(timeout=5.0, grace=2.0), max_concurrency=4)


PROVIDERS: dict[str, Callable[[], AbstractContextManager[Sandbox]]] = {"local": local, "fusion": fusion}


@pytest.fixture(scope="session", params=list(PROVIDERS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """One sandbox of each provider for all tests, used from each test's own event loop."""
    with PROVIDERS[request.param]() as provider:
        yield provider


@pytest.fixture
async def session(sandbox: Sandbox) -> AsyncIterator[Session]:
    async with sandbox.session() as opened:
        yield opened
