"""Measures whether a credit rule favours a number of steps, where that number does not matter.

    python benchmarks/credit_bias.py [--groups 4000]

A toy policy writes steps of ten tokens. After each step it stops with a probability of 0.3, or else begins the next
one; the twentieth is the last. What its steps are worth does not depend on when it stops, so the gradient on stopping
should be 0. Above 0 a rule teaches to write fewer steps, below 0 to write more. In the four worlds

- `0.9` and `0.2`: every step has this reward;
- `a quality`: all steps of a completion have the same reward, drawn from 0 to 1;
- `padded`: so has the first step, and those after it are pleasing steps of 0.9 that add nothing.

The last column has the advantages of the first step of completions with 1, 2, 5 and 10 steps of 0.9. Sums over steps
reward padding by their definition; no baseline changes that.
"""

from __future__ import annotations

import argparse
import math

import torch

from genprm_trl.cards.tables import markdown_table
from genprm_trl.training.credit import Baseline, Credit, step_credit

GROUP, STEPS, TOKENS, STOPS = 4, 20, 10, 0.3
WORLDS = ("0.9", "0.2", "a quality", "padded")
RULES: list[tuple[Credit, Baseline]] = [
    ("process", "return"),  # it has a baseline of its own
    *(
        (credit, baseline)
        for credit in ("min_form", "discounted")
        for baseline in ("return", "step", "token", "mean_return")
    ),
]


def completions(world: str, groups: int, seed: int = 0) -> torch.Tensor:
    """Step rewards of completions that stop by chance, shape (groups * GROUP, STEPS), NaN after their end."""
    random = torch.Generator().manual_seed(seed)
    count = groups * GROUP
    stops = torch.rand(count, STEPS, generator=random) < STOPS
    stops[:, -1] = True
    lengths = stops.int().argmax(dim=1, keepdim=True) + 1
    quality = torch.rand(count, 1, generator=random, dtype=torch.float64).expand(-1, STEPS)
    if world == "padded":
        rewards = torch.full((count, STEPS), 0.9, dtype=torch.float64)
        rewards[:, 0] = quality[:, 0]
    else:
        rewards = quality if world == "a quality" else torch.full((count, STEPS), float(world), dtype=torch.float64)
    return rewards.masked_fill(torch.arange(STEPS) >= lengths, torch.nan)


def advantages(rewards: torch.Tensor, credit: Credit, baseline: Baseline, group_size: int = GROUP) -> torch.Tensor:
    """The advantages of steps of ten tokens, with rewards as `StepGRPOTrainer` takes them."""
    return step_credit(
        2 * rewards - 1 if credit == "min_form" else rewards,
        group_size=group_size,
        credit=credit,
        baseline=baseline,
        step_lengths=TOKENS * (~rewards.isnan()).long(),
        response_length=TOKENS * STEPS,
    )


def stopping_gradient(world: str, credit: Credit, baseline: Baseline, groups: int = 4000) -> tuple[float, float]:
    """The gradient of the policy's objective with respect to the logit of stopping, and its standard error.

    The end-of-text token belongs to the step that it ends. A step that goes on is decided in its first token.
    """
    rewards = completions(world, groups)
    given = advantages(rewards, credit, baseline)
    lengths = (~rewards.isnan()).sum(dim=1)
    at_stop = given.gather(1, lengths.unsqueeze(1) - 1).squeeze(1).masked_fill(lengths == STEPS, 0.0)
    of_completion = (1 - STOPS) * at_stop - STOPS * given[:, 1:].sum(dim=1)
    of_group = of_completion.view(groups, GROUP).mean(dim=1)
    return of_group.mean().item(), of_group.std().item() / math.sqrt(groups)


def first_steps(credit: Credit, baseline: Baseline) -> list[float]:
    """The first step's advantage of completions with 1, 2, 5 and 10 steps of reward 0.9."""
    rewards = torch.full((4, STEPS), torch.nan, dtype=torch.float64)
    for row, length in enumerate((1, 2, 5, 10)):
        rewards[row, :length] = 0.9
    return advantages(rewards, credit, baseline, 4)[:, 0].tolist()


def shown(value: float) -> str:
    """A number with its sign and two decimals; 0 without a sign."""
    return "0" if abs(value) < 0.005 else f"{value:+.2f}"


def main() -> None:
    """Prints the gradients of all rules in all worlds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=4000)
    options = parser.parse_args()
    rows = []
    for credit, baseline in RULES:
        measured = [stopping_gradient(world, credit, baseline, options.groups) for world in WORLDS]
        firsts = ", ".join(map(shown, first_steps(credit, baseline)))
        rows.append(
            [credit, "its own" if credit == "process" else baseline]
            + [f"{shown(mean)} ± {2 * error:.2f}" for mean, error in measured]
            + [firsts]
        )
    print(markdown_table(["credit", "baseline", *WORLDS, "first steps"], rows))


if __name__ == "__main__":
    main()
