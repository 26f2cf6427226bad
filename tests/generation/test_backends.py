"""Opening a generator by its backend's name."""

from pathlib import Path

import pytest

from genprm_trl.errors import ConfigError
from genprm_trl.generation import TransformersGenerator
from genprm_trl.generation.backends import open_generator
from genprm_trl.miniature.reasoner_generator import ScriptedReasoner
from tests.helpers.tiny_models import tiny_tokenizer


async def test_opens_a_generator_with_its_options(model_dir: Path) -> None:
    async with open_generator(model_dir, backend="transformers", device="cpu", max_batch_size=3) as generator:
        assert isinstance(generator, TransformersGenerator)
        assert generator.max_concurrent == 3


def test_unknown_names_are_errors_that_list_the_known_ones(model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="unknown backend 'tgi'; choose transformers"):
        open_generator(model_dir, backend="tgi")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="transformers has no option 'batch'; it has max_batch_size, device"):
        open_generator(model_dir, batch=3)


async def test_opens_a_class_of_the_users_own() -> None:
    backend = "genprm_trl.miniature.reasoner_generator:ScriptedReasoner"
    async with open_generator("it", tiny_tokenizer(), backend=backend, mistake_rate=0.5) as generator:
        assert isinstance(generator, ScriptedReasoner)
        assert generator.model == "it"
    with pytest.raises(ConfigError, match="has no option 'dtype'; it has mistake_rate"):
        open_generator("it", tiny_tokenizer(), backend=backend, dtype="bfloat16")
    for path in ("no.such:Thing", "genprm_trl:Nothing", "genprm_trl.errors:__doc__", ":"):
        with pytest.raises(ConfigError, match=f"the backend {path} "):
            open_generator("it", backend=path)
