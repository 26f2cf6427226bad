"""Sampling a batch whose rows have their own temperature, filters and seed, and recording log-probabilities."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import LogitsProcessor

from genprm_trl.generation.base import SamplingParams

# Candidates taken beyond the largest top_k or logprobs of a batch. Equal logits are frequent in 16-bit models; with a
# margin, ties at the edge of a row's filter are broken by token id and not by how many candidates its neighbours need.
_TIE_MARGIN = 8

# Steps kept on the model's device before they are moved to the host together.
_FLUSH_EVERY = 64


def draw_uniforms(params: SamplingParams, count: int) -> torch.Tensor:
    """The random numbers of one request, one for each token it may generate: shape `(count,)`, in [0, 1).

    They depend only on the seed. A seeded request therefore draws the same numbers whatever else is in its batch, and
    continues with the next number when it is moved to another batch.
    """
    if params.temperature == 0:
        return torch.zeros(count)
    seed = secrets.randbits(63) if params.seed is None else params.seed % 2**63
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


class LogprobRecorder:
    """Keeps, for every step of a batch, the candidates' log-probabilities until a row asks for its own."""

    def __init__(self) -> None:
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._steps = 0
        self._ids = np.empty((0, 0, 0), dtype=np.int64)
        self._logprobs = np.empty((0, 0, 0), dtype=np.float32)

    def add(self, ids: torch.Tensor, logprobs: torch.Tensor) -> None:
        """Records a step: `ids` and `logprobs`, each of shape `(rows, columns)`."""
        self._pending.append((ids, logprobs))
        if len(self._pending) >= _FLUSH_EVERY:
            self._flush()

    def row(
        self, index: int, steps: int, columns: Sequence[int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Columns of the first `steps` steps of a row: token ids and log-probabilities, each `(steps, columns)`."""
        self._flush()
        return self._ids[:steps, index, columns], self._logprobs[:steps, index, columns]

    def _flush(self) -> None:
        if not self._pending:
            return
        ids = torch.stack([step[0] for step in self._pending]).cpu().numpy()
        logprobs = torch.stack([step[1] for step in self._pending]).cpu().numpy()
        self._pending.clear()
        end = self._steps + len(ids)
        if end > len(self._ids):  # grow by doubling: rows that end at every step flush at every step
            shape = (2 * end, *ids.shape[1:])
            grown_ids, grown_logprobs = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
            if self._steps:
                grown_ids[: self._steps] = self._ids[: self._steps]
                grown_logprobs[: self._steps] = self._logprobs[: self._steps]
            self._ids, self._logprobs = grown_ids, grown_logprobs
        self._ids[self._steps : end], self._logprobs[self._steps : end] = ids, logprobs
        self._steps = end


class BatchSampler(LogitsProcessor):
    """Samples each row by its own parameters, so that `generate(do_sample=False)` picks what was sampled here.

    A sampled token is found by inverting the cumulative distribution, in the order of the vocabulary, at the row's
    next uniform number. Compared with adding Gumbel noise to the logits this needs one random number a token instead
    of one a vocabulary entry, and since the order is the vocabulary's, two candidates that change rank by rounding
    (the same request in another batch) do not change the outcome.

    Temperature, then top-k, then top-p of what is left, is the order of transformers and vLLM. Log-probabilities are
    recorded before all three.

    Args:
        params: The parameters of each row.
        uniforms: The random numbers that each row has left, each of shape `(tokens it may still generate,)`.
        device: The device of the logits.
    """

    def __init__(self, params: Sequence[SamplingParams], uniforms: Sequence[torch.Tensor], device: torch.device):
        rows = len(params)
        self._greedy = torch.tensor([p.temperature == 0 for p in params], device=device)
        self._any_sampled = not bool(self._greedy.all())
        self._temperature = torch.tensor([p.temperature or 1.0 for p in params], device=device).unsqueeze(1)
        self._top_p = torch.tensor([p.top_p for p in params], device=device).unsqueeze(1)
        self._top_k = torch.tensor([p.top_k for p in params], device=device).unsqueeze(1)
        # Rows without a top-k filter need the whole vocabulary; the others only their best few tokens.
        wide = [i for i, p in enumerate(params) if p.temperature > 0 and p.top_k == 0]
        self._wide = torch.tensor(wide, dtype=torch.long, device=device)
        # Of those, the ones with a top-p filter.
        filtered = [place for place, i in enumerate(wide) if params[i].top_p < 1]
        self._filtered = torch.tensor(filtered, dtype=torch.long, device=device)
        self._params = list(params)
        named = [p.logprob_token_ids if p.logprobs else () for p in params]
        self._width = max(0 if ids else p.logprobs for p, ids in zip(params, named, strict=True))
        # Rows that name fewer tokens than others get token 0 in the columns that are left.
        self._named = torch.zeros(rows, max(map(len, named)), dtype=torch.long, device=device)
        for i, ids in enumerate(named):
            self._named[i, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        self._candidates = max(1, self._width, *(p.top_k for p in params if p.temperature > 0), 1) + _TIE_MARGIN
        steps = max(len(row) for row in uniforms)
        padded = torch.zeros(rows, max(steps, 1))
        for i, row in enumerate(uniforms):
            padded[i, : len(row)] = row
        self._uniforms = padded.to(device)
        self._step = 0
        self._broken = torch.zeros(rows, dtype=torch.bool, device=device)
        self._recorder = LogprobRecorder() if any(p.logprobs for p in params) else None

    def recorded(self, row: int, steps: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None:
        """What a row asked for of its first `steps` steps: ids and log-probabilities, `(steps, columns)` each.

        The columns are the tokens that it names, or the most likely ones in descending order, and then the chosen one.
        None if it asked for nothing.
        """
        params = self._params[row]
        if self._recorder is None or not params.logprobs or not steps:
            return None
        named = self._named.shape[1]
        if params.logprob_token_ids:
            columns = range(len(params.logprob_token_ids))
        else:
            columns = range(named, named + min(params.logprobs, self._width))
        return self._recorder.row(row, steps, [*columns, -1])

    def broken_rows(self) -> set[int]:
        """Rows whose logits were not finite at some step so far. What they generated since then means nothing."""
        return set(self._broken.nonzero().flatten().tolist())

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of shape `(rows, vocabulary)`, float32, in which each row's token has the largest value."""
        normalizer = torch.logsumexp(scores, dim=-1, keepdim=True)
        self._broken |= ~torch.isfinite(normalizer[:, 0])
        chosen = scores.argmax(dim=-1, keepdim=True)
        values, ids = self._best(scores)
        if self._any_sampled:
            # After its last token a row may still be asked once, by a loop that learns late that all are done.
            uniform = self._uniforms[:, min(self._step, self._uniforms.shape[1] - 1)].unsqueeze(1)
            sampled = self._sample_narrow(values, ids, uniform)
            if len(self._wide):
                sampled[self._wide] = self._sample_wide(scores[self._wide], uniform[self._wide])
            chosen = torch.where(self._greedy.unsqueeze(1), chosen, sampled)
        if self._recorder is not None:
            self._width = min(self._width, scores.shape[1])
            reported = torch.cat([self._named, ids[:, : self._width], chosen], dim=1)
            self._recorder.add(reported, scores.gather(1, reported) - normalizer)
        self._step += 1
        return scores.scatter_(1, chosen, torch.inf)

    def _best(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best candidates in descending order, ties in the order of token ids: values and ids, `(rows, k)`."""
        values, ids = scores.topk(min(self._candidates, scores.shape[1]), dim=-1)
        ids, order = ids.sort(dim=-1)
        values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
        return values, ids.gather(1, order)

    def _sample_narrow(self, values: torch.Tensor, ids: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        rank = torch.arange(values.shape[1], device=values.device)
        scaled = (values - values[:, :1]) / self._temperature
        probabilities = scaled.masked_fill(rank >= self._top_k, -torch.inf).softmax(dim=-1)
        probabilities = _nucleus(probabilities, self._top_p)
        ids, order = ids.sort(dim=-1)
        return ids.gather(1, _invert(probabilities.gather(1, order), uniform))

    def _sample_wide(self, scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        probabilities = (scores / self._temperature[self._wide]).softmax(dim=-1)
        if len(self._filtered):  # sorting a whole vocabulary takes longer than all the rest
            ranked, order = probabilities[self._filtered].sort(dim=-1, descending=True, stable=True)
            kept = _nucleus(ranked, self._top_p[self._wide][self._filtered])
            probabilities[self._filtered] = torch.zeros_like(kept).scatter(1, order, kept)
        return _invert(probabilities, uniform)


def _nucleus(ranked: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Zeroes all but the smallest set of most likely tokens whose mass reaches `top_p`. `ranked` is descending."""
    mass_before = ranked.cumsum(dim=-1) - ranked
    keep = mass_before < top_p
    keep[:, 0] = True
    return ranked * keep


def _invert(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Indices, `(rows, 1)`, where the cumulative mass passes the share `uniform` of the total; never one of mass 0."""
    cumulative = probabilities.cumsum(dim=-1)
    possible = probabilities > 0
    passed = (cumulative > uniform * cumulative[:, -1:]) & possible
    # argmax finds the first. Rounding may leave none, which is the last possible one then.
    last = probabilities.shape[1] - 1 - possible.flip(-1).int().argmax(dim=-1, keepdim=True)
    return torch.where(passed.any(dim=-1, keepdim=True), passed.int().argmax(dim=-1, keepdim=True), last)
