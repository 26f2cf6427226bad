"""What the commands that train share: the options of the model, resuming, and the run itself."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import ModelConfig

from genprm_trl.cli import console
from genprm_trl.cli.files import OverwriteOptions
from genprm_trl.conversation.settings import POLICY_SETTINGS_FILE, SETTINGS_FILE
from genprm_trl.errors import (
    ConfigError,
    DataError,
    GenPRMError,
    MissingExtraError,
    check_at_least,
    check_positive,
    check_share,
)
from genprm_trl.options.sources import SplitOptions
from genprm_trl.rows.digests import content_digest
from genprm_trl.rows.jsonl import locked_directory, made_directory, write_json
from genprm_trl.rows.outputs import CommandFiles, Input, inputs_of
from genprm_trl.stages.fingerprint import model_fingerprint
from genprm_trl.stages.settings import changes, read_settings, refuse_changes
from genprm_trl.verifier.scorer_settings import STEP_SCORER_FILE, StepScorerSettings, load_scorer_settings

if TYPE_CHECKING:
    from datasets import Dataset

    from genprm_trl.records import Solution
    from genprm_trl.training.card_facts import DescribedData

logger = logging.getLogger(__name__)


@dataclass
class ModelOptions(ModelConfig):
    """TRL's options of the model; `--model` is short for `--model_name_or_path`."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Model directory or Hub id to start from.", "aliases": ["--model"], "reads": "model"},
    )


@dataclass(kw_only=True)
class TrainingOptions(OverwriteOptions, SplitOptions):
    """The options of a command that trains that are not those of TRL."""

    data: str = field(metadata={"help": "What to train on: a file or a dataset.", "positional": True, "reads": "rows"})

    def files(self, *options: Any, reads: Sequence[Input] = ()) -> CommandFiles:
        """What the command reads and writes.

        Args:
            *options: All that its `run` takes: these options, the trainer's arguments, and the options of the model.
            reads: What it reads besides what the options name.
        """
        _, args, _ = options
        output = Path(args.output_dir)
        return CommandFiles(
            [*inputs_of(*options), *reads],
            others=[output, *(output / name for name in _SAVED)],
            removes=_checkpoints(output) if self.overwrite and args.resume_from_checkpoint is None else (),
            overwrite=self.overwrite,
            name="--output_dir",
        )


@dataclass(kw_only=True)
class EvaluatedOptions(TrainingOptions):
    """The options of a training that can be evaluated on further rows."""

    eval_data: str | None = field(
        default=None,
        metadata={"help": "Rows to evaluate on, of the same kinds. Needs --eval_strategy.", "reads": "rows"},
    )
    eval_split: str | None = field(default=None, metadata={"help": "Split of the evaluation data."})

    def check_evaluation(self, args: Any) -> None:
        """Checks that there are rows to evaluate on, if and only if they are evaluated on.

        Args:
            args: The trainer's arguments.

        Raises:
            ConfigError: One is there without the other.
        """
        if (args.eval_strategy != "no") != (self.eval_data is not None):
            raise ConfigError("evaluation needs both --eval_data and --eval_strategy steps or epoch")

    def what_evaluation_decides(self, args: Any, eval_rows: Dataset | None) -> dict[str, Any]:
        """What decides the model because its best checkpoint is taken, as JSON values."""
        if not args.load_best_model_at_end:
            return {}
        return {"eval_split": self.eval_split, "eval_rows": content_digest(list(eval_rows or []))}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Solutions on which the threshold of a trained scorer is chosen.

    Attributes:
        solutions: The solutions, with labels.
        name: What the card calls them.
    """

    solutions: Sequence[Solution]
    name: str

    def digest(self) -> str:
        """A hash of the solutions."""
        return content_digest([each.to_dict() for each in self.solutions])


def _model_arguments(args: Any, options: ModelOptions) -> dict[str, Any]:
    """The arguments for a trainer of TRL that the model's options stand for; some go into `args`."""
    from trl import get_peft_config, get_quantization_config

    given = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    args.model_init_kwargs = {
        "revision": options.model_revision,
        "attn_implementation": options.attn_implementation,
        "dtype": options.dtype,
        **given,
    }
    return {
        "model": options.model_name_or_path,
        "quantization_config": get_quantization_config(options),
        "peft_config": _listed_modules(get_peft_config(options)),
    }


def _listed_modules(peft_config: Any) -> Any:
    """The adapter with its one target module in a list again. TRL leaves a string, which PEFT takes for a pattern."""
    named = getattr(peft_config, "target_modules", None)
    if isinstance(named, str) and re.fullmatch(r"[\w.]+", named):  # neither a pattern nor all-linear
        peft_config.target_modules = {named}
    return peft_config


@contextlib.contextmanager
def checked_modules() -> Iterator[None]:
    """Makes one line of what PEFT says of the modules that an adapter is to have, while a trainer is made.

    Raises:
        ConfigError: The model has no such modules, or none that can have an adapter.
    """
    try:
        yield
    except GenPRMError:
        raise
    except (ValueError, re.error) as error:
        if not isinstance(error, re.error) and not re.search("target.modules?|targeted", str(error), re.IGNORECASE):
            raise
        raise ConfigError(f"--lora_target_modules: {str(error).splitlines()[0]}") from error


# Numbers that TRL and Transformers take as they are, and that end a training or spoil it.
_POSITIVE = (
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "num_iterations",
    "max_completion_length", "save_steps", "eval_steps", "logging_steps", "dataset_num_proc", "generation_batch_size",
    "steps_per_generation", "temperature",
)  # fmt: skip
_NOT_NEGATIVE = (
    "learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "adam_epsilon", "beta", "dataloader_num_workers",
    "seed",
)  # fmt: skip
_SHARES = ("adam_beta1", "adam_beta2", "label_smoothing_factor", "top_p")


def check_training(args: Any, options: ModelOptions) -> None:
    """Finds what would end the training before the data are read: numbers, packages, directories, the Hub.

    Args:
        args: The trainer's arguments.
        options: The options of the model.

    Raises:
        ConfigError: No model is named, an adapter's model is a revision of its name, a number is out of range,
            something that is named is no directory, a package that `--report_to` needs is not installed, or the Hub
            refuses an upload that is asked for.
        MissingExtraError: An adapter is asked for, and peft is not installed.
        DataError: The output directory cannot be made.
    """
    if not options.model_name_or_path:
        raise ConfigError("name the model to start from with --model")
    if options.use_peft:
        from genprm_trl.generation.loading import check_name

        if importlib.util.find_spec("peft") is None:
            raise MissingExtraError("peft", "peft", "training an adapter (--use_peft)")
        given = {"revision": options.model_revision, **(args.model_init_kwargs or {})}
        check_name(options.model_name_or_path, given, "an adapter loads its model")
    _check_directories(args)
    values = {name: value for name, value in vars(args).items() if value is not None}
    check_positive(**{name: values[name] for name in _POSITIVE if name in values})
    check_at_least(0, **{name: values[name] for name in _NOT_NEGATIVE if name in values})
    check_share(**{name: values[name] for name in _SHARES if name in values})
    if args.max_steps != -1:  # as many as the epochs take
        check_at_least(1, max_steps=args.max_steps)
    else:
        check_positive(num_train_epochs=args.num_train_epochs)
    _check_reports(args.report_to)
    if args.push_to_hub and os.environ.get("RANK", "0") == "0":
        from genprm_trl.hub import make_repository

        repository = args.hub_model_id or Path(args.output_dir).resolve().name
        # TRL leaves it to the account, where public is the default; what is public once cannot be taken back.
        make_repository(repository, "model", private=args.hub_private_repo is not False)


@contextlib.contextmanager
def checked_directory(args: Any, options: ModelOptions) -> Iterator[None]:
    """Checks a training as `check_training` does, and keeps its output directory from other trainings.

    Of several processes of one training, the first one keeps it.

    Args:
        args: The trainer's arguments.
        options: The options of the model.

    Raises:
        ConfigError: As `check_training`.
        MissingExtraError: As `check_training`.
        DataError: Another training runs in the directory. Raised where the block begins.
    """
    check_training(args, options)
    first = os.environ.get("RANK", "0") == "0"
    with locked_directory(args.output_dir) if first else contextlib.nullcontext():
        yield


def _check_reports(report_to: Sequence[str] | str) -> None:
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    for name in [report_to] if isinstance(report_to, str) else report_to:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(f"--report_to {name}: choose one of none, {', '.join(INTEGRATION_TO_CALLBACK)}")
        if name not in get_available_reporting_integrations() and name != "flyte":
            raise ConfigError(f"--report_to {name} needs the package of that name: pip install {name}")


# What says of a model which kind of verifier it is, or of a policy its day; a trainer saves one of them or none.
_KINDS = (SETTINGS_FILE, STEP_SCORER_FILE, POLICY_SETTINGS_FILE)
# What saving a model and its card writes into a directory; weights are named by their size.
_SAVED = (
    "README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "special_tokens_map.json", "model.safetensors", "adapter_model.safetensors",
    "adapter_config.json", "training_args.bin", *_KINDS,
)  # fmt: skip


_LENGTHS = ("max_steps", "num_train_epochs")
_CHOSEN_ON = "threshold_rows"  # a hash of what the threshold was chosen on; it decides nothing of the weights


def open_training(
    name: str,
    options: TrainingOptions,
    args: Any,
    model: ModelOptions,
    rows: Iterable[Any],
    held_out: HeldOut | None = None,
    **others: Any,
) -> TrainingRun | None:
    """Opens the output directory for a training.

    Args:
        name: The command's name.
        options: Its own options.
        args: The trainer's arguments. Those that the model's options stand for are added.
        model: The options of the model.
        rows: The data.
        held_out: What the threshold of the finished model is chosen on.
        **others: What else decides the model that the training makes.

    Returns:
        The training. None if it is finished: that is said, its threshold is chosen if that was not done on these
        solutions, and the model is uploaded if that is asked for.

    Raises:
        ConfigError: The directory, or the checkpoint that is named, belongs to another run or to somebody else.
    """
    data = options.data if options.split is None else f"{options.data}, split {options.split}"
    settings = _settings(args, model, data, rows, others)
    training = TrainingRun(
        name, args, settings, _model_arguments(args, model), overwrite=options.overwrite, held_out=held_out
    )
    if training.is_finished:
        training.leave()
        return None
    return training


def _settings(
    args: Any, options: ModelOptions, data: str, rows: Iterable[Any], others: dict[str, Any]
) -> dict[str, Any]:
    """What decides the model that a training makes, as JSON values.

    Batches count as a whole: half of them on a device, accumulated twice as often, make the same model.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    model = str(options.model_name_or_path)
    settings: dict[str, Any] = {
        "model": str(Path(model).resolve()) if Path(model).is_dir() else model,
        "model_files": model_fingerprint(model),
        "data": data,
        "data_sha256": digest.hexdigest(),
        **others,
    }
    for name, value in vars(options).items():
        of_adapter = name.startswith("lora_") or name in ("use_rslora", "use_dora")
        if name not in ("model_name_or_path", "attn_implementation") and (options.use_peft or not of_adapter):
            settings[name] = value
    for name, value in args.decisive().items():
        settings.setdefault(name, value)
    if given := settings.pop("model_init_kwargs"):
        settings["model_init_kwargs"] = {name: v for name, v in given.items() if name != "attn_implementation"}
    template = getattr(args, "chat_template_path", None)
    if template is not None and Path(template).is_file():
        settings["chat_template"] = content_digest(Path(template).read_text(encoding="utf-8", errors="replace"))
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    settings["per_device_train_batch_size × gradient_accumulation_steps × processes"] = batch
    settings |= {name: getattr(args, name) for name in _LENGTHS}
    return json.loads(json.dumps(settings, default=str))


class _NothingLeft(Exception):
    """All steps are done: a checkpoint holds the end of the training."""


class _StopAtTheEnd(TrainerCallback):
    """Ends a training that is resumed from its last step. The loop would do one step more within an epoch."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            raise _NothingLeft


class TrainingRun:
    """One training in its output directory: what it is of, what it resumes from, and whether it is finished.

    `genprm-NAME.json` in the directory says so. It holds the settings, and once the model is saved, `finished`.

    Args:
        name: The command's name.
        args: The trainer's arguments.
        settings: What decides the model, as JSON values.
        arguments: What the trainer of TRL is to be given of the model.
        overwrite: Start again: remove the checkpoints, and replace what is there.
        held_out: What the threshold of the finished model is chosen on.

    Attributes:
        checkpoint: The checkpoint to resume from.
        is_finished: Whether the model is there already. Then there is nothing to train.

    Raises:
        ConfigError: The directory, or the checkpoint that is named, belongs to another run or to somebody else.
    """

    def __init__(
        self,
        name: str,
        args: Any,
        settings: Mapping[str, Any],
        arguments: Mapping[str, Any],
        *,
        overwrite: bool,
        held_out: HeldOut | None = None,
    ):
        self.args, self.settings, self.arguments, self.overwrite = args, settings, arguments, overwrite
        self.held_out = held_out
        self.output = Path(args.output_dir)
        self.file = self.output / f"genprm-{name}.json"
        self.checkpoint: str | None = args.resume_from_checkpoint
        self.is_finished = False
        self._continued_at: list[int] = []
        self._finished: dict[str, Any] | None = None
        self._chosen_on: str | None = None
        last = _last_checkpoint(self.output)
        if self.checkpoint is not None:
            self._check_named(Path(self.checkpoint))
        if overwrite:
            return
        before = self._read(self.file)
        if before is None:
            self._refuse_others(last)
            return
        finished = before.get("finished")
        chosen_on = before.get(_CHOSEN_ON)
        has_model = any(path for pattern in ("*.safetensors", "*.bin") for path in self.output.glob(pattern)
                        if path.name != "training_args.bin")  # fmt: skip
        if not (finished and has_model) and last is None and self.checkpoint is None:
            return  # nothing was kept of it
        grows = self._compare(before, f"{self.output} holds checkpoints of another run")
        self._continued_at = list(before.get("continued_at", []))
        chooses = held_out is not None and held_out.digest() != chosen_on
        if finished and has_model and not grows and not chooses:
            self.is_finished = True
            return
        if finished and has_model and self._model_files() != finished["model_files"]:
            raise ConfigError(
                f"the model in {self.output} is not the one that this command left there; {self._ways_out}"
            )
        if finished and has_model and not grows:
            self.is_finished, self._finished = True, finished
            return
        if finished and last is None and self.checkpoint is None:
            raise ConfigError(
                f"{self.output} holds a finished model, and no checkpoint to train it further from; {self._ways_out}"
            )
        if grows and finished:
            self._continued_at.append(finished["steps"])
        self.checkpoint = self.checkpoint or last

    _ways_out = "name another --output_dir, or start again with --overwrite, which removes its checkpoints"

    def _read(self, file: Path) -> dict[str, Any] | None:
        try:
            return read_settings(file)
        except DataError as error:
            raise ConfigError(f"{error}; {self._ways_out}") from error

    def _check_named(self, checkpoint: Path) -> None:
        """A checkpoint from elsewhere keeps its optimizer and schedule: other options would have no effect."""
        file = checkpoint.parent / self.file.name
        if checkpoint.parent.resolve() != self.output.resolve() and (before := self._read(file)) is not None:
            instead = f"leave out --resume_from_checkpoint; to train from its weights, name {checkpoint} with --model"
            self._compare(before, f"{checkpoint} is of another run", instead)

    def _refuse_others(self, last: str | None) -> None:
        """Refuses a directory that another program has filled, or another command."""
        if self.checkpoint is not None:
            return
        if last is not None:
            raise ConfigError(
                f"{self.output} holds checkpoints, but no {self.file.name} that says what they are of; "
                f"{self._ways_out}, or name the checkpoint to resume from with --resume_from_checkpoint"
            )
        there = sorted(
            path.name
            for path in (self.output.iterdir() if self.output.is_dir() else ())
            if path.is_file() and (path.name in _SAVED or path.suffix in (".safetensors", ".bin"))
        )
        if there:
            raise ConfigError(
                f"{self.output} holds files that this command would replace and did not write ({', '.join(there)}); "
                "name another --output_dir, or replace them with --overwrite"
            )

    def _compare(self, before: Mapping[str, Any], what: str, instead: str | None = None) -> bool:
        """Refuses another run.

        Returns:
            Whether this one is the same and longer.
        """
        changed = changes(before, self.settings)
        lengths = {name: changed.pop(name) for name in _LENGTHS if name in changed}
        renamed, other_rows = changed.pop("data", None), changed.pop("data_sha256", None)
        # The mode and the form of the first turn change the conversations, too; that needs no saying.
        if other_rows and (renamed or not {"mode", "first_turn", "system_prompt"} & changed.keys()):
            changed["data"] = renamed or f"the rows of {self.settings['data']} have changed"
        # Steps count in place of epochs; a run that was planned in one of them does not change to the other.
        by_steps = self.settings["max_steps"] > 0
        length = "max_steps" if by_steps else "num_train_epochs"
        grows = length in lengths and self.settings[length] > before.get(length, math.inf)
        if by_steps != (before.get("max_steps", -1) > 0):
            changed |= lengths
        elif length in lengths and not grows:
            changed[length] = f"{lengths[length]}, and a run can only grow"
        refuse_changes(changed, what=what, instead=instead or self._ways_out)
        return grows

    def leave(self) -> None:
        """Says that the model is there, chooses its threshold if that is left, and uploads it if that is asked for."""
        logger.info("this training is finished; to train again, give --overwrite or another --output_dir")
        if int(os.environ.get("RANK", "0")) == 0:
            if self._finished is not None:
                print(f"{'threshold':<22}{self._choose_threshold(self._finished['steps']).threshold:.4g}")
            if self.args.push_to_hub:
                from genprm_trl.hub import push_model

                repository = self.args.hub_model_id or self.output.resolve().name
                private = self.args.hub_private_repo is not False
                print(f"{'on the Hub':<22}{push_model(self.output, repository, private=private)}")
            print(f"{'model':<22}{self.output}")

    def train(self, trainer: Any, summary: Callable[[Any], list[str]], *, is_last: bool = True) -> None:
        """Trains, saves the model, uploads it if that is asked for, and prints a summary.

        Args:
            trainer: A trainer of TRL.
            summary: Makes the lines to print at the end.
            is_last: Whether the processes part after it.
        """
        first = trainer.is_world_process_zero()
        if first:
            if self.overwrite and self.checkpoint is None:
                self._remove_checkpoints()
            self._write()
        if self.checkpoint is not None:
            logger.info("resuming from %s", self.checkpoint)
        if self._continued_at:
            trainer.continued_at = self._continued_at
            logger.info("the finished training goes on; its learning rate follows the longer schedule from here")
        if self.args.save_strategy != "no":
            console.set_kept(f"checkpoints are in {self.output}; to resume, run the same command again")
        if self.checkpoint is not None:
            trainer.add_callback(_StopAtTheEnd())
        try:
            trainer.train(resume_from_checkpoint=self.checkpoint)
        except _NothingLeft:
            if self.args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
                trainer._load_best_model()
        if first:
            for kind in _KINDS:  # what an earlier model in this place was would be taken for what this one is
                (self.output / kind).unlink(missing_ok=True)
        trainer.save_model()
        # One that a callback has stopped is not finished: the same command goes on from its last checkpoint.
        stopped = trainer.control.should_training_stop and trainer.state.global_step < trainer.state.max_steps
        if first and not stopped:
            steps = trainer.state.global_step
            self._write({"steps": steps, "model_files": self._model_files()})
        # The first one has saved the model. The others may load it next, or take up this directory again.
        trainer.accelerator.wait_for_everyone()
        if first and not stopped and self.held_out is not None:
            trainer.settings = self._choose_threshold(steps)
        if self.args.push_to_hub:
            trainer.push_to_hub()
        if first:
            print("\n".join(summary(trainer)))
        if is_last:
            trainer.end()

    def _choose_threshold(self, steps: int) -> StepScorerSettings:
        """Chooses the threshold of the model that is saved. A kill before the end leaves it to the next call."""
        from genprm_trl.training.threshold import choose_threshold

        assert self.held_out is not None
        settings = choose_threshold(
            self.output,
            self.held_out.solutions,
            self.held_out.name,
            device=self.args.device,
            batch_size=self.args.per_device_eval_batch_size,
        )
        self._chosen_on = self.held_out.digest()
        self._write({"steps": steps, "model_files": self._model_files()})
        return settings

    def _model_files(self) -> str | None:
        """A hash of the model that is saved, whatever its threshold: a kill may come right after one is chosen."""
        settings = load_scorer_settings(self.output)
        if settings is None:
            return model_fingerprint(self.output)
        others = asdict(replace(settings, threshold=0.5, threshold_from=None))
        return content_digest([model_fingerprint(self.output, without=[STEP_SCORER_FILE]), others])

    def _write(self, finished: Mapping[str, Any] | None = None) -> None:
        more: dict[str, Any] = {"continued_at": self._continued_at} if self._continued_at else {}
        if self._chosen_on is not None:
            more[_CHOSEN_ON] = self._chosen_on
        write_json(self.file, {**self.settings, **more, "finished": finished})

    def _remove_checkpoints(self) -> None:
        for directory in _checkpoints(self.output):
            logger.info("removing %s", directory)
            shutil.rmtree(directory)


def last_figures(trainer: Any, names: Mapping[str, str]) -> list[str]:
    """Lines for a summary: the last value of each figure that was logged, and where the model is.

    Args:
        trainer: The trainer.
        names: What each figure is called in the line, and in the log.
    """
    history = trainer.state.log_history
    last = {shown: next((e[name] for e in reversed(history) if name in e), None) for shown, name in names.items()}
    lines = [f"{shown:<22}{value:.4g}" for shown, value in last.items() if value is not None]
    return [*lines, f"{'model':<22}{trainer.args.output_dir}"]


def described_data(data: str, settings: Mapping[str, Any]) -> DescribedData:
    """What the model's card says of the data: their name, a digest, and the stages of the recipe that made them.

    Args:
        data: The file or dataset that was named.
        settings: The settings of the training.
    """
    from genprm_trl.labeling.data_card import reports_beside, stages_table
    from genprm_trl.training.card_facts import DescribedData

    path = Path(data)
    reports = reports_beside(path)
    return DescribedData(
        name=path.name if path.exists() else data,
        hub_id=None if path.exists() else data,
        facts={"SHA-256 of the rows": settings["data_sha256"]},
        recipe=f"Made in these stages:\n\n{stages_table(reports)}" if reports else "",
    )


def _check_directories(args: Any) -> None:
    """Checks the directories that are named. Makes the output and removes it again: a later refusal leaves nothing."""
    if args.resume_from_checkpoint is not None and not Path(args.resume_from_checkpoint).is_dir():
        raise ConfigError(f"--resume_from_checkpoint {args.resume_from_checkpoint} is not a directory")
    output = Path(args.output_dir)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output_dir {output} is not a directory")
    for parent in output.parents:
        if parent.exists() and not parent.is_dir():
            raise ConfigError(f"--output_dir {output} cannot be made: {parent} is not a directory")
    with made_directory(output):
        pass


def _last_checkpoint(output: Path) -> str | None:
    """The last whole checkpoint in the output directory.

    A kill or a full disk can leave a part of one. The trainer's state is written last, so it says which are whole.
    """
    for directory in sorted(_checkpoints(output), key=_step, reverse=True):
        try:
            json.loads((directory / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning("%s is not whole; it is passed over", directory)
        else:
            return str(directory)
    return None


def _checkpoints(output: Path) -> list[Path]:
    found = output.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if output.is_dir() else []
    return [directory for directory in found if directory.is_dir() and directory.name.rpartition("-")[2].isdecimal()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
