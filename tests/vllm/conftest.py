"""These tests need vLLM, which has a separate environment: `make test-vllm` sets it up and runs them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks._widening import widen_heads
from tests.helpers.jobs import free_port
from tests.helpers.served import served
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]

# Read by vLLM when it is imported. A small cache is plenty for models this small; and engines would all bind their
# threads to the same cores.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # each engine would gather facts of the machine, and send them
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No compilation, which takes longer than all the tests, and the precision of the reference.
ENGINE = {"dtype": "float32", "enforce_eager": True}
# The same for `vllm serve`. On the CPU, prompts that are read in parts and seeds do not go together.
SERVE = ("--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill")


@pytest.fixture(scope="session")
def wide_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in heads that vLLM's CPU kernels take; its logits are the same."""
    directory = tmp_path_factory.mktemp("wide-tiny-model")
    widen_heads(tiny_model()).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@contextmanager
def vllm_serve(model: Path, log: Path, *, seconds: float = 800) -> Iterator[str]:
    """The base URL of a `vllm serve`, once it is ready."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(model), "--host", "127.0.0.1"]
    with served([*command, "--port", str(port), *SERVE], port, log, seconds=seconds) as url:
        yield url
