"""llama.cpp's server, as the package xllamacpp brings it.

python -m tests.helpers.llama_server MODEL.gguf PORT REQUESTS CONTEXT [exact]

REQUESTS at a time have CONTEXT tokens each. `exact` computes in 32 bits throughout, which is not the default.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.jobs import free_port
from tests.helpers.served import served


@contextmanager
def llama_server(
    model: Path, log: Path, *, requests: int, context: int, exact: bool = False, port: int | None = None
) -> Iterator[str]:
    """The base URL of a llama.cpp server, once it has loaded its model."""
    port = port or free_port()
    words = [str(model), str(port), str(requests), str(context), *(["exact"] if exact else [])]
    with served([sys.executable, "-m", "tests.helpers.llama_server", *words], port, log) as url:
        yield url


def main(model: str, port: str, requests: str, context: str, exact: str = "") -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.port = model, int(port)
    params.n_parallel, params.n_ctx = int(requests), int(requests) * int(context)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = params.ui = False
    if exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    print("ready at", server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
