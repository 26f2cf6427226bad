"""The server generator against a real llama.cpp server, which computes as the tiny model does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from genprm_trl.generation import ServerGenerator
from genprm_trl.generation.server.wire import Abilities
from tests.helpers.conformance import GeneratorConformance
from tests.helpers.llama_server import llama_server
from tests.helpers.tiny_gguf import ascii_tokenizer, write_tiny_gguf

pytest.importorskip("xllamacpp")

LLAMA_CPP = Abilities(stops="streamed", bare_ids=False)


class TestConformance(GeneratorConformance):
    @pytest.fixture(scope="class")
    def url(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        directory = tmp_path_factory.mktemp("llama.cpp")
        model = write_tiny_gguf(directory / "tiny.gguf")
        with llama_server(model, directory / "log", requests=8, context=2048, exact=True) as running:
            yield running

    @pytest_asyncio.fixture
    async def generator(self, url: str) -> AsyncIterator[ServerGenerator]:
        async with ServerGenerator("tiny", ascii_tokenizer(), urls=url, abilities=LLAMA_CPP) as generator:
            yield generator
