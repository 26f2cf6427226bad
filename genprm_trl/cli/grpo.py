"""Train a policy with rewards for the steps of its solutions, with TRL's GRPO.

DATA holds problems with their answers: GSM8K, MATH and the other known formats, or rows with `problem` and `answer`. A
GenPRM (--verifier, or --server for a running `genprm serve`) rewards each step that the policy writes. The final
answer has a reward, too. The other options are those of `trl grpo`, and those of step rewards, such as --credit. To
resume from the last checkpoint, run the same command again. A run with other data or options is refused, but for a
longer one. On several GPUs: accelerate launch -m genprm_trl grpo ...
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from genprm_trl._loops import run as run_coroutine
from genprm_trl.cli.training import ModelOptions, TrainingOptions, checked_directory, checked_modules, open_training
from genprm_trl.errors import ConfigError
from genprm_trl.options.sources import RowOptions
from genprm_trl.options.verifier import files_of_options, paths_of_options
from genprm_trl.rows.outputs import CommandFiles, inputs
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.stages.fingerprint import model_fingerprint
from genprm_trl.training.step_grpo.trainer import StepGRPOConfig

if TYPE_CHECKING:
    from datasets import Dataset

    from genprm_trl.rewards import GenPRMReward
    from genprm_trl.training.hacking import HackingStop

_LATER_WEIGHTS = ("agreement_weight", "degenerate_weight")  # not in the settings of older trainings, so only if set
_PATIENCE = 10.0  # seconds that a server may take to say that it is ready
# What makes a policy write steps that can be told apart.
SYSTEM_PROMPT = (
    "Solve the problem step by step. Begin each step on a new line with its number, as in 'Step 1:', and give the "
    "final answer in \\boxed{}."
)


@dataclass(kw_only=True)
class GRPOOptions(SandboxOptions, RowOptions, TrainingOptions):
    """The options of `genprm grpo` that TRL does not have."""

    data: str = field(
        metadata={"help": "Problems with their answers: a file or a dataset.", "positional": True, "reads": "rows"}
    )
    system_prompt: str = field(
        default=SYSTEM_PROMPT, metadata={"help": "System prompt of the policy; an empty one for none."}
    )
    verifier: str | None = field(
        default=None,
        metadata={
            "help": "Directory or Hub id of the verifier that rewards steps. It is loaded beside the policy.",
            "reads": "model",
        },
    )
    kind: str = field(
        default="auto",
        metadata={"help": "What kind of verifier it is. Default: as its files or its name say."},
    )
    server: list[str] | None = field(default=None, metadata={"help": "URLs of running `genprm serve` to use instead."})
    reward_config: str | None = field(
        default=None,
        metadata={
            "help": "YAML file with the arguments of GenPRMReward (verifier or server, n, mode, ...) instead.",
            "reads": "file",
        },
    )
    answer_weight: float = field(
        default=1.0, metadata={"help": "Weight of the reward for a right final answer; 0 leaves it out."}
    )
    format_weight: float = field(
        default=0.0, metadata={"help": "Weight of the reward for steps numbered in order; 0 leaves it out."}
    )
    agreement_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the reward for an answer that the other completions share (EMPO); 0 leaves it out. It "
            "needs no reference answers."
        },
    )
    degenerate_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the penalty for text that repeats itself, runs on to the length bound or is garbled; "
            "0 leaves it out."
        },
    )
    hacking_stop: Literal["warn", "stop", "off"] = field(
        default="warn",
        metadata={
            "help": "What to do when the policy seems to please the verifier without solving more: warn, stop the "
            "training (exit code 1, no upload), or nothing (off)."
        },
    )


def files(options: GRPOOptions, *others: Any) -> CommandFiles:
    """What the command reads and writes."""
    from genprm_trl.rewards.configured import read_config

    config = read_config(options.reward_config) if options.reward_config else {}
    named = {"model": config.get("verifier") or "", **config}
    return options.files(options, *others, reads=inputs("model", named["model"] or None, paths_of_options(named)))


def run(options: GRPOOptions, args: StepGRPOConfig, model_options: ModelOptions) -> int:
    """Trains a policy with the step rewards and outcome rewards that the options choose.

    Returns:
        The exit code: 0, or 1 if signs of reward hacking have stopped the training.

    Raises:
        ConfigError: `args` sets `reward_weights`, which the options set, or asks for `keep_consistent` without
            answers.
        DataError: Another training runs in the output directory.
    """
    from genprm_trl.rewards import (
        answer_agreement_reward,
        answer_reward,
        degenerate_text_penalty,
        step_format_reward,
    )

    in_steps: Callable[..., Any] = step_format_reward
    if args.thinking != "skip":
        in_steps = functools.partial(step_format_reward, thinking=args.thinking)
    degenerate = functools.partial(degenerate_text_penalty, max_tokens=args.max_completion_length)
    weighted: list[tuple[Callable[..., Any], float]] = [
        (answer_reward, options.answer_weight),
        (in_steps, options.format_weight),
        (answer_agreement_reward, options.agreement_weight),
        (degenerate, options.degenerate_weight),
    ]
    rewards = [(reward, weight) for reward, weight in weighted if weight]
    if args.reward_weights is not None:
        raise ConfigError("--reward_weights is set by --answer_weight, --format_weight and the like; leave it out")
    args.reward_weights = [weight for _, weight in rewards] or None
    if args.keep_consistent is not None and not options.answer_weight:
        raise ConfigError("--keep_consistent chooses by right answers, which --answer_weight 0 leaves out")
    with checked_directory(args, model_options):
        return _train(options, args, model_options, [reward for reward, _ in rewards])


def _train(
    options: GRPOOptions, args: StepGRPOConfig, model_options: ModelOptions, rewards: list[Callable[..., Any]]
) -> int:
    from genprm_trl.generation.loading import load_config
    from genprm_trl.training.hacking import HackingStop
    from genprm_trl.training.step_grpo.trainer import StepGRPOTrainer

    reward = _reward_config(options, args)
    dataset = _prompts(options, need_answers=args.credit == "outcome" and options.answer_weight != 0)
    training = open_training(
        "grpo",
        options,
        args,
        model_options,
        dataset,
        **{name: getattr(options, name) for name in ("system_prompt", "answer_weight", "format_weight")},
        **{name: weight for name in _LATER_WEIGHTS if (weight := getattr(options, name))},
        **_decisive(reward),
    )
    if training is None:
        return 0
    # Before the verifier is loaded.
    load_config(
        str(model_options.model_name_or_path),
        revision=model_options.model_revision,
        trust_remote_code=args.trust_remote_code,
    )
    with checked_modules():
        trainer = StepGRPOTrainer(
            reward_funcs=rewards,
            step_reward_func=_step_reward(reward),
            outcome="answer_reward" if options.answer_weight else "",  # form and agreement do not say what is right
            args=args,
            train_dataset=dataset,
            **training.arguments,
        )
    if options.hacking_stop == "off":
        training.train(trainer, _summary)
        return 0
    hacking = HackingStop(options.hacking_stop)
    trainer.add_callback(hacking)
    training.train(trainer, lambda trainer: [*_summary(trainer), *_stopped(hacking, trainer)])
    return int(hacking.stopped)


def _prompts(options: GRPOOptions, *, need_answers: bool) -> Dataset:
    from datasets import Dataset

    from genprm_trl.data.problems import read_problems

    system = [{"role": "system", "content": options.system_prompt}] if options.system_prompt else []
    problems = read_problems(options.data, **options.arguments(), need_answers=need_answers)
    dataset = Dataset.from_list(
        [
            {
                "prompt": [*system, {"role": "user", "content": problem.text}],
                "problem": problem.text,
                "answer": problem.answer,
            }
            for problem in problems
        ]
    )
    if options.answer_weight and not any(dataset["answer"]):
        raise ConfigError(f"no problem of {options.data} has an answer; to reward steps alone, set --answer_weight 0")
    return dataset


def _reward_config(options: GRPOOptions, args: StepGRPOConfig) -> dict[str, Any] | None:
    """The arguments of `GenPRMReward` that the options name; None if steps are not rewarded."""
    from genprm_trl.rewards.configured import read_config

    given = {
        "--verifier": options.verifier, "--server": options.server, "--reward_config": options.reward_config
    }  # fmt: skip
    named = [name for name, value in given.items() if value]
    if len(named) > 1:
        raise ConfigError(f"give one of {' and '.join(named)}, not both")
    if not named:
        if args.uses_step_rewards:
            option = "--keep_consistent" if args.credit == "outcome" else f"--credit {args.credit}"
            raise ConfigError(
                f"{option} needs step rewards: name a verifier with --verifier, --server or --reward_config"
            )
        return None
    config: dict[str, Any] = {"problem_column": "problem"}
    if options.reward_config:
        config |= read_config(options.reward_config)
    elif options.server:
        config["server"] = options.server
    else:
        config["verifier"] = options.verifier
    if options.kind != "auto":
        if not options.verifier:
            raise ConfigError("--kind is the kind of --verifier; in --reward_config it is the argument kind")
        if options.kind == "ensemble":
            raise ConfigError("an ensemble has members: name it and them in a file, with --reward_config")
        config["kind"] = options.kind
    of_sandbox = options.given_sandbox()
    if of_sandbox and "server" in config:
        raise ConfigError(f"the server says where code runs: leave out --{', --'.join(of_sandbox)}")
    return config | of_sandbox


def _decisive(reward: dict[str, Any] | None) -> dict[str, Any]:
    """What decides the rewards of steps. The address of a server does not: it may move. Nor does where code runs."""
    if reward is None:
        return {"verifier": None}
    elsewhere = ("verifier", "server", *(each.name for each in fields(SandboxOptions)))
    settings = {f"reward_{name}": value for name, value in reward.items() if name not in elsewhere}
    verifier = reward.get("verifier")
    if verifier is None:
        return {**settings, "verifier": "a server"}
    files = {"files": model_fingerprint(str(verifier)), **files_of_options({"model": str(verifier), **reward})}
    return {**settings, "verifier": str(verifier), **{f"verifier_{name}": value for name, value in files.items()}}


def _step_reward(config: dict[str, Any] | None) -> GenPRMReward | None:
    from genprm_trl.rewards import GenPRMReward
    from genprm_trl.verifier.client import VerifierClient

    if config is None:
        return None
    reward = GenPRMReward(**config)
    if isinstance(reward.verifier, VerifierClient):  # asked before the policy is loaded
        run_coroutine(reward.verifier.wait_until_ready(_PATIENCE))
    return reward


def _summary(trainer: Any) -> list[str]:
    history = trainer.state.log_history
    names = [name for entry in history for name in entry if re.fullmatch(r"rewards/.*/mean", name)]
    lines = []
    for name in dict.fromkeys(names):
        # None is logged where no completion of a batch had the reward.
        values = [entry[name] for entry in history if entry.get(name) is not None]
        if values:
            lines.append(f"{name.split('/')[1]:<22}{values[0]:.4g} at first, {values[-1]:.4g} at last")
    return [*lines, f"{'model':<22}{trainer.args.output_dir}"]


def _stopped(hacking: HackingStop, trainer: Any) -> list[str]:
    """What became of a training that signs of reward hacking have ended."""
    from genprm_trl.training.hacking import checkpoint_before

    if hacking.first_step is None:
        return []
    before = checkpoint_before(hacking.first_step, trainer.args)
    step = trainer.state.global_step
    return [
        f"{'stopped':<22}at step {step}, by signs of reward hacking; these weights are of that step, and not uploaded",
        f"{'from before':<22}{before or 'no checkpoint is kept (save_steps, save_total_limit)'}",
    ]
