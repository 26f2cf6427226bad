"""Measures the latency of `genprm serve` in its own process, for 1 and for 32 concurrent clients.

    python benchmarks/serve.py [--clients 1 32] [--n 1] [--backend vllm]

Each client sends one solution per request and waits for its verdict before the next. The same solutions are also
judged in this process by as many callers of `GenPRM.verify`. The difference is what the service adds.

Without `--model` it uses the miniature GenPRM of `genprm quickstart`, and trains it first if it is missing.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

# The script runs from anywhere, its helpers stand beside it.
sys.path.insert(0, str(Path(__file__).parent))
from _setup import Setup, add_model_options, describe_machine, describe_setup, make_setup

from genprm_trl import GenPRM
from genprm_trl.miniature.world import make_solutions
from genprm_trl.records import Solution, Verdict
from genprm_trl.verifier.client import VerifierClient

Judge = Callable[[Solution], Awaitable[Verdict]]


@contextlib.contextmanager
def served(setup: Setup, n: int) -> Iterator[str]:
    """The URL of a server, which ends with the context."""
    command = [sys.executable, "-m", "genprm_trl", "serve", "--model", str(setup.model), "--port", "0", "--n", str(n)]
    command += ["--backend", setup.backend, "--backend_options", json.dumps(setup.options)]
    command += ["--max_step_tokens", str(setup.max_step_tokens), "--temperature", str(setup.sampling.temperature)]
    command += ["--top_p", str(setup.sampling.top_p), "--top_k", str(setup.sampling.top_k)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if "ready: " in line:
                break
        url = re.search(r"ready: (\S+)", said[-1]) if said else None
        if url is None:
            raise SystemExit(f"the server did not start:\n{''.join(said)}")
        yield url[1]
    finally:
        process.terminate()
        process.communicate(timeout=60)


async def ask(judge: Judge, solutions: Sequence[Solution], clients: int) -> tuple[float, list[float]]:
    """Seconds in all, and those of each request."""
    waiting = iter(solutions)
    latencies: list[float] = []

    async def client() -> None:
        for solution in waiting:
            started = time.perf_counter()
            await judge(solution)
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - started, sorted(latencies)


async def measure(name: str, judge: Judge, counts: Sequence[int], rounds: int, seed: int) -> None:
    warm = make_solutions(16, seed=seed, split="heldout")
    await ask(judge, warm, 16)
    for clients in counts:
        solutions = make_solutions(max(clients * rounds, 16), seed=seed + clients, split="heldout")
        seconds, latencies = await ask(judge, solutions, clients)
        quantiles = (latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.9, 1.0))
        p50, p90, longest = (f"{1000 * value:.0f}" for value in quantiles)
        print(
            f"  {name:10} {clients:3} at once: {len(latencies):4} requests in {seconds:6.1f} s "
            f"({len(latencies) / seconds:6.2f} a second); p50 {p50}, p90 {p90}, longest {longest} ms",
            flush=True,
        )


async def measure_in_process(setup: Setup, n: int, counts: Sequence[int], rounds: int) -> None:
    prm = GenPRM.from_pretrained(
        setup.model,
        backend=setup.backend,
        generator_kwargs=setup.options,
        sampling=setup.sampling,
        max_step_tokens=setup.max_step_tokens,
        n=n,
    )
    async with prm:
        await measure("in process", prm.verify, counts, rounds, seed=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=4, help="requests of each client; at least 16 in all")
    parser.add_argument("--n", type=int, default=1)
    options = parser.parse_args()

    print(describe_machine())
    setup = make_setup(options)
    print(describe_setup(setup))
    print(f"one solution a request, Maj@{options.n}:", flush=True)
    with served(setup, options.n) as url:
        asyncio.run(measure("service", VerifierClient(url).verify, options.clients, options.rounds, seed=100))
    asyncio.run(measure_in_process(setup, options.n, options.clients, options.rounds))


if __name__ == "__main__":
    main()
