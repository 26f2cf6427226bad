"""ProcessBench (arXiv 2412.06559): prompts, answers and scores, as the benchmark defines them."""

from genprm_trl.grading.thinking import without_thinking
from genprm_trl.harness.data import processbench_dataset
from genprm_trl.metrics.estimates import processbench_estimates
from genprm_trl.protocol.critique import critique_prompt, parse_critique, vote

load = processbench_dataset


def doc_to_text(doc):
    """Returns the benchmark's prompt for a critique of a solution."""
    return critique_prompt(doc["problem"], doc["steps"])


def process_critique(doc, results):
    """Scores one critique: the index in its last box."""
    return _scores(doc, [parse_critique(without_thinking(results[0]))])


def process_votes(doc, results):
    """Scores the vote of several critiques: the most common readable index."""
    return _scores(doc, [parse_critique(without_thinking(text)) for text in results[0]])


def _scores(doc, indices):
    # The harness has errors for its own aggregations alone. What it finds under `NAME_stderr` it shows as NAME's
    # error, so the errors are separate metrics, after those that they belong to.
    item = {"label": doc["label"], "predictions": [vote(indices)]}
    unparsable = sum(index is None for index in indices) / len(indices)
    return {**dict.fromkeys(_ESTIMATES, item), "unparsable": 100 * unparsable}


# The scores, of critiques here and of verdicts in verdicts.py.
#


def _estimate(items, name):
    # Verifiers with adaptive N have more predictions for some than for others.
    fewest = min(len(item["predictions"]) for item in items)
    predictions = [item["predictions"][:fewest] for item in items]
    return processbench_estimates([item["label"] for item in items], predictions)[name]


def error_acc(items):
    """Returns the share of solutions with a wrong step whose first wrong step is named, in per cent."""
    return _estimate(items, "error_acc").value


def error_acc_stderr(items):
    """Returns the standard error of `error_acc`."""
    return _estimate(items, "error_acc").stderr


def correct_acc(items):
    """Returns the share of solutions without a wrong step in which none is found, in per cent."""
    return _estimate(items, "correct_acc").value


def correct_acc_stderr(items):
    """Returns the standard error of `correct_acc`."""
    return _estimate(items, "correct_acc").stderr


def f1(items):
    """Returns the harmonic mean of `error_acc` and `correct_acc`."""
    return _estimate(items, "f1").value


def f1_stderr(items):
    """Returns the standard error of `f1`."""
    return _estimate(items, "f1").stderr


_ESTIMATES = ("error_acc", "error_acc_stderr", "correct_acc", "correct_acc_stderr", "f1", "f1_stderr")
