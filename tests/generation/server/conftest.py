from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from genprm_trl.generation import TransformersGenerator
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def engine() -> Iterator[TransformersGenerator]:
    """What all the servers generate with."""
    generator = TransformersGenerator(tiny_model(), tiny_tokenizer())
    yield generator
    asyncio.run(generator.close())
