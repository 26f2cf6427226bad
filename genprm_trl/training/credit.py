"""Credit assignment: from the rewards of a completion's steps to the advantages of its tokens. Pure tensors.

`step_advantages` is what `StepGRPOTrainer` calls. The rules differ in what a token's advantage adds up:

- `process` sums the normalised rewards of the token's step and of later ones (DeepSeekMath, arXiv 2402.03300, section
  4.1.3).
- `discounted` is the same sum with a discount, against a leave-one-out baseline.
- `min_form` makes the value of a completion that of its worst step instead of a sum (PURE, arXiv 2504.15275, section
  3). Long completions of empty, well-rewarded steps cannot drive it up.

All tensors hold whole groups: `group_size` consecutive rows are completions of one prompt. NaN is a reward that is not
there: the completion has fewer steps, or the step could not be scored.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

Credit = Literal["outcome", "process", "min_form", "discounted"]
Scale = Literal["group", "batch", "none"]
Baseline = Literal["step", "token"]

# What TRL's GRPO adds to a standard deviation before it divides by it. The same, so that completions of one step get
# the advantage that GRPO gives them.
EPSILON = 1e-4
DEFAULT_SCALE: dict[str, Scale] = {"process": "group", "min_form": "none", "discounted": "none"}


def min_form_rewards(step_rewards: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    r"""Weighs each step by how bad it is: \(r^*_t = r_t \cdot \mathrm{softmax}(-r / T)_t\) over a completion's steps.

    Their sum is close to the smallest reward (PURE, arXiv 2504.15275, section 3.2).

    Args:
        step_rewards: Shape (B, S), NaN where there is none.
        temperature: T. Towards 0 only the worst step counts; towards infinity all count alike.

    Returns:
        Shape (B, S), NaN where there was none.

    Raises:
        ValueError: The temperature is not positive.

    Example:
        >>> min_form_rewards(torch.tensor([[0.9, -0.8, 0.9]])).round(decimals=3)
        tensor([[ 0.0000, -0.8000,  0.0000]])
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of min_form credit must be positive, got {temperature}")
    weights = torch.softmax((-step_rewards / temperature).nan_to_num(nan=-torch.inf), dim=-1)
    return step_rewards * weights  # a row without any reward has NaN weights and NaN rewards


def step_credit(
    step_rewards: torch.Tensor,
    *,
    group_size: int,
    credit: Credit = "process",
    scale: Scale | None = None,
    temperature: float = 0.1,
    gamma: float = 1.0,
    baseline: Baseline = "step",
    step_lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """The advantage of each step.

    Args:
        step_rewards: Shape (B, S), NaN where there is none. B is a multiple of `group_size`.
        group_size: Completions of one prompt.
        credit: `process`, `min_form` or `discounted`; see the module.
        scale: Divide by the standard deviation of the (credited) step rewards of the `group` or the whole `batch`, or
            by nothing. Default: `group` for `process`, `none` for the others, as in their papers.
        temperature: Temperature of `min_form`.
        gamma: Discount per step of `discounted`; 1 is none.
        baseline: What `min_form` and `discounted` subtract, from the other completions of the group: `step`, the mean
            of their rewards a step, at every step; or `token`, their reward a token times the step's tokens, so that
            splitting the same text into more steps gains nothing (both as in PURE's code).
        step_lengths: Tokens of each step, shape (B, S); needed by the baseline `token`.

    Returns:
        Shape (B, S). A step without a reward adds nothing and has the advantage of the next step, or 0 if it is the
        last. A completion is 0 if it has no reward, or no other completion of its group has one.

    Raises:
        ValueError: Shapes do not fit, or an option is unknown or out of range.
    """
    if credit not in DEFAULT_SCALE:
        raise ValueError(f"unknown credit rule {credit!r} for steps: expected one of {', '.join(DEFAULT_SCALE)}")
    scale = DEFAULT_SCALE[credit] if scale is None else scale
    if scale not in get_args(Scale):
        raise ValueError(f"unknown scale {scale!r}: expected one of {', '.join(get_args(Scale))}")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be within [0, 1], got {gamma}")
    if step_rewards.dim() != 2:
        raise ValueError(f"step rewards must have the shape (completions, steps), got {tuple(step_rewards.shape)}")
    if group_size < 1 or len(step_rewards) % group_size:
        raise ValueError(f"{len(step_rewards)} completions are not whole groups of {group_size}")
    if step_rewards.numel() == 0:
        return torch.zeros_like(step_rewards)

    credited = min_form_rewards(step_rewards, temperature) if credit == "min_form" else step_rewards
    there = ~credited.isnan()
    if credit == "process":
        centred = credited - _spread(_nanmean(credited.view(-1, group_size * credited.shape[1])), group_size)
    else:
        centred = credited - _leave_one_out(credited, group_size, baseline, step_lengths)
    if scale != "none":
        scope = credited.view(-1, group_size * credited.shape[1]) if scale == "group" else credited.view(1, -1)
        deviation = _spread(_nanstd(scope), len(credited) // len(scope))
        centred = centred / (deviation + EPSILON)
    # A group of one has nothing to be compared with.
    alone = there.any(dim=1).view(-1, group_size).sum(dim=1) < 2
    centred = centred.masked_fill(~there | _spread(alone, group_size), 0.0)
    return _returns_to_go(centred, gamma if credit == "discounted" else 1.0)


def step_advantages(
    step_rewards: torch.Tensor,
    token_steps: torch.Tensor,
    *,
    group_size: int,
    credit: Credit = "process",
    outcome_advantages: torch.Tensor | None = None,
    step_weight: float = 1.0,
    scale: Scale | None = None,
    temperature: float = 0.1,
    gamma: float = 1.0,
    baseline: Baseline = "step",
) -> torch.Tensor:
    """Step rewards as the advantages of tokens, which TRL's GRPO loss takes.

    Args:
        step_rewards: Shape (B, S), NaN where there is none.
        token_steps: The step, from 0, that each token of the completions belongs to, -1 for none (padding, text that
            a tool wrote). Shape (B, T).
        group_size: Completions of one prompt.
        credit: `outcome` ignores the step rewards. For the others see the module.
        outcome_advantages: Advantages from outcome rewards, shape (B,), added to every token. Default: none.
        step_weight: Factor of the steps' advantages.
        scale: What the steps' advantages are divided by; see `step_credit`.
        temperature: Temperature of `min_form`.
        gamma: Discount per step of `discounted`; 1 is none.
        baseline: What `min_form` and `discounted` subtract; see `step_credit`.

    Returns:
        Token advantages, shape (B, T). Where `token_steps` is -1 they are only the outcome's.

    Raises:
        ValueError: Shapes do not fit, or an option is unknown or out of range.

    Example:
        Two completions of one prompt, two steps of two tokens each; one step is bad.

        >>> rewards = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
        >>> steps = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
        >>> step_advantages(rewards, steps, group_size=2, credit="discounted")
        tensor([[ 1.0000,  1.0000,  0.5000,  0.5000],
                [-1.0000, -1.0000, -1.0000, -1.0000]])
    """
    if credit not in get_args(Credit):
        raise ValueError(f"unknown credit rule {credit!r}: expected one of {', '.join(get_args(Credit))}")
    if token_steps.dim() != 2 or len(token_steps) != len(step_rewards):
        raise ValueError(
            f"token_steps must have the shape (completions, tokens) and as many rows as the step rewards "
            f"{tuple(step_rewards.shape)}, got {tuple(token_steps.shape)}"
        )
    if outcome_advantages is None:
        advantages = torch.zeros(token_steps.shape, dtype=step_rewards.dtype, device=step_rewards.device)
    elif outcome_advantages.shape == (len(step_rewards),):
        advantages = outcome_advantages.unsqueeze(1).expand(token_steps.shape).clone()
    else:
        raise ValueError(
            f"outcome advantages must have the shape ({len(step_rewards)},), got {tuple(outcome_advantages.shape)}"
        )
    if credit == "outcome":
        return advantages
    by_step = step_credit(
        step_rewards,
        group_size=group_size,
        credit=credit,
        scale=scale,
        temperature=temperature,
        gamma=gamma,
        baseline=baseline,
        step_lengths=step_lengths(token_steps, step_rewards.shape[1]),
    )
    return advantages + step_weight * spread_over_tokens(by_step, token_steps)


def step_lengths(token_steps: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Tokens of each step, shape (B, num_steps), from the step of each token, shape (B, T)."""
    counts = torch.zeros(len(token_steps), num_steps + 1, dtype=torch.long, device=token_steps.device)
    counts.scatter_add_(1, token_steps.clamp(min=-1) + 1, torch.ones_like(token_steps))
    return counts[:, 1:]


def spread_over_tokens(by_step: torch.Tensor, token_steps: torch.Tensor) -> torch.Tensor:
    """Values of steps, shape (B, S), at the tokens that belong to them, shape (B, T); 0 at tokens of no step."""
    if by_step.shape[1] == 0:
        return torch.zeros(token_steps.shape, dtype=by_step.dtype, device=by_step.device)
    return by_step.gather(1, token_steps.clamp(min=0)).masked_fill(token_steps < 0, 0.0)


def _leave_one_out(
    rewards: torch.Tensor, group_size: int, baseline: Baseline, lengths: torch.Tensor | None
) -> torch.Tensor:
    """What the other completions of the group would lead to expect at each step, shape (B, S) or (B, 1)."""
    there = ~rewards.isnan()
    totals = rewards.nansum(dim=1).view(-1, group_size)
    if baseline == "step":
        # The others' mean reward a step, each of them counting alike however many steps it has.
        scored = there.any(dim=1).view(-1, group_size)
        means = totals / there.sum(dim=1).view(-1, group_size).clamp(min=1)
        others = (scored.sum(dim=1, keepdim=True) - scored.long()).clamp(min=1)
        return ((means.sum(dim=1, keepdim=True) - means) / others).view(-1, 1)
    if baseline != "token":
        raise ValueError(f"unknown baseline {baseline!r}: expected one of {', '.join(get_args(Baseline))}")
    if lengths is None or lengths.shape != rewards.shape:
        raise ValueError("the baseline 'token' needs step_lengths, of the shape of the step rewards")
    lengths = lengths * there
    tokens = lengths.sum(dim=1).view(-1, group_size)
    other_tokens = tokens.sum(dim=1, keepdim=True) - tokens
    per_token = (totals.sum(dim=1, keepdim=True) - totals) / other_tokens.clamp(min=1)
    return per_token.view(-1, 1) * lengths


def _returns_to_go(rewards: torch.Tensor, gamma: float) -> torch.Tensor:
    if gamma == 1.0:
        return rewards.flip(1).cumsum(dim=1).flip(1)
    returns = torch.zeros_like(rewards)
    following = torch.zeros(len(rewards), dtype=rewards.dtype, device=rewards.device)
    for step in reversed(range(rewards.shape[1])):
        following = rewards[:, step] + gamma * following
        returns[:, step] = following
    return returns


def _spread(by_group: torch.Tensor, group_size: int) -> torch.Tensor:
    """A value a group, shape (N,), as a column with a row for each completion, shape (N * group_size, 1)."""
    return by_group.repeat_interleave(group_size).unsqueeze(1)


def _nanmean(rows: torch.Tensor) -> torch.Tensor:
    return rows.nansum(dim=1) / (~rows.isnan()).sum(dim=1).clamp(min=1)


def _nanstd(rows: torch.Tensor) -> torch.Tensor:
    """Unbiased standard deviation of each row's numbers, 0 where there are fewer than two, shape (N,)."""
    squares = (rows - _nanmean(rows).unsqueeze(1)).square().nansum(dim=1)
    return (squares / ((~rows.isnan()).sum(dim=1) - 1).clamp(min=1)).sqrt()
