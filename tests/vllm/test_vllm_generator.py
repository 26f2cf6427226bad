"""The vLLM generator: the conformance suite on one engine, and what is its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from genprm_trl.errors import ConfigError
from genprm_trl.generation import VLLMGenerator
from genprm_trl.generation.backends import open_generator
from tests.helpers.conformance import GeneratorConformance
from tests.vllm.conftest import ENGINE


def engines() -> list[psutil.Process]:
    """Engine processes of this one that are alive."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if "VLLM" in one.name() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def shared(wide_model_dir: Path) -> Iterator[VLLMGenerator]:
    generator = VLLMGenerator(wide_model_dir, **ENGINE)
    yield generator
    asyncio.run(generator.close())


class TestConformance(GeneratorConformance):
    """On one engine, for it takes half a minute to start; the test that closes it comes last."""

    @pytest_asyncio.fixture
    async def generator(self, shared: VLLMGenerator) -> AsyncIterator[VLLMGenerator]:
        yield shared


class TestUnusable:
    def test_options(self, wide_model_dir: Path) -> None:
        with pytest.raises(ConfigError, match=r"no such option: .*no_such_thing"):
            open_generator(wide_model_dir, backend="vllm", no_such_thing=3)
        with pytest.raises(ConfigError, match="max_batch_size must be at least 1"):
            VLLMGenerator(wide_model_dir, max_batch_size=0)

    def test_models(self, wide_model_dir: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="does not exist"):
            VLLMGenerator(tmp_path / "nowhere")
        with pytest.raises(ConfigError, match="vLLM cannot run"):
            VLLMGenerator(wide_model_dir, max_context=10**6, **ENGINE)
        _, alive = psutil.wait_procs(engines(), timeout=30)  # vLLM ends the engine that failed in its own time
        assert alive == []


SCRIPT = """
import asyncio, sys, time
import psutil
from vllm.v1.engine import async_llm
from genprm_trl.generation import SamplingParams, VLLMGenerator

def late(task, cancel=async_llm.cancel_task_threadsafe):
    time.sleep(0.5)  # as on a machine under load, where vLLM then took its end for a failure
    cancel(task)

if __name__ == "__main__":
    async_llm.cancel_task_threadsafe = late
    generator = VLLMGenerator(sys.argv[1], dtype="float32", enforce_eager=True, max_context=256)
    assert generator.max_context == 256
    result = asyncio.run(generator.generate([5, 6, 7], SamplingParams(3, temperature=0)))
    print(len(result.token_ids), result.finish_reason, flush=True)
    children = psutil.Process().children(recursive=True)
    print("engine", *(one.pid for one in children if "VLLM" in one.name()), flush=True)
"""


def test_a_script_that_never_closes_it_leaves_no_process(wide_model_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(wide_model_dir)], stdout=subprocess.PIPE, text=True, timeout=800
    )
    assert done.returncode == 0
    # The rest is vLLM's log, which has no complaint about an engine that died.
    assert "3 length" in done.stdout.splitlines()
    assert "EngineDeadError" not in done.stdout
    [pids] = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("engine ")]
    assert pids
    assert not any(psutil.pid_exists(int(pid)) for pid in pids)
