"""Make training data for a GenPRM from problems: every stage in order, and a dataset with its card.

The stages are the commands `genprm rollout`, `label`, `rationalize` and `consensus`, and `genprm sft` if there is a
section for it. Each has a section in the configuration file with the command's options; the recipe sets its input and
output. To resume, run the same command again: finished work is kept. See examples/configs/genprm_data_qwen.yaml.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from genprm_trl.cli import console
from genprm_trl.cli.files import files_of, run_command
from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.labeling.data_card import RECIPE_FILES
from genprm_trl.rows.outputs import CommandFiles
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.stages.settings import START_ANEW

logger = logging.getLogger(__name__)

StageName = Literal["rollout", "label", "rationalize", "consensus", "sft"]
DATA_FILE = "data/train-00000-of-00001.parquet"


@dataclass(frozen=True)
class Stage:
    """A command as a part of the recipe.

    Attributes:
        name: The command's name.
        output: Name of its file.
        set_here: Options that the recipe sets, so the section must not.
    """

    name: StageName
    output: str
    set_here: tuple[str, ...] = ("file", "output", "overwrite")

    @property
    def module(self) -> Any:
        """The command's module, which is imported only when it is asked for."""
        return import_module(f"genprm_trl.cli.{self.name}")


STAGES = (
    Stage("rollout", RECIPE_FILES["rollout"]),
    Stage("label", RECIPE_FILES["label"]),
    Stage("rationalize", RECIPE_FILES["rationalize"]),
    Stage("consensus", RECIPE_FILES["consensus"], ("file", "output", "overwrite", "labels")),
)
SFT = Stage("sft", "sft", ("data", "output_dir", "overwrite"))


@dataclass
class RecipeOptions:
    """Options of `genprm recipe`."""

    problems: str = field(metadata={"help": "Problems with their answers: a file or a dataset."})
    output_dir: str = field(metadata={"help": "Where everything goes."})
    name: str = field(default="GenPRM training data", metadata={"help": "The dataset's name, on its card."})
    rollout: dict[str, Any] = field(default_factory=dict, metadata={"help": "Options of `genprm rollout`."})
    label: dict[str, Any] = field(default_factory=dict, metadata={"help": "Options of `genprm label`."})
    rationalize: dict[str, Any] = field(default_factory=dict, metadata={"help": "Options of `genprm rationalize`."})
    consensus: dict[str, Any] = field(default_factory=dict, metadata={"help": "Options of `genprm consensus`."})
    sft: dict[str, Any] | None = field(
        default=None, metadata={"help": "Options of `genprm sft`. Without them no model is trained."}
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "Also upload the dataset to this repository of the Hub (USER/NAME)."}
    )
    private: bool = field(
        default=True,
        metadata={"help": "Make that repository a private one, if it is new. --no_private: a public one."},
    )
    until: StageName | None = field(default=None, metadata={"help": "Stop after this stage."})
    overwrite_from: StageName | None = field(
        default=None, metadata={"help": "Run this stage and all later ones again, for example with other settings."}
    )


def files(options: RecipeOptions, sandbox: SandboxOptions) -> CommandFiles:
    """What the command reads and writes: whatever its stages do, but what they read of one another."""
    output = Path(options.output_dir)
    of_stages = [files for stage, arguments in plan(options, sandbox) if (files := files_of(stage.module, arguments))]
    written = [Path(os.path.realpath(path)) for each in of_stages for path in [*each.results, *each.others]]
    reads = [each for of_stage in of_stages[1:] for each in of_stage.reads]
    return CommandFiles(
        [*of_stages[0].reads, *(each for each in reads if Path(os.path.realpath(each.path)) not in written)],
        others=[*dict.fromkeys(path for each in of_stages for path in each.others), output / "dataset"],
        removes=[path for each in of_stages for path in each.removes],
        overwrite=None,
        name="--output_dir",
    )


def run(options: RecipeOptions, sandbox: SandboxOptions) -> int:
    """Runs the stages of the recipe in order, then writes the dataset and pushes it if a repository is named.

    Every section is read before the first stage starts, and the models, servers and the sandbox are looked for.

    Returns:
        The exit code of the first stage that does not end with 0, else 0.

    Raises:
        ConfigError: A section cannot be used, or a stage was made with other settings.
    """
    output = Path(options.output_dir)
    # Every section is read before the first stage costs anything.
    planned = plan(options, sandbox)
    from genprm_trl.options.generator import GeneratorOptions

    for stage, arguments in planned:
        if not (output / stage.output).exists():
            for each in arguments:
                if isinstance(each, GeneratorOptions):  # a model or server that is missing must not show after days
                    each.check_model()
                    each.ask_servers()
                if isinstance(each, SandboxOptions) and stage is not SFT:  # that one says whether it runs code
                    each.check_sandbox()
    if options.push_to_hub is not None:
        from genprm_trl.hub import make_repository

        make_repository(options.push_to_hub, "dataset", private=options.private)
    for stage, arguments in planned:
        print(f"== {stage.name}", flush=True)
        try:
            code = run_command(stage.module, arguments)
        except GenPRMError as error:
            if START_ANEW not in str(error):
                raise
            # The command's own options are not the recipe's.
            anew = f"choose another --output_dir, or --overwrite_from {stage.name}"
            raise ConfigError(str(error).replace(START_ANEW, anew)) from error
        if code:
            return int(code)
        if stage is STAGES[-1]:
            _write_dataset(output, options)
            print(f"dataset            {output / 'dataset'}")
            if options.push_to_hub is not None:
                from genprm_trl.hub import push_data_set

                print(f"on the Hub         {push_data_set(output / 'dataset', options.push_to_hub)}")
    console.set_kept(None)
    return 0


def plan(options: RecipeOptions, sandbox: SandboxOptions | None = None) -> list[tuple[Stage, Sequence[Any]]]:
    """The stages that are to run, each with the options objects that its command takes.

    Raises:
        ConfigError: A section has an unknown or unusable option, or one that the recipe sets.
    """
    output, sandbox = Path(options.output_dir), sandbox or SandboxOptions()
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output_dir {output} is not a directory")
    stages = [*STAGES, *([SFT] if options.sft is not None else [])]
    names = [stage.name for stage in stages]
    for option in ("until", "overwrite_from"):
        if (name := getattr(options, option)) is not None and name not in names:
            raise ConfigError(f"--{option} {name}: there is no section '{name}'")
    if options.until is not None:
        stages = stages[: names.index(options.until) + 1]
    anew = len(stages) if options.overwrite_from is None else names.index(options.overwrite_from)
    planned: list[tuple[Stage, Sequence[Any]]] = []
    source = options.problems
    for number, stage in enumerate(stages):
        words = [source, "--output_dir" if stage is SFT else "--output", str(output / stage.output)]
        if stage.name == "consensus":
            words += ["--labels", str(output / "labels.jsonl")]
        if number >= anew:
            words.append("--overwrite")
        planned.append((stage, read_section(stage, getattr(options, stage.name), words, sandbox)))
        source = str(output / stage.output)
    return planned


def read_section(
    stage: Stage, section: dict[str, Any], words: Sequence[str], sandbox: SandboxOptions
) -> tuple[Any, ...]:
    """The options objects of a stage's command.

    Args:
        stage: The stage.
        section: The stage's section of the configuration file.
        words: What the recipe itself sets, as words of a command line.
        sandbox: Where code runs in all sections that run code and do not say so themselves.

    Raises:
        ConfigError: The section has an unknown or unusable option, or one that the recipe sets.
    """
    from genprm_trl.options.parser import OptionParser, option_types

    where = f"section '{stage.name}'"
    for key in section:
        if key in stage.set_here:
            raise ConfigError(f"{where}, key '{key}': is set by the recipe")
    types = option_types(stage.module.run)
    if any(issubclass(kind, SandboxOptions) for kind in types):
        section = {**sandbox.given_sandbox(), **section}
    return OptionParser(types, prog=f"genprm {stage.name}").parse(words, section, where)


def _write_dataset(output: Path, options: RecipeOptions) -> None:
    """Writes the directory `dataset` from the stages' files."""
    from genprm_trl.data.solutions import iter_rationales, iter_records
    from genprm_trl.labeling.data_card import Statistics, decontamination_of, reports_beside, write_data_card
    from genprm_trl.labeling.parquet import write_parquet
    from genprm_trl.records import Solution
    from genprm_trl.rows.outputs import replacing

    directory = output / "dataset"
    rationales, labels = output / STAGES[-1].output, output / STAGES[1].output
    with replacing(directory / rationales.name, result=True) as copy, rationales.open("rb") as original:
        shutil.copyfileobj(original, copy)
    write_parquet(directory / DATA_FILE, iter_rationales(rationales))
    statistics = Statistics.of(iter_rationales(rationales), iter_records(labels, Solution))
    write_data_card(
        directory,
        options.name,
        statistics,
        reports_beside(rationales),
        repo_id=options.push_to_hub,
        decontamination=decontamination_of(options.problems),
    )
