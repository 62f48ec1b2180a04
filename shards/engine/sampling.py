"""Choosing a session's next token from logits, repeatably: the same seed and position give the same token.

The order: log-probabilities are taken from the logits as they came; then tokens that the answer's form does not allow
are left out (`Draw.mask`); then logit bias, repetition penalty
(Keskar et al., CTRL, 2019), presence and frequency penalties (as OpenAI's API defines them); then the most
likely token where the temperature is 0, else temperature, top-k, top-p (Holtzman et al., 2020), min-p (Nguyen
et al., 2024), and one draw by inverse CDF in token-id order. Tokens in id order keep their place in the CDF
when logits move by rounding, so a replay on another batch size almost never draws another token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from shards.engine.rng import uniform
from shards.engine.sampling_params import SamplingParams
from shards.errors import BadActivation, CapacityExceeded, InvalidSampling, ShardError

UNLIKELY = -9999.0
"""Reported instead of minus infinity, as OpenAI's API does: JSON has no infinities."""
MAX_GENERATED = 1 << 20
_SCORED_ROWS = 16
_FIRST_CANDIDATES = 256

Top = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token, and how likely the model thought it before bias, penalties and temperature.

    `top` has pairs of token and logprob, likeliest first. Where the session asked for no log-probabilities,
    `logprob` is None and `top` empty.
    """

    token: int
    logprob: float | None = None
    top: Top = ()


class TokenHistory:
    """The tokens that penalties look at: the prompt's set, and the generated ones in order.

    Raises `BadActivation` on a negative token id and `CapacityExceeded` when `limit` tokens were generated.
    """

    def __init__(self, prompt: Iterable[int] = (), *, limit: int = MAX_GENERATED) -> None:
        distinct = sorted(set(prompt))
        if distinct and distinct[0] < 0:
            raise BadActivation(f"negative token id {distinct[0]} in a prompt")
        self.largest_prompt_token = distinct[-1] if distinct else -1
        self._prompt_ids = torch.tensor(distinct, dtype=torch.int64)  # of a session that waits this is most of its cost
        self.counts: Counter[int] = Counter()
        """How often each token was generated."""
        self._limit = limit
        self._generated: list[int] = []

    @property
    def length(self) -> int:
        """Tokens generated so far."""
        return len(self._generated)

    def push(self, token: int) -> None:
        """Append a generated token."""
        if token < 0:
            raise BadActivation(f"negative token id {token}")
        if len(self._generated) >= self._limit:
            raise CapacityExceeded(f"a session generates at most {self._limit} tokens")
        self._generated.append(token)
        self.counts[token] += 1

    def truncate(self, length: int) -> None:
        """Forget generated tokens from number `length` on (rejected ones); nothing when there are no more."""
        while len(self._generated) > max(length, 0):
            token = self._generated.pop()
            self.counts[token] -= 1
            if not self.counts[token]:
                del self.counts[token]

    def prompt_ids(self, device: torch.device) -> torch.Tensor:
        """The prompt's distinct ids, int64, kept on the device they were last asked for."""
        if self._prompt_ids.device != device:
            self._prompt_ids = self._prompt_ids.to(device)
        return self._prompt_ids


@dataclass(frozen=True, slots=True)
class Draw:
    """One session's token to choose: for `position`, from `logits` [1, vocab]."""

    logits: torch.Tensor
    params: SamplingParams
    position: int
    history: TokenHistory
    mask: torch.Tensor | None = None
    """Which tokens may be chosen at all: bool [vocab], on the CPU."""


def sample(logits: torch.Tensor, params: SamplingParams, position: int, history: TokenHistory) -> Sampled:
    """Choose the token for `position` from `logits` [vocab], on whatever device they are.

    Only the chosen token and the reported log-probabilities come to the host. Equal logits are ranked by
    lower id. Raises `BadActivation` where the logits have a NaN, plus infinity, or nothing but minus
    infinity, and `InvalidSampling` where the parameters do not fit the vocabulary.
    """
    if logits.ndim != 1 or not logits.numel():
        raise BadActivation(f"logits of shape {tuple(logits.shape)} where one row is needed")
    (sampled,) = _sample_rows([Draw(logits.unsqueeze(0), params, position, history)])
    if isinstance(sampled, ShardError):
        raise sampled
    return sampled


def sample_all(draws: Sequence[Draw]) -> list[Sampled | ShardError]:
    """What `sample` gives or raises for each session, with as few calls for all of them as their parameters allow."""
    try:
        return _sample_rows(draws)
    except RuntimeError as error:  # what torch raises when the device has no room
        if len(draws) == 1:
            return [CapacityExceeded(f"the device could not sample: {error}")]
        return [sampled for draw in draws for sampled in sample_all([draw])]


@torch.no_grad()
def _sample_rows(draws: Sequence[Draw]) -> list[Sampled | ShardError]:
    if not draws:
        return []
    came = _stacked([draw.logits for draw in draws])
    rows = _masked(came, draws)
    found = _best(rows)
    adjusted: dict[int, torch.Tensor] = {}
    errors: dict[int, ShardError] = {}
    for index, draw in enumerate(draws):
        if not math.isfinite(found[index][0]):
            errors[index] = BadActivation("the logits are not numbers or rule out every token")
        elif adjusts(draw.params):
            try:
                adjusted[index] = _adjust(rows[index].to(torch.float64, copy=True), draw.params, draw.history)
            except ShardError as error:
                errors[index] = error
                continue
            ((best, token),) = _best(adjusted[index].unsqueeze(0))
            found[index] = best, token
            if not math.isfinite(best):
                errors[index] = InvalidSampling("penalties and bias push the logits out of range")
    drawn = [index for index, draw in enumerate(draws) if index not in errors and draw.params.temperature > 0]
    likeliest = _likeliest(rows, {index: draws[index].params for index in drawn if index not in adjusted})
    tokens = [token for _, token in found]
    for index in drawn:
        params, logits = draws[index].params, adjusted.get(index, rows[index])
        number = uniform(params.seed, draws[index].position)
        tokens[index] = _draw(logits, found[index][0], params, number, likeliest.get(index))
    scores = _scores(came, tokens, {i: d.params.logprobs for i, d in enumerate(draws) if i not in errors})
    return [
        errors[index] if index in errors else Sampled(token, *scores.get(index, ()))
        for index, token in enumerate(tokens)
    ]


def _masked(rows: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """The rows, with minus infinity for tokens that may not be chosen; the same ones where all may."""
    if all(draw.mask is None for draw in draws):
        return rows
    anything = torch.ones(rows.shape[1], dtype=torch.bool)
    allowed = torch.stack([anything if draw.mask is None else draw.mask for draw in draws])
    return torch.where(allowed.to(rows.device), rows, -math.inf)


def _stacked(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows [1, vocab] as one tensor [n, vocab]; without a copy where they lie beside each other."""
    first = rows[0]
    vocab = first.shape[-1]
    where = first.storage_offset()
    storage = first.untyped_storage().data_ptr()
    if all(
        row.untyped_storage().data_ptr() == storage
        and row.storage_offset() == where + vocab * number
        and row.is_contiguous()
        for number, row in enumerate(rows)
    ):
        return first.as_strided((len(rows), vocab), (vocab, 1))
    return torch.cat(list(rows))


def _likeliest(
    rows: torch.Tensor, wanted: Mapping[int, SamplingParams]
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """For the rows that are filtered by few candidates: values and ids of those, likeliest first."""
    vocab = rows.shape[1]
    counts = {index: count for index, params in wanted.items() if (count := _candidates(params, vocab)) > 0}
    counts = {index: count for index, count in counts.items() if count <= _FIRST_CANDIDATES}
    if not counts:
        return {}
    some = rows if len(counts) == rows.shape[0] else rows[torch.tensor(list(counts), device=rows.device)]
    values, ids = top_rows(some, max(counts.values()))
    return {index: (values[row, :count], ids[row, :count]) for row, (index, count) in enumerate(counts.items())}


def _candidates(params: SamplingParams, vocab: int) -> int:
    """How many of the likeliest tokens the filters look at first; 0 where they look at all of them in order of id."""
    k = min(params.top_k or vocab, vocab)
    if params.top_p >= 1.0:
        return k if params.top_k else 0
    return min(k, _FIRST_CANDIDATES) if k == vocab else k


def _scores(
    rows: torch.Tensor, tokens: Sequence[int], wanted: Mapping[int, int | None]
) -> dict[int, tuple[float, Top]]:
    """Log-probabilities of the chosen tokens, and so many alternatives, of the rows that want them."""
    counts = {index: top for index, top in wanted.items() if top is not None}
    if not counts:
        return {}
    some = rows[torch.tensor(list(counts), device=rows.device)]
    chosen = torch.tensor([tokens[index] for index in counts], device=rows.device)
    found = score(some, chosen, max(counts.values()))
    return {index: (logprob, top[:count]) for (index, count), (logprob, top) in zip(counts.items(), found, strict=True)}


@torch.no_grad()
def score(logits: torch.Tensor, next_tokens: torch.Tensor, top: int) -> list[tuple[float, Top]]:
    """For each row of `logits` [n, vocab], the log-probability of `next_tokens` [n] and the `top` likeliest.

    Raises `BadActivation` when a row is not numbers or a token is not in the vocabulary.
    """
    n, vocab = logits.shape
    if next_tokens.shape != (n,):
        raise BadActivation(f"{n} rows of logits, but next tokens of shape {tuple(next_tokens.shape)}")
    if n and not bool(((next_tokens >= 0) & (next_tokens < vocab)).all()):
        raise BadActivation(f"a token to score is not in a vocabulary of {vocab}")
    results: list[tuple[float, Top]] = []
    # A few rows at a time: in float64 all positions of a long prompt would not fit.
    for begin in range(0, n, _SCORED_ROWS):
        some = logits[begin : begin + _SCORED_ROWS]
        following = next_tokens[begin : begin + _SCORED_ROWS]
        rows = some.double()
        totals = rows.logsumexp(dim=-1)
        if not bool(totals.isfinite().all()):
            raise BadActivation("the logits are not numbers or rule out every token")
        own = (rows.gather(1, following.unsqueeze(1)).squeeze(1) - totals).tolist()
        values, ids = top_rows(some, min(top, vocab))
        likeliest = zip((values.double() - totals.unsqueeze(1)).tolist(), ids.tolist(), strict=True)
        for logprob, (logprobs, tokens) in zip(own, likeliest, strict=True):
            pairs = zip(tokens, (max(value, UNLIKELY) for value in logprobs), strict=True)
            results.append((max(logprob, UNLIKELY), tuple(pairs)))
    return results


def top_rows(rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and ids [n, k] of the `k` largest of each row [n, vocab], in order; equal ones by lower id."""
    if k < 1:
        return rows[:, :0], torch.empty(rows.shape[0], 0, dtype=torch.int64, device=rows.device)
    values, ids = rows.topk(k, dim=-1)
    ids, order = ids.sort(dim=-1)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(1, order)
    # topk takes any of several equal values at its edge: such rows are done over.
    for row in ((rows >= values[:, -1:]).sum(dim=-1) > k).nonzero().flatten().tolist():
        candidates = (rows[row] >= values[row, -1]).nonzero().flatten()
        kept, order = rows[row, candidates].sort(descending=True, stable=True)
        values[row], ids[row] = kept[:k], candidates[order[:k]]
    return values, ids


def adjusts(params: SamplingParams) -> bool:
    """True when bias or penalties change the logits."""
    return bool(
        params.logit_bias or params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty
    )


def _best(rows: torch.Tensor) -> list[tuple[float, int]]:
    """Of each row [n, vocab] the largest value (NaN if there is one) and the lowest id that has it, in one copy."""
    values, tokens = rows.max(dim=1)
    best = torch.stack((values.double(), tokens.double())).tolist()
    return [(value, int(token)) for value, token in zip(*best, strict=True)]


def _adjust(scores: torch.Tensor, params: SamplingParams, history: TokenHistory) -> torch.Tensor:
    """Bias and penalties, on a float64 copy [vocab] that this function may change."""
    vocab, device = scores.shape[0], scores.device
    if params.logit_bias:
        tokens, biases = list(params.logit_bias), list(params.logit_bias.values())
        if max(tokens) >= vocab:
            raise InvalidSampling(f"logit_bias names token {max(tokens)}, but the vocabulary has {vocab} tokens")
        scores[torch.tensor(tokens, device=device)] += torch.tensor(biases, dtype=torch.float64, device=device)
    generated = list(history.counts)
    largest = max(generated, default=-1)
    if params.repetition_penalty != 1.0:
        largest = max(largest, history.largest_prompt_token)
    if largest >= vocab:
        raise BadActivation(f"token id {largest} is not in a vocabulary of {vocab}")
    ids = torch.tensor(generated, dtype=torch.int64, device=device)
    if params.repetition_penalty != 1.0:
        seen = torch.zeros(vocab, dtype=torch.bool, device=device)
        seen[history.prompt_ids(device)] = True
        seen[ids] = True
        penalty = params.repetition_penalty
        scores = torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
    if generated and (params.presence_penalty or params.frequency_penalty):
        counts = torch.tensor(list(history.counts.values()), dtype=torch.float64, device=device)
        scores[ids] -= params.presence_penalty + params.frequency_penalty * counts
    return scores


Likeliest = tuple[torch.Tensor, torch.Tensor]
"""Values and ids of a row's largest logits, in order."""


def _draw(
    logits: torch.Tensor, best: float, params: SamplingParams, number: float, likeliest: Likeliest | None = None
) -> int:
    """Temperature, filters, and the token whose stretch of the CDF holds `number`."""
    weights, ids = filtered(logits, best, params, likeliest)
    if ids is not None:
        ids, order = ids.sort()
        weights = weights[order]
    possible = (weights > 0).nonzero().flatten()
    cdf = weights[possible].cumsum(dim=0)
    where = torch.searchsorted(cdf, cdf[-1:] * number, right=True).clamp_(max=cdf.shape[0] - 1)
    token = possible[where]
    return int((token if ids is None else ids[token]).item())


def filtered(
    logits: torch.Tensor, best: float, params: SamplingParams, likeliest: Likeliest | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Float64 weights (the largest is 1) of the tokens that temperature and filters leave, and their ids.

    `best` is the largest logit. Ids are None where all tokens are left, in their order; else likeliest first.
    Each filter sees what the one before it left. `likeliest` are the first candidates, where they are known.
    """
    if not params.top_k and params.top_p >= 1.0:
        weights = _weights(logits, best, params.temperature)
        if not params.min_p:
            return weights, None
        ids = (weights >= params.min_p).nonzero().flatten()
        return weights[ids], ids
    if likeliest is None:
        values, ids = (rows[0] for rows in top_rows(logits.unsqueeze(0), _candidates(params, logits.shape[0])))
        likeliest = values, ids
    if params.top_p >= 1.0:
        values, ids = likeliest
        weights = _weights(values, best, params.temperature)
    else:
        weights, ids = _nucleus(logits, best, params, likeliest)
    kept = weights >= params.min_p
    return weights[kept], ids[kept]


def _nucleus(
    logits: torch.Tensor, best: float, params: SamplingParams, likeliest: Likeliest
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the `top_k` likeliest, the fewest whose probability is `top_p` together."""
    vocab = logits.shape[0]
    k = min(params.top_k or vocab, vocab)
    total = _weights(logits, best, params.temperature).sum() if k == vocab else None
    values, ids = likeliest
    # The nucleus is nearly always small: a few candidates are looked at before more of the vocabulary is sorted.
    while True:
        tried = values.shape[0]
        weights = _weights(values, best, params.temperature)
        mass = weights.cumsum(dim=0)
        goal = params.top_p * (mass[-1] if total is None else total)
        if tried == k or bool(mass[-1] >= goal):
            kept = mass - weights < goal
            return weights[kept], ids[kept]
        values, ids = (rows[0] for rows in top_rows(logits.unsqueeze(0), min(k, tried * 16)))


def _weights(logits: torch.Tensor, best: float, temperature: float) -> torch.Tensor:
    # float64, and best taken off first: no temperature, however small, overflows.
    return ((logits.double() - best) / temperature).exp()
