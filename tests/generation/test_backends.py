"""Opening a generator by its backend's name."""

from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("options", [{}, {"backend": "server", "urls": ["http://127.0.0.1:9/v1"]}])
def test_a_context_without_room_is_refused_before_anything_is_opened(tmp_path: Path, options: dict[str, Any]) -> None:
    for context in (0, -1):
        with pytest.raises(ConfigError, match=f"max_context must be at least 1, got {context}"):
            open_generator(tmp_path / "none", max_context=context, **options)


def test_a_backend_that_is_no_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="the backend json:loads is no class"):
        open_generator("none", backend="json:loads")


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
