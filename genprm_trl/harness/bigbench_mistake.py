"""BIG-Bench Mistake (Tyen et al. 2023, arXiv 2311.08516): traces of five tasks, and where their first mistake is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from genprm_trl.data.formats import to_processbench
from genprm_trl.harness.critique import Critique
from genprm_trl.harness.data import as_test_split, read_benchmark
from genprm_trl.harness.steps import ACCURACY, LOCATED, OF_REWARDS, OF_VERDICTS, UNPARSABLE, Metrics
from genprm_trl.harness.verdicts import StepVerdicts

if TYPE_CHECKING:
    from datasets import Dataset

# What the authors' prompts put before an input that does not say itself what to do.
_TASKS = {
    "dyck_languages": (
        "Complete the rest of the sequence, making sure that the parentheses are closed properly. Input: "
    ),
    "word_sorting": "Sort the following words alphabetically: List: ",
}


class MistakeCritique(Critique):
    """A critic's answer on a trace. Accuracy is the paper's score: the first mistake is named exactly, or none."""

    metrics: ClassVar[Metrics] = {**ACCURACY, **LOCATED, **UNPARSABLE}


class MistakeVerdicts(StepVerdicts):
    """A verifier's verdict on a trace, with the paper's accuracy, too."""

    of_predictions: ClassVar[Metrics] = {**ACCURACY, **LOCATED}
    metrics: ClassVar[Metrics] = {**of_predictions, **OF_REWARDS, **OF_VERDICTS}


def mistake_dataset(split: str, data_dir: Any = None, **_: Any) -> dict[str, Dataset]:
    """A task of BIG-Bench Mistake, as the harness's `custom_dataset`.

    Args:
        split: dyck_languages, logical_deduction, multistep_arithmetic, tracking_shuffled_objects or word_sorting.
        data_dir: A directory with a JSON Lines file for each, or the address of one. Default: its repository.
        _: The harness passes all of the task's metadata and the model's arguments.

    Returns:
        The traces as the split `test`. The problem says what to do, in the words of the authors' prompts.

    Raises:
        DataError: The data are missing (it says how to get them) or a row is unusable.
        ConfigError: `data_dir` is no path.
    """
    rows = map(to_processbench, read_benchmark("bigbench_mistake", data_dir, split))
    return as_test_split({**row, "problem": _TASKS.get(split, "") + row["problem"]} for row in rows)
