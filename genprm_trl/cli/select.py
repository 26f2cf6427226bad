"""Choose one of several solutions of each problem: Best-of-N, votes, or pessimistic verification.

FILE holds candidates: rows with `problem`, `answer` and `candidates`, or rows of single solutions, several per
problem, in any format that `genprm verify` reads. Give their verdicts with --verdicts (a file of `genprm verify`), or
a verifier with --model and the options of `genprm verify`. --rule majority needs neither. To resume judging, run the
same command again; with --verdicts it continues that file.

Each output row is the choice for one problem. If the right answers are known, every rule is measured for each number
of candidates, with 95 % bootstrap intervals over problems. Chance, majority vote and the oracle stand beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genprm_trl.cli import console
from genprm_trl.cli.stages import JudgingOptions, short_name
from genprm_trl.errors import ConfigError, DataError, GenPRMError, check_at_least, file_error
from genprm_trl.options.sources import SolutionOptions
from genprm_trl.options.verifier import VerifierOptions
from genprm_trl.rows.outputs import CommandFiles, inputs, inputs_of

if TYPE_CHECKING:
    from genprm_trl.selection.judged_pool import JudgedPool, PoolAccuracies

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SelectOptions(SolutionOptions):
    """Options of `genprm select`."""

    file: str = field(metadata={"help": "Candidates: a file or a dataset.", "positional": True, "reads": "rows"})
    rule: Literal["best", "weighted", "majority", "pessimistic"] = field(
        default="best",
        metadata={
            "help": "best: the solution with the highest score. weighted: the answer with the highest sum of scores. "
            "majority: the most frequent answer. pessimistic: the answer with the highest mean score, minus a penalty "
            "that shrinks with the number of its verifications."
        },
    )
    score: Literal["min", "mean", "last", "product", "solution"] = field(
        default="min",
        metadata={
            "help": "How step rewards become the score of a solution. solution: what the verifier says of the whole "
            "solution, as a thinkprm does."
        },
    )
    alpha: float = field(default=0.1, metadata={"help": "Weight of the penalty of --rule pessimistic."})
    verdicts: str | None = field(
        default=None,
        metadata={
            "help": "Verdicts of the candidates, a file of `genprm verify`. With --model: where they go. Default: "
            "beside the output."
        },
    )
    output: str | None = field(
        default=None,
        metadata={
            "help": "Where the choices go (JSONL); a table, a plot and numbers go beside it. Default: "
            "outputs/select/FILE-RULE.jsonl"
        },
    )


@dataclass
class OptionalVerifierOptions(VerifierOptions):
    """A verifier, where there may be verdicts instead."""

    model: str = field(
        default="",
        metadata={
            "help": "Model directory or Hub id of a verifier that judges what has no verdict yet.",
            "reads": "model",
        },
    )


def files(options: SelectOptions, verifier: OptionalVerifierOptions, judging: JudgingOptions) -> CommandFiles:
    """What the command reads and writes."""
    output = _output_path(options)
    results = [output, *(output.with_suffix(ending) for ending in (".md", ".json", ".png"))]
    reads, others = inputs_of(options, verifier), []
    if verifier.model:
        verdicts = _verdicts_path(options, verifier, output)
        others = [verdicts, Path(f"{verdicts}.settings.json")]
    else:
        reads += inputs("rows", options.verdicts)
    return CommandFiles(reads, results, others, judging.overwrite)


def run(options: SelectOptions, verifier: OptionalVerifierOptions, judging: JudgingOptions) -> int:
    """Judges the candidates where it must, chooses one for each problem, and measures the choices where it can.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: The rule needs verdicts, and the options name neither verdicts nor a verifier; or the score needs
            verdicts on whole solutions, and there are none, or the verifier gives none.
        DataError: No problem has several candidates, or a row is unusable.
        GenPRMError: No judgement holds a verdict. Then nothing is written but the verdicts.
    """
    from genprm_trl.data.pools import read_pools
    from genprm_trl.data.solutions import iter_verdicts
    from genprm_trl.metrics.sameness import Sameness
    from genprm_trl.rows.jsonl import write_jsonl
    from genprm_trl.selection.judged_pool import JudgedPool, choose, judged_pools, measure
    from genprm_trl.selection.report import choice_row
    from genprm_trl.verifier.opening import kind_named

    check_at_least(0, alpha=options.alpha)
    if not verifier.model and options.verdicts is None and options.rule != "majority":
        raise ConfigError(
            f"--rule {options.rule} needs verdicts: name a file of them with --verdicts, or a verifier with --model"
        )
    needs_scores = "--score solution needs verdicts on whole solutions, as verifiers of the kind thinkprm give them"
    if options.score == "solution" and verifier.model:
        for model, kind in verifier.kinds_of_models():
            if not kind_named(kind).load().scores_solutions:
                raise ConfigError(f"{needs_scores}; {model} is of the kind {kind}")
    output = _output_path(options)
    pools = read_pools(options.file, **options.arguments(), need_answers=False, on_format=console.print_format)
    if all(len(pool.ids) == 1 for pool in pools):
        raise DataError(
            "each problem has one solution, so there is nothing to choose; give several rows of a problem, or rows "
            "with `candidates`",
            file=options.file,
        )
    if verifier.model:
        path = _verdicts_path(options, verifier, output)
        with judging.open(path, [solution for pool in pools for solution in pool.solutions()], verifier) as file:
            judging.judge(file, verifier)
            judged = judged_pools(pools, file.verdicts(), file=str(path))
    elif options.verdicts is not None:
        judged = judged_pools(pools, iter_verdicts(options.verdicts), file=options.verdicts)
    else:
        judged = [JudgedPool(pool) for pool in pools]
    verdicts = [verdict for each in judged for verdict in each.verdicts]
    again = "to judge them again, give --model and --retry_errors"
    by_solution_scores = options.score == "solution" and any(each.has_solution_scores for each in judged)
    if verdicts and not by_solution_scores:
        if not any(any(verdict.read) for verdict in verdicts):
            raise GenPRMError(f"no judgement holds a verdict, so nothing can be chosen by them; {again}")
        if options.score == "solution":
            raise ConfigError(needs_scores)
    choices = [choose(each, options.rule, options.score, options.alpha) for each in judged]
    rows = (
        choice_row(each, choice, options.rule, options.score) for each, choice in zip(judged, choices, strict=True)
    )
    write_jsonl(output, rows, result=True)

    candidates = sum(len(pool.ids) for pool in pools)
    facts: dict[str, object] = {"problems": f"{len(pools)}, with {candidates} candidates"}
    without = sum(answer is None for each in judged for answer in each.answers)
    if without:
        facts["without an answer"] = f"{without} of the candidates mark none, and do not vote"
    if judged[0].verdicts:
        tokens = sum(verdict.num_tokens for each in judged for verdict in each.verdicts)
        rationales = sum(len(v.chains) for each in judged for v in each.verdicts)
        facts["verifications"] = f"{rationales:,} rationales of {tokens:,} tokens" if tokens else f"{rationales:,}"
    failed = [each for each in judged if each.has_failed]
    if failed:
        facts["failed"] = f"{len(failed)} problems have a candidate that could not be judged, and are in no score"
    scored = [
        (each, choice)
        for each, choice in zip(judged, choices, strict=True)
        if each.pool.correct and not each.has_failed
    ]
    if scored:
        known = [each for each, _ in scored]
        right = sum(each.pool.correct[choice.index] for each, choice in scored)
        name = options.rule if options.rule == "majority" else f"{options.rule} {options.score}"
        console.print_facts({**facts, "right": f"{right} of {len(known)} choices of {name}"})
        accuracies = measure(known, score=options.score, alpha=options.alpha, seed=verifier.seed)
        facts = _write_accuracies(output, accuracies, known, options)
    console.print_facts({**facts, "choices": output})
    texts, rationales_of = Sameness(), Sameness()
    for each in judged:
        texts.add(each.pool.texts)
        for verdict in each.verdicts:
            rationales_of.add_verdict(verdict)
    texts.warn("candidates of each problem")
    if verifier.temperature > 0 or not verifier.model:
        rationales_of.warn("rationales of each solution")
    if failed:
        logger.warning(
            "%d candidates have a judgement that failed, and the lowest score; %s",
            sum(verdict.has_failed for verdict in verdicts),
            again,
        )
    return 0


def _verdicts_path(options: SelectOptions, verifier: VerifierOptions, output: Path) -> Path:
    if options.verdicts is not None:
        return Path(options.verdicts)
    if options.output is not None:
        return output.with_suffix(".verdicts.jsonl")
    # The rule is not part of the name: another one chooses by the same verdicts.
    return output.with_name(f"{short_name(options.file)}-{short_name(verifier.model)}.verdicts.jsonl")


def _output_path(options: SelectOptions) -> Path:
    if options.output is None:
        return Path("outputs", "select", f"{short_name(options.file)}-{options.rule}.jsonl")
    output = Path(options.output)
    if output.is_dir():
        raise ConfigError(f"{output} is a directory; name a file")
    if output.suffix not in (".jsonl", ".ndjson"):
        raise ConfigError(f"--output {output} must end in .jsonl; a table, a plot and numbers go beside it")
    return output


def _write_accuracies(
    output: Path, accuracies: PoolAccuracies, judged: Sequence[JudgedPool], options: SelectOptions
) -> dict[str, object]:
    """Prints the accuracies and writes them beside the output. Returns where they are, for the last lines."""
    from genprm_trl.cards.plots import can_plot
    from genprm_trl.rows.jsonl import write_json, write_text
    from genprm_trl.selection.report import accuracy_report, plot_accuracies

    text = accuracy_report(accuracies, judged, options.rule, options.score)
    print(f"\n{text}")
    table, numbers, plot = (output.with_suffix(ending) for ending in (".md", ".json", ".png"))
    write_text(table, text, result=True)
    write_json(numbers, {"problems": len(judged), **accuracies.to_dict()}, result=True)
    if not can_plot():
        return {"table": table, "numbers": numbers}
    try:
        title = f"{len(judged)} problems of {Path(options.file).name}"
        plot_accuracies(plot, accuracies, options.score, title)
    except OSError as error:
        raise file_error(error, "cannot be written", error.filename or output) from None
    return {"table, plot": f"{table}, {plot}", "numbers": numbers}
