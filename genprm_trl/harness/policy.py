"""Best-of-N with two models: the harness's model samples solutions, a verifier picks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from genprm_trl.data.pools import grade_pool
from genprm_trl.data.problems import read_problems
from genprm_trl.data.steps import written_steps
from genprm_trl.errors import ConfigError, DataError, GenPRMError
from genprm_trl.grading.thinking import without_thinking
from genprm_trl.harness.best_of_n import BestOfN
from genprm_trl.harness.critique import openings, warn_of_equal_samples
from genprm_trl.harness.data import as_test_split, named_path
from genprm_trl.harness.judge import Judge
from genprm_trl.records import Solution, Verdict
from genprm_trl.solving.solver import SYSTEM_PROMPT

if TYPE_CHECKING:
    from datasets import Dataset

_ON_HUB = {"gsm8k": ("openai/gsm8k", "main"), "math500": ("HuggingFaceH4/MATH-500", None)}
_FILTER = "verifier"
_PATIENCE = 60.0  # seconds for a server that is still starting


def problems_dataset(name: str, problems: Any = None, **_: Any) -> dict[str, Dataset]:
    """Problems with their answers as the harness's `custom_dataset`.

    Args:
        name: gsm8k or math500, which the Hub has, or custom.
        problems: A file of rows with `problem` (or `question`) and `answer`, or a mapping from names to files.
        _: The harness passes all of the task's metadata and the model's arguments.

    Raises:
        DataError: The problems are missing (it says how to get them), or a row is unusable.
        ConfigError: `problems` is no path.
    """
    source = problems.get(name) if isinstance(problems, Mapping) else problems
    how = """name a file of rows with `problem` and `answer`: --metadata '{"problems": "FILE", ...}'"""
    if source:
        rows: Any = named_path(source, "problems")
    elif name in _ON_HUB:
        import datasets

        path, config = _ON_HUB[name]
        try:
            rows = datasets.load_dataset(path, config, split="test")
        except Exception as error:  # no network, no access: all end here
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(f"cannot be loaded from the Hub ({reason}); {how}", file=path) from None
    else:
        raise DataError(f"needs problems: {how}", file=f"policy_best_of_n_{name}")
    return as_test_split(
        {"id": problem.id, "problem": problem.text, "answer": problem.answer} for problem in read_problems(rows)
    )


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """Returns the prompt of a problem: its text, and the instruction to reason step by step."""
    return f"{doc['problem']}\n\n{SYSTEM_PROMPT}"


class PolicyBestOfN(BestOfN):
    """The harness's model samples `repeats` solutions of each problem; the verifier of the metadata judges them.

    The metrics are those of `BestOfN`. The task's metadata (`--metadata`) holds `verifier`, the arguments of a
    `Judge`: `{"verifier": {"server": "http://...", "n": 4}}`, or `{"verifier": {"pretrained": "...", ...}}` for one in
    this process, beside the model that samples.

    Raises:
        ConfigError: There is no verifier, or it cannot be used.
    """

    def __init__(self, config: Mapping[str, Any] | None = None):
        arguments = ((config or {}).get("metadata") or {}).get("verifier")
        if not isinstance(arguments, Mapping):
            raise ConfigError(
                """this task needs a verifier: --metadata '{"verifier": {"server": "http://HOST:PORT", "n": 4}}' """
                """(of `genprm serve`), or {"pretrained": "MODEL"} for one in this process"""
            )
        self.judge = Judge.of(arguments, "--metadata verifier")
        super().__init__(config)

    def smallest_pool(self) -> int:
        """Returns how many solutions the harness samples of each problem."""
        return int(self.config.repeats)

    def build_all_requests(self, **kwargs: Any) -> None:
        """Waits for the verifier's servers first, so that the policy does not sample in vain.

        Raises:
            ServiceError: A server is not ready.
        """
        self.judge.wait_until_ready(_PATIENCE)
        super().build_all_requests(**kwargs)

    def construct_requests(self, doc: Mapping[str, Any], ctx: Any, **kwargs: Any) -> Any:
        """One request a problem, which the harness repeats."""
        return ConfigurableTask.construct_requests(self, doc, ctx, **kwargs)

    def apply_filters(self) -> list[Instance] | None:
        """Judges all samples of all problems at once."""
        warn_of_equal_samples(self, "samples of each problem")
        samples = [
            (instance, [opening + text for text in instance.resps])
            for instance, opening in zip(self._instances, openings(self), strict=True)
        ]
        solutions = {}
        for instance, texts in samples:
            for index, text in enumerate(texts):
                steps = [step.text for step in written_steps(text)]
                if steps:  # what was cut off while thinking has none, and nothing to be judged
                    identifier = f"{instance.doc['id']}-{index}"
                    solutions[identifier] = Solution(identifier, instance.doc["problem"], steps)
        verdicts: dict[str, Verdict] = {}
        if solutions:
            with self.judge.open() as prm:
                judged = list(prm.verify_all(list(solutions.values())))
            if not any(any(verdict.read) for verdict in judged):  # samples are chosen by their steps
                raise GenPRMError("no judgement of the policy's samples holds a verdict, so there is no score")
            verdicts = {verdict.id: verdict for verdict in judged}
        for instance, texts in samples:
            # As JSON: the harness logs what is no text by its Python form.
            instance.filtered_resps[_FILTER] = [
                json.dumps(
                    {
                        "text": without_thinking(text),
                        "verdict": None if verdict is None else verdict.to_dict(),
                        "unread": verdict is not None and verdict.scored_prediction is None,
                        "failed": verdict is not None and verdict.has_failed,
                    },
                    ensure_ascii=False,
                )
                for index, text in enumerate(texts)
                for verdict in [verdicts.get(f"{instance.doc['id']}-{index}")]
            ]
        return self._instances

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
        """Grades the samples of one problem, and returns its metrics.

        A sample without a verdict has the reward 0. A problem on whose samples the verifier failed has no metrics.
        """
        samples = [json.loads(text) for text in results[0]]
        if any(sample.get("failed") for sample in samples):
            return {}
        correct, votes = grade_pool([sample["text"] for sample in samples], doc["answer"])
        rewards = [
            sample["verdict"]["rewards"] if sample["verdict"] and not sample.get("unread") else [0.0]
            for sample in samples
        ]
        return self.accuracies(votes, correct, rewards)
