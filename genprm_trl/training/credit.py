"""Credit assignment: from the rewards of a completion's steps to the advantages of its tokens. Pure tensors.

`step_advantages` is what `StepGRPOTrainer` calls. The rules differ in what a token's advantage adds up:

- `process` sums the normalised rewards of the token's step and of later ones (DeepSeekMath, arXiv 2402.03300, section
  4.1.3).
- `discounted` is the same sum with a discount, against a leave-one-out baseline.
- `min_form` makes the value of a completion that of its worst step instead of a sum (PURE, arXiv 2504.15275, section
  3). Long completions of empty, well-rewarded steps cannot drive it up.

A baseline must not favour a number of steps. Four are here for `min_form` and `discounted`; all leave the completion
itself out:

- `return` compares returns to go, step by step. A completion that has ended counts as what it ended with. Completions
  that are equally good in every step thus get no advantage, however many steps they have.
- `step`, `token` and `mean_return` are those of PURE's code. They subtract an amount for each step or token, and
  favour short completions where rewards are high and long ones where they are low (`benchmarks/credit_bias.py`).

All tensors hold whole groups: `group_size` consecutive rows are completions of one prompt. NaN is a reward that is not
there: the completion has fewer steps, or the step could not be scored.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

Credit = Literal["outcome", "process", "min_form", "discounted"]
Scale = Literal["group", "batch", "none"]
Baseline = Literal["return", "step", "token", "mean_return"]

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


def worst_step_to_come(step_rewards: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """The sum of `min_form_rewards` over this step and later ones, weighed anew at each step: nearly their minimum.

    With a temperature towards 0 it is the strict minimum, which PURE's verl code offers as `strict min-form`.

    Args:
        step_rewards: Shape (B, S), NaN where there is none.
        temperature: As for `min_form_rewards`.

    Returns:
        Shape (B, S), NaN where there is neither a reward nor a later one.

    Raises:
        ValueError: The temperature is not positive.

    Example:
        >>> worst_step_to_come(torch.tensor([[0.9, -0.8, 0.9]])).round(decimals=3)
        tensor([[-0.8000, -0.8000,  0.9000]])
    """
    values = [
        min_form_rewards(step_rewards[:, step:], temperature).nansum(dim=1) for step in range(step_rewards.shape[1])
    ]
    nothing_to_come = _next_there(~step_rewards.isnan()) == step_rewards.shape[1]
    return torch.stack(values, dim=1).masked_fill(nothing_to_come, torch.nan)


def step_credit(
    step_rewards: torch.Tensor,
    *,
    group_size: int,
    credit: Credit = "process",
    scale: Scale | None = None,
    temperature: float = 0.1,
    gamma: float = 1.0,
    baseline: Baseline = "return",
    step_lengths: torch.Tensor | None = None,
    response_length: int | None = None,
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
        baseline: What `min_form` and `discounted` subtract, from the other completions of the group. `return`: their
            mean return to go at the same step. For `min_form` that is the worst step to come, and after its end a
            completion keeps the value of its last step. For `discounted` it is the sum over the same steps, and after
            its end a completion goes on with the reward of its last step.
            `step`: the mean of their rewards a step, at every step. `token`: their reward a token times the step's
            tokens, so that splitting the same text into more steps gains nothing. `mean_return`: the mean over
            `response_length` tokens of their return to go, 0 after their end. These are those of PURE's code (its
            option `step`, its option `token`, its verl branch).
        step_lengths: Tokens of each step, shape (B, S); needed by `token` and `mean_return`.
        response_length: Tokens of the longest completion that the policy may write; needed by `mean_return`.

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

    there = ~step_rewards.isnan()
    credited = step_rewards
    if credit == "min_form":
        credited = (worst_step_to_come if baseline == "return" else min_form_rewards)(step_rewards, temperature)
    everything = credited.masked_fill(~there, torch.nan).view(-1, group_size * credited.shape[1])
    if credit == "process":
        centred = credited - _spread(_nanmean(everything), group_size)
    else:
        centred = credited - _baseline(credited, group_size, baseline, step_lengths)
    centred = centred.masked_fill(~there, 0.0)
    if credit == "min_form" and baseline == "return":
        advantages = _at_next_there(centred, there)  # a step's value holds the later ones already
    else:
        advantages = _returns_to_go(centred, gamma if credit == "discounted" else 1.0)
    if credit != "process" and baseline == "mean_return":
        mean_returns = _mean_returns(advantages, there, group_size, step_lengths, response_length)
        advantages = (advantages - mean_returns).masked_fill(_next_there(there) == there.shape[1], 0.0)
    if scale != "none":
        scope = everything if scale == "group" else everything.view(1, -1)
        advantages = advantages / (_spread(_nanstd(scope), len(credited) // len(scope)) + EPSILON)
    # A group of one has nothing to be compared with.
    scored = there.any(dim=1)
    alone = scored.view(-1, group_size).sum(dim=1) < 2
    return advantages.masked_fill(~scored.unsqueeze(1) | _spread(alone, group_size), 0.0)


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
    baseline: Baseline = "return",
    response_length: int | None = None,
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
        response_length: Tokens of the longest completion, for the baseline `mean_return`. Default: T.

    Returns:
        Token advantages, shape (B, T). Where `token_steps` is -1 they are only the outcome's.

    Raises:
        ValueError: Shapes do not fit, or an option is unknown or out of range.

    Example:
        Two completions of one prompt, two steps of two tokens each; one step is bad.

        >>> rewards = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
        >>> steps = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
        >>> step_advantages(rewards, steps, group_size=2, credit="discounted")
        tensor([[ 1.,  1.,  1.,  1.],
                [-1., -1., -1., -1.]])
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
        response_length=token_steps.shape[1] if response_length is None else response_length,
    )
    return advantages + step_weight * spread_over_tokens(by_step, token_steps)


def outcome_advantages(rewards: torch.Tensor, group_size: int, scale: Scale = "group") -> torch.Tensor:
    """GRPO's advantages of completions, from the rewards of those of them that count.

    Args:
        rewards: Shape (B,), NaN for a completion that does not count.
        group_size: Completions of one prompt.
        scale: As `scale_rewards` of TRL: divide by the standard deviation of the `group`, the `batch`, or not.

    Returns:
        Shape (B,), 0 for those that do not count.

    Example:
        >>> outcome_advantages(torch.tensor([1.0, 1.0, torch.nan, 0.0]), 4, "none")
        tensor([ 0.3333,  0.3333,  0.0000, -0.6667])
    """
    groups = rewards.view(-1, group_size)
    advantages = rewards - _nanmean(groups).repeat_interleave(group_size)
    if scale != "none":
        scope = groups if scale == "group" else rewards.view(1, -1)
        advantages = advantages / (_nanstd(scope).repeat_interleave(len(rewards) // len(scope)) + EPSILON)
    return advantages.nan_to_num(nan=0.0)


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


def _baseline(rewards: torch.Tensor, group_size: int, name: Baseline, lengths: torch.Tensor | None) -> torch.Tensor:
    """What the other completions of the group would lead to expect of each step, shape (B, S) or (B, 1)."""
    match name:
        case "return":
            return _mean_of_others(_held(rewards), group_size)
        case "step":  # each of the others counts alike, however many steps it has
            there = (~rewards.isnan()).sum(dim=1, keepdim=True)
            return _mean_of_others(rewards.nansum(dim=1, keepdim=True) / there, group_size)
        case "token":
            there = ~rewards.isnan()
            lengths = _known(lengths, rewards, name) * there
            tokens = lengths.sum(dim=1).view(-1, group_size)
            totals = rewards.nansum(dim=1).view(-1, group_size)
            other_tokens = tokens.sum(dim=1, keepdim=True) - tokens
            return ((totals.sum(dim=1, keepdim=True) - totals) / other_tokens.clamp(min=1)).view(-1, 1) * lengths
        case "mean_return":  # it is subtracted from returns; see `_mean_returns`
            return torch.zeros_like(rewards)
    raise ValueError(f"unknown baseline {name!r}: expected one of {', '.join(get_args(Baseline))}")


def _mean_returns(
    returns: torch.Tensor,
    there: torch.Tensor,
    group_size: int,
    lengths: torch.Tensor | None,
    response_length: int | None,
) -> torch.Tensor:
    """The others' mean return to go over `response_length` tokens, shape (B, 1). Past a completion's end it is 0."""
    if not response_length:
        raise ValueError(f"the baseline 'mean_return' needs a response_length above 0, got {response_length}")
    over_tokens = (returns * _known(lengths, returns, "mean_return")).sum(dim=1, keepdim=True) / response_length
    return _mean_of_others(over_tokens.masked_fill(~there.any(dim=1, keepdim=True), torch.nan), group_size)


def _known(lengths: torch.Tensor | None, rewards: torch.Tensor, baseline: Baseline) -> torch.Tensor:
    if lengths is None or lengths.shape != rewards.shape:
        raise ValueError(f"the baseline {baseline!r} needs step_lengths, of the shape of the step rewards")
    return lengths


def _mean_of_others(values: torch.Tensor, group_size: int) -> torch.Tensor:
    """For each completion the mean of the others of its group, NaN left out, shape (B, S) as the values."""
    grouped = values.view(-1, group_size, values.shape[1])
    counted = (~grouped.isnan()).long()
    others = (counted.sum(dim=1, keepdim=True) - counted).clamp(min=1)
    return ((grouped.nansum(dim=1, keepdim=True) - grouped.nan_to_num(nan=0.0)) / others).view(values.shape)


def _held(values: torch.Tensor) -> torch.Tensor:
    """Each NaN replaced by the last number before it, or the first one after it, shape (B, S)."""
    there = ~values.isnan()
    last = torch.where(there, torch.arange(there.shape[1], device=values.device), -1).cummax(dim=1).values
    return values.gather(1, torch.where(last < 0, _next_there(there).clamp(max=there.shape[1] - 1), last))


def _next_there(there: torch.Tensor) -> torch.Tensor:
    """The place of the first true value from each place on, S if there is none, shape (B, S)."""
    places = torch.where(there, torch.arange(there.shape[1], device=there.device), there.shape[1])
    return places.flip(1).cummin(dim=1).values.flip(1)


def _at_next_there(values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Each value replaced by the first one from its place on that is there, 0 if none is, shape (B, S)."""
    return torch.nn.functional.pad(values, (0, 1)).gather(1, _next_there(there))


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
