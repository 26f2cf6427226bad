"""The server generator against a real `vllm serve`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from genprm_trl.generation import ServerGenerator
from genprm_trl.generation.server.wire import Abilities
from tests.helpers.conformance import GeneratorConformance
from tests.vllm.conftest import vllm_serve


@pytest.fixture(scope="module")
def url(wide_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_serve(wide_model_dir, tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


class TestConformance(GeneratorConformance):
    reports_named = False

    @pytest_asyncio.fixture
    async def generator(self, wide_model_dir: Path, url: str) -> AsyncIterator[ServerGenerator]:
        async with ServerGenerator(wide_model_dir, urls=url) as generator:
            assert generator.abilities == Abilities()
            yield generator
