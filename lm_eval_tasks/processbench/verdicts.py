"""ProcessBench for verifiers: what the model `genprm` answers, scored as rewards of steps."""

import json
import math

from genprm_trl.harness import register
from genprm_trl.harness.data import encode_solution, read_verdict
from genprm_trl.metrics.processbench import (
    best_step_accuracy,
    best_threshold,
    calibration_error,
    step_auroc,
)
from genprm_trl.records import prediction_from_rewards, prediction_if_read

register()  # soon enough for the harness's own command if it is given the file of the task


def doc_to_text(doc):
    """Returns a solution as the text that the model `genprm` reads."""
    return encode_solution(doc["problem"], doc["steps"], doc["id"])


# The two filters: one verdict read as one verifier of N chains, or as N verifiers of one chain each. What they keep of
# it goes to the logged samples, which have the whole verdict beside it.


def averaged(resps, docs):
    """Maj@N: rewards averaged over the chains."""
    return [_kept(verdict, [verdict.scored_prediction], _read_rewards(verdict)) for verdict in _verdicts(resps)]


def each_chain(resps, docs):
    """Pass@1: every chain by itself."""
    kept = []
    for verdict in _verdicts(resps):
        predictions = []
        for chain in verdict.chains:
            prediction = prediction_from_rewards([judgement.reward for judgement in chain], verdict.threshold)
            predictions.append(prediction_if_read(prediction, [judgement.is_read for judgement in chain]))
        kept.append(_kept(verdict, predictions, None))
    return kept


def _verdicts(resps):
    return [read_verdict(texts[0]) for texts in resps]


def _read_rewards(verdict):
    """The averaged rewards; null, as JSON has no NaN, where no chain gave the step a verdict."""
    return [reward if is_read else None for reward, is_read in zip(verdict.rewards, verdict.read, strict=True)]


def _kept(verdict, predictions, rewards):
    unread = sum(not judgement.is_read for chain in verdict.chains for judgement in chain)
    # As JSON: the harness logs what is no text by its Python form.
    kept = {
        "predictions": predictions,
        "rewards": rewards,
        "threshold": verdict.threshold,
        "failed": verdict.has_failed,
        "no_verdict": 100 * unread / max(sum(map(len, verdict.chains)), 1),
    }
    return json.dumps(kept)


def process_results(doc, results):
    """Returns one solution's item for every metric, without those of step rewards where chains count separately."""
    kept = json.loads(results[0])
    if kept.get("failed"):  # by the generator or the sandbox: in no score
        return {"failed": 100.0}
    item = {"label": doc["label"], **{name: kept[name] for name in ("predictions", "rewards", "threshold")}}
    # The first six are aggregated by utils.py.
    names = _ESTIMATES if kept["rewards"] is None else (*_ESTIMATES, *_OF_REWARDS)
    return {**dict.fromkeys(names, item), "no_verdict": kept["no_verdict"], "failed": 0.0}


def _best(items):
    try:
        return best_threshold(
            [item["label"] for item in items], [_numbers(item["rewards"], math.nan) for item in items]
        )
    except ValueError:  # a class is missing, or stop=first_error has left out steps
        return math.nan, math.nan


def best_threshold_(items):
    """Returns the threshold with the highest F1 on these very solutions; NaN where there is none."""
    return _best(items)[0]


def best_f1(items):
    """Returns the F1 at `best_threshold_`, a bound on what any other threshold could reach."""
    return _best(items)[1]


def _numbers(rewards, unread):
    return [unread if reward is None else reward for reward in rewards]


def _steps(items, unread=0.5):
    """The steps whose truth is known, those up to the first wrong one: whether each is right, and its reward."""
    right, rewards = [], []
    for item in items:
        label = item["label"]
        known = len(item["rewards"]) if label == -1 else min(label + 1, len(item["rewards"]))
        right += [step != label for step in range(known)]
        rewards += _numbers(item["rewards"][:known], unread)
    return right, rewards


def _per_cent(value):
    return math.nan if value is None else 100 * value


def step_auroc_(items):
    """Returns the area under the ROC curve of step rewards, in per cent."""
    return _per_cent(step_auroc(*_steps(items)))


def step_ece(items):
    """Returns the expected calibration error of step rewards, in per cent."""
    return _per_cent(calibration_error(*_steps(items)))


def step_acc(items):
    """Returns the share of steps that the verifier's own threshold judges rightly, in per cent."""
    right, rewards = _steps(items, unread=math.nan)
    threshold = items[0]["threshold"]
    hits = [
        not math.isnan(reward) and (reward >= threshold) == truth for truth, reward in zip(right, rewards, strict=True)
    ]
    return 100 * math.fsum(hits) / len(hits)


def best_step_acc(items):
    """Returns the share of steps that the best threshold for these steps judges rightly, in per cent."""
    return 100 * best_step_accuracy(*_steps(items, unread=math.nan))[1]


_ESTIMATES = ("error_acc", "error_acc_stderr", "correct_acc", "correct_acc_stderr", "f1", "f1_stderr")
_OF_REWARDS = ("best_f1", "best_threshold", "step_acc", "best_step_acc", "step_auroc", "step_ece")
