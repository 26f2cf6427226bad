"""Put numbers that lm_eval has measured into a model's card.

MODEL is the model's directory. Its README.md gets the scores of the harness's results files as a table and as
`model-index`, which the Hub shows; what else the card says stays. Results of another model are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from genprm_trl.rows.outputs import CommandFiles, inputs_of


@dataclass
class CardOptions:
    """Options of `genprm card`."""

    model: str = field(metadata={"help": "Directory of the model.", "positional": True})
    results: list[str] = field(
        metadata={
            "help": "Results of `lm_eval --output_path`: files, or directories, whose newest file is taken.",
            "reads": "file",
        }
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "Put the card into this repository of the Hub (USER/NAME), too."}
    )


def files(options: CardOptions) -> CommandFiles:
    """What the command reads and writes."""
    return CommandFiles(inputs_of(options), others=[Path(options.model, "README.md")], overwrite=None, name="MODEL")


def run(options: CardOptions) -> None:
    """Runs the command."""
    from genprm_trl.cards.model_card import add_scores
    from genprm_trl.errors import ConfigError
    from genprm_trl.harness.results import read_scores
    from genprm_trl.hub import make_repository, push_card

    if not Path(options.model).is_dir():
        raise ConfigError(f"{options.model} is not a directory")
    if options.push_to_hub is not None:
        make_repository(options.push_to_hub, "model")
    scores = [score for results in options.results for score in read_scores(results, options.model)]
    path = add_scores(options.model, scores)
    for score in scores:
        print(f"{score.dataset}: {score.metric} {score.value:.1f} ({score.setting})")
    print(f"card: {path}")
    if options.push_to_hub is not None:
        print(f"on the Hub: {push_card(options.model, options.push_to_hub)}")
