"""The service's Prometheus metrics."""

from __future__ import annotations

from functools import partial
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from genprm_trl.generation.base import FinishReason
from genprm_trl.records import StepStatus, Verdict
from genprm_trl.sandbox.base import ExecutionStatus
from genprm_trl.version import __version__

# Seconds. Requests and solutions may take minutes, code blocks are bounded by seconds.
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Every metric of one application, in its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=_LONG)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Info("genprm_build", "Version of genprm-trl.", registry=self.registry).info({"version": __version__})

        self.ready = gauge("genprm_ready", "1 while requests are accepted, else 0.")
        self.requests = counter("genprm_http_requests", "Requests answered.", ["route", "code"])
        self.request_seconds = histogram(
            "genprm_http_request_seconds",
            "Seconds from a request's first byte to its answer's last.",
            ["route"],
        )
        self.requests_in_progress = gauge(
            "genprm_http_requests_in_progress", "Requests being read or answered.", ["route"]
        )
        self.solutions = counter("genprm_solutions", "Solutions by how they ended.", ["outcome"])
        self.solution_seconds = histogram("genprm_solution_seconds", "Seconds from a solution's start to its verdict.")
        self.wait_seconds = histogram("genprm_solution_wait_seconds", "Seconds that a solution waited for its start.")
        self.solutions_waiting = gauge("genprm_solutions_waiting", "Solutions that have not started.")
        self.solutions_running = gauge("genprm_solutions_running", "Solutions being judged.")
        self.chains_waiting = gauge("genprm_chains_waiting", "Chains of solutions that have not started.")
        self.chains_running = gauge("genprm_chains_running", "Chains of solutions being judged.")
        self.chains = counter("genprm_chains", "Chains of finished verdicts.")
        self.judgements = counter("genprm_judgements", "Judgements of steps by status.", ["status"])
        self.code_blocks = counter("genprm_code_blocks", "Code blocks by how they ended.", ["status"])
        self.code_seconds = histogram("genprm_code_block_seconds", "Seconds of a code block.", buckets=_SHORT)
        self.generations = counter("genprm_generations", "Generations by how they ended.", ["finish_reason"])
        self.generation_seconds = histogram("genprm_generation_seconds", "Seconds of a generation.")
        self.generations_in_flight = gauge("genprm_generations_in_flight", "Generations asked of the engine.")
        self.prompt_tokens = counter("genprm_prompt_tokens", "Tokens of prompts, cached prefixes included.")
        self.generated_tokens = counter("genprm_generated_tokens", "Tokens that the model generated.")

        # Series that exist from the start: a rate over one that appears with its first event misses that event.
        for outcome in ("verdict", "error", "cancelled"):
            self.solutions.labels(outcome)
        for status in get_args(StepStatus):
            self.judgements.labels(status)
        for status in get_args(ExecutionStatus):
            self.code_blocks.labels(status)
        for reason in (*get_args(FinishReason), "cancelled", "failed"):
            self.generations.labels(reason)

    def add_verdict(self, verdict: Verdict) -> None:
        """Counts what a finished verdict is made of."""
        self.chains.inc(len(verdict.chains))
        for chain in verdict.chains:
            for judgement in chain:
                self.judgements.labels(judgement.status).inc()
                for code_round in judgement.code_rounds:
                    self.code_blocks.labels(code_round.status).inc()
                    self.code_seconds.observe(code_round.seconds)
