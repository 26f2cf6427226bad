"""Tasks for critics: a model's own words about the steps of a solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from genprm_trl.grading.thinking import THINK_END, THINK_START, is_still_thinking, opens_thinking, without_thinking
from genprm_trl.harness.steps import LOCATED, UNPARSABLE, Metrics, StepTask
from genprm_trl.metrics.sameness import Sameness
from genprm_trl.protocol.critique import parse_critique, vote


class Critique(StepTask):
    """One answer on a solution, or several that vote: the index of its first wrong step."""

    metrics: ClassVar[Metrics] = {**LOCATED, **UNPARSABLE}

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """Returns one solution's value for every metric. Several answers are one: the most common readable index."""
        texts = [results[0]] if isinstance(results[0], str) else results[0]
        indices = [parse_critique(without_thinking(text)) for text in texts]
        item = {"label": doc["label"], "predictions": [vote(indices)]}
        unparsable = sum(index is None for index in indices) / len(indices)
        return {**dict.fromkeys(self.metrics, item), "unparsable": 100 * unparsable}

    def apply_filters(self) -> list[Instance] | None:
        """Puts the start of a thinking block before answers that begin in one, and warns of answers that are equal."""
        filtered = super().apply_filters()
        for instance, opening in zip(self._instances, openings(self), strict=True):
            for name, texts in instance.filtered_resps.items():
                several = isinstance(texts, list)
                instance.filtered_resps[name] = [opening + text for text in texts] if several else opening + texts
        warn_of_equal_samples(self, "samples of each solution")
        return filtered


def openings(task: ConfigurableTask) -> list[str]:
    """What the prompt of each request has written of its answers: the start of a thinking block, or nothing.

    Without it, thoughts that were cut off look like an answer. A prompt that a server's template makes is not known:
    it opens a block if one of the answers closes a block that it has not opened.
    """
    instances = task.instances
    if (task.config.metadata or {}).get("think_end_token"):
        return [""] * len(instances)  # the harness's model has dropped the thoughts
    prompts = [getattr(each, "args", ("",))[0] for each in instances]
    return openings_of(prompts, [each.resps for each in instances])


def openings_of(prompts: Sequence[Any], answers: Sequence[Sequence[str]]) -> list[str]:
    """What prompts have written of the answers to them: the start of a thinking block, or nothing.

    Args:
        prompts: The prompts; what is no text becomes one at a server.
        answers: All answers to each.
    """
    hidden = any(
        not isinstance(prompt, str) and any(map(_closes, texts))
        for prompt, texts in zip(prompts, answers, strict=True)
    )
    opened = [opens_thinking(prompt) if isinstance(prompt, str) else hidden for prompt in prompts]
    return [THINK_START if opens else "" for opens in opened]


def _closes(text: str) -> bool:
    before, end, _ = text.partition(THINK_END)
    return bool(end) and not is_still_thinking(before)


def warn_of_equal_samples(task: ConfigurableTask, samples: str) -> None:
    """Warns if the samples of each request are all the same.

    Args:
        task: The task, with the answers to its requests.
        samples: What was sampled, for the message.
    """
    sameness = Sameness()
    for instance in task.instances:
        sameness.add(instance.resps)
    seed = (task.config.generation_kwargs or {}).get("seed", 0)
    sameness.warn(
        samples,
        "Servers are sent one seed with all requests; --gen_kwargs seed=None lets them draw their own."
        if seed is not None
        else "They are so without a seed, too: is the temperature 0, or does the server set its own seed?",
    )
