"""The model `genprm` of the lm-evaluation-harness: a request is a solution, the answer its verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.harness.data import decode_solution
from genprm_trl.harness.judge import Judge
from genprm_trl.metrics.sameness import Sameness
from genprm_trl.records import Solution
from genprm_trl.stages.settings import changes, refuse_changes

_NOT_SAMPLING = ("until", "do_sample", "all_steps")
_SETTINGS_KEY = "genprm settings"
_PATIENCE = 10.0  # seconds that a server may take to say that it is ready


class GenPRMJudge(LM):
    """A `GenPRM` as the harness sees it: text in, text out.

    The text of a request is a solution (`harness.data.encode_solution`), the answer a verdict as `genprm verify`
    writes it, with all rationales, code and outputs. It is for the tasks that are made so: `best_of_n` and
    those with `_genprm` in their name.

    Args:
        batch_size: Sequences per batch of the generator. 1 and `auto` stand for the generator's own size, because 1
            is the harness's default.
        max_batch_size: Ignored.
        device: Device of the model. `cuda:0` stands for the generator's own choice, because it is the harness's
            default.
        arguments: `pretrained` and the options of `genprm verify` (n, mode, backend, sandbox, temperature, ...), or
            `server`; see `Judge.of`.

    Raises:
        ConfigError: An argument is unknown, missing or of the wrong type, or a server or sandbox cannot be used.
        ServiceError: A server is not ready.
    """

    def __init__(
        self,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Any,
    ):
        super().__init__()
        if "server" not in arguments:
            if str(batch_size) not in ("None", "1") and not str(batch_size).startswith("auto"):
                try:
                    arguments["batch_size"] = int(str(batch_size))
                except ValueError:
                    raise ConfigError(f"--batch_size must be a number or auto, not {batch_size!r}") from None
            if device not in (None, "cuda:0"):
                arguments["device"] = device
        self._judge = Judge.of(arguments)
        self._judge.wait_until_ready(_PATIENCE)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Judges the requests' solutions, equal ones once. Verdicts go to the harness's cache as they finish.

        Raises:
            ConfigError: A request is no solution, or asks for a setting that the verifier does not have.
            GenPRMError: No judgement holds a verdict.
        """
        by_sampling: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            by_sampling.setdefault(json.dumps(_sampling(request.args[1]), sort_keys=True), []).append(index)
        if any(request.args[1].get("all_steps") for request in requests):
            self._judge.check_all_steps()
        solutions = [_solution(request) for request in requests]
        answers = [""] * len(requests)
        unread = judged = 0
        sameness = Sameness()
        for sampling, indices in by_sampling.items():
            places: dict[tuple[str, str], list[int]] = {}
            for index in indices:
                places.setdefault((solutions[index].id, solutions[index].digest), []).append(index)
            todo = [solutions[first] for first, *_ in places.values()]
            judged += len(todo)
            with self._judge.with_sampling(json.loads(sampling)).open() as prm:
                for verdict in prm.verify_all(todo, progress=not disable_tqdm):
                    sameness.add_verdict(verdict)
                    answer = json.dumps(verdict.to_dict(), ensure_ascii=False)
                    unread += verdict.is_unread
                    for index in places[verdict.id, verdict.solution_digest]:
                        answers[index] = answer
                        self.cache_hook.add_partial("generate_until", requests[index].args, answer)
        if judged and unread == judged:
            raise GenPRMError(f"no judgement of {judged} solutions holds a verdict, so there is no score")
        sameness.warn("rationales of each solution")
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuses tasks that ask for likelihoods.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("the model genprm judges solutions; it has no likelihood of other texts")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refuses tasks that ask for likelihoods.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("the model genprm judges solutions; it has no likelihood of other texts")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The solution without a template: the verifier makes its own conversation."""
        return chat_history[-1]["content"]

    @property
    def tokenizer_name(self) -> str:
        """The name that the harness puts into the keys of its cached requests."""
        return "genprm"

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results: everything that decides the verdicts."""
        return {"genprm": self._judge.settings()}

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Takes a cache of this verifier's verdicts. The harness's keys do not name the model, so this checks it.

        Raises:
            ConfigError: It holds another verifier's verdicts.
        """
        cached = cache_hook.dbdict
        if cached is not None:
            now = json.loads(json.dumps(self._judge.settings()))
            refuse_changes(
                changes(cached.get(_SETTINGS_KEY, now), now),
                what=f"--use_cache: {cached.filename} holds verdicts made with other settings",
                instead="choose another one",
            )
            cached[_SETTINGS_KEY] = now
        super().set_cache_hook(cache_hook)


def _solution(request: Instance) -> Solution:
    solution = decode_solution(request.args[0])
    if solution is None:
        raise ConfigError(
            "the model genprm judges solutions, and a request of the task is something else: run it on "
            "best_of_n or a task with _genprm in its name, without --system_instruction and few-shot examples"
        )
    return solution


def _sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in generation.items() if name not in _NOT_SAMPLING}
