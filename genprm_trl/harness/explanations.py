"""Explanations of errors (MR-GSM8K, arXiv 2312.17080): a judge of them, and whether it agrees with people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean

from genprm_trl.data.formats import to_solutions
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.grading.thinking import without_thinking
from genprm_trl.harness.command import MODEL_NAME
from genprm_trl.harness.critique import Critique, openings_of
from genprm_trl.harness.data import as_test_split, read_benchmark
from genprm_trl.harness.steps import UNPARSABLE, Item, Metrics, with_errors
from genprm_trl.metrics.estimates import ScoreEstimate, bootstrap_estimate, mean_estimate
from genprm_trl.metrics.mr_gsm8k import cohen_kappa
from genprm_trl.protocol.mr_gsm8k import explanation_prompt, parse_decision, says_correct
from genprm_trl.records import Solution
from genprm_trl.rows.fields import as_choice, as_identifier, as_object, as_text, require

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.api.model import LM

    from genprm_trl.data.solutions import RowReader

_WHERE = "--metadata judge"
_OF_GPT4 = "gpt4_error_reason_correctness_analysis"
_KNOWN = ("model", "model_args", "gen_kwargs", "apply_chat_template")
_HOW = (
    '{"model": "local-chat-completions", "model_args": {"base_url": "http://HOST:PORT/v1/chat/completions", '
    '"model": "NAME"}}'
)
_GENERATION = {"until": ["<|im_end|>"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 8192}


@dataclass(slots=True)
class ExplanationJudge:
    """A model of the harness that says of explanations whether they are right.

    Attributes:
        model: Its name in the harness, such as `hf` or `local-chat-completions`.
        model_args: Its arguments.
        gen_kwargs: How it generates.
        apply_chat_template: Whether the request is a user turn.
    """

    model: str
    model_args: dict[str, Any]
    gen_kwargs: dict[str, Any]
    apply_chat_template: bool = True
    _opened: LM | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, arguments: Any) -> ExplanationJudge:
        """Checks what `--metadata` says of the judge.

        Raises:
            ConfigError: An argument is unknown, missing or of the wrong type, or there is no such model.
        """
        from lm_eval.api.registry import get_model
        from lm_eval.utils import simple_parse_args_string

        if not isinstance(arguments, Mapping) or not isinstance(arguments.get("model"), str):
            raise ConfigError(f"{_WHERE} must name a model of lm_eval, such as {_HOW}")
        for name in arguments:
            if name not in _KNOWN:
                raise ConfigError(f"{_WHERE}: '{name}' is unknown; there are {', '.join(_KNOWN)}")
        given = {}
        for name in ("model_args", "gen_kwargs"):
            value = arguments.get(name) or {}
            given[name] = simple_parse_args_string(value) if isinstance(value, str) else value
            if not isinstance(given[name], Mapping):
                raise ConfigError(f"{_WHERE}: {name} must be an object, not {value!r}")
        as_turn = arguments.get("apply_chat_template", True)
        if not isinstance(as_turn, bool):
            raise ConfigError(f"{_WHERE}: apply_chat_template must be true or false, not {as_turn!r}")
        model = arguments["model"]
        if model == MODEL_NAME:
            raise ConfigError(f"{_WHERE}: the model {MODEL_NAME} judges steps, not explanations")
        try:
            get_model(model)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{_WHERE}: {error}") from None
        return cls(model, dict(given["model_args"]), {**_GENERATION, **given["gen_kwargs"]}, as_turn)

    def open(self) -> LM:
        """Loads the model, once.

        Raises:
            ConfigError: It cannot be loaded with these arguments.
        """
        if self._opened is None:
            from lm_eval.api.registry import get_model

            try:
                self._opened = get_model(self.model).create_from_arg_obj(self.model_args)
            except (TypeError, ValueError, OSError, AssertionError) as error:
                raise ConfigError(f"{_WHERE}: {self.model} cannot be loaded: {error}") from None
        return self._opened

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """What the model answers, with the start of a thinking block that its prompt has opened."""
        if not prompts:
            return []
        model = self.open()
        asked: list[Any] = list(prompts)
        if self.apply_chat_template:
            asked = [model.apply_chat_template([{"role": "user", "content": prompt}]) for prompt in prompts]
        instances = [
            Instance("generate_until", {}, (prompt, dict(self.gen_kwargs)), index)
            for index, prompt in enumerate(asked)
        ]
        texts = model.generate_until(instances)
        return [
            opening + text for opening, text in zip(openings_of(asked, [[text] for text in texts]), texts, strict=True)
        ]


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """Returns the request to a judge of an explanation."""
    return explanation_prompt(
        doc["problem"], doc["steps"], doc["label"] + 1, doc["first_error_reason"], doc["explanation"]
    )


@dataclass(frozen=True, slots=True)
class _Explained:
    """An explanation of a wrong solution's first error, and who accepts it."""

    id: str
    solution: Solution
    explanation: str
    people: bool
    gpt4: bool | None

    def to_doc(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "problem": self.solution.problem,
            "steps": self.solution.steps,
            "label": self.solution.label,
            "first_error_reason": self.solution.extra["first_error_reason"],
            "explanation": self.explanation,
            "people": self.people,
            "gpt4": self.gpt4,
        }


def explanations_dataset(data_dir: Any = None, **_: Any) -> dict[str, Dataset]:
    """Critics' explanations that people have judged, as the harness's `custom_dataset`.

    Args:
        data_dir: A clone of the benchmark's repository; or a directory with rows of explanations
            (`explanations*.jsonl`: uuid, critic, error_reason, error_reason_correctness, gpt4_decision) beside the
            solutions. Default: the repository.
        _: The harness passes all of the task's metadata and the model's arguments.

    Raises:
        DataError: The data are missing (it says how to get them) or a row is unusable.
        ConfigError: `data_dir` is no path.
    """
    solutions: dict[str, Solution] = {}

    def open_reader(stem: str) -> RowReader:
        def read(row: Mapping[str, Any], number: int) -> list[_Explained]:
            if row.get("error_reason_correctness") is None:  # people have not judged it
                return []
            if "question" in row:  # the repository's rows hold the solution, too
                return [_of_repository(row)]
            if not solutions:
                solutions.update((each.id, each) for each in read_benchmark("mr_gsm8k", data_dir))
            solution = solutions.get(as_identifier(row, None, "uuid"))
            if solution is None:
                raise DataError("names no solution of the benchmark", field="uuid")
            critic = as_text(require(row, "critic"), "critic")
            return [_explained(row, solution, critic, row.get("error_reason"), row.get("gpt4_decision"))]

        return read

    explained = read_benchmark("explanations", data_dir, open_reader=open_reader)
    return as_test_split(each.to_doc() for each in explained)


def _of_repository(row: Mapping[str, Any]) -> _Explained:
    [solution] = to_solutions(row, "", "mr_gsm8k")
    critic = next((name for name in row if name.endswith("_eval_output")), "critic_eval_output")
    written = as_object(require(row, critic), critic)
    of_gpt4 = as_object(row.get(_OF_GPT4) or {}, _OF_GPT4)
    return _explained(
        row, solution, critic.removesuffix("_eval_output"), written.get("error_reason"), of_gpt4.get("Final Decision")
    )


def _explained(row: Mapping[str, Any], solution: Solution, critic: str, reason: Any, of_gpt4: Any) -> _Explained:
    if solution.label is None or solution.label < 0:
        raise DataError("is of a solution without a wrong step", field="uuid")
    people = as_choice(require(row, "error_reason_correctness"), "error_reason_correctness", ("correct", "incorrect"))
    return _Explained(
        id=f"{solution.id}-{critic}",
        solution=solution,
        explanation=as_text(reason, "error_reason"),
        people=people == "correct",
        gpt4=says_correct(of_gpt4) if isinstance(of_gpt4, str) else None,
    )


def _said(name: str, item: Item) -> bool:
    """What a judge says; without a readable answer the contrary of what people say."""
    return not item["people"] if item[name] is None else bool(item[name])


def _agreement(name: str, items: Sequence[Item]) -> ScoreEstimate:
    return mean_estimate([float(_said(name, item) == item["people"]) for item in items])


def _kappa(name: str, items: Sequence[Item]) -> ScoreEstimate:
    people, judge = [bool(item["people"]) for item in items], [_said(name, item) for item in items]

    def of_rows(rows: Any) -> float:
        return 100 * cohen_kappa([people[row] for row in rows], [judge[row] for row in rows])

    return bootstrap_estimate(len(items), of_rows)


class Explanations(Critique):
    """A judge's decision on an explanation, beside that of people."""

    metrics: ClassVar[Metrics] = {
        **with_errors(accuracy=partial(_agreement, "judge"), kappa=partial(_kappa, "judge")),
        "accepted": mean,
        "accepted_by_people": mean,
        **with_errors(gpt4_accuracy=partial(_agreement, "gpt4"), gpt4_kappa=partial(_kappa, "gpt4")),
        **UNPARSABLE,
    }

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """Returns one explanation's value for every metric."""
        decision = parse_decision(without_thinking(results[0]))
        item = {"people": doc["people"], "judge": decision, "gpt4": doc["gpt4"]}
        names = [name for name in self.metrics if doc["gpt4"] is not None or not name.startswith("gpt4")]
        return {
            **dict.fromkeys(names, item),
            "accepted": 100.0 * (decision is True),
            "accepted_by_people": 100.0 * bool(doc["people"]),
            "unparsable": 100.0 * (decision is None),
        }
