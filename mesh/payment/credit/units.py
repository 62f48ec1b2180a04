"""What work counts and costs: weighted tokens, units and their high-water marks (pure, integers only).

    units of a hop = its blocks × (W_PROMPT × prompt tokens + W_GENERATED × generated tokens)

Prompt tokens that every hop of the route still has from an earlier request count one in `CACHED_PER_PROMPT`: they cost
memory, and the seconds for which nobody else has it, but no pass.

Over one route the blocks add up to the model's, so no stage can inflate its share alone, and the fee of all units,
`ceil(units × price ÷ blocks of the model)`, is exactly price × weighted tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

W_PROMPT: Final = 1
W_GENERATED: Final = 4
CACHED_PER_PROMPT: Final = 4
"""So many cached prompt tokens count as one that is run."""


def weighted_tokens(prompt: int, generated: int, cached: int = 0) -> int:
    """Prompt and generated tokens in one number: `pricePerToken` on the chain is the price of one of these.

    Of the `prompt` tokens, `cached` were not run; what is left of a weighted token counts whole.
    """
    return W_PROMPT * (prompt - cached + -(-cached // CACHED_PER_PROMPT)) + W_GENERATED * generated


def progress_tokens(prompt: int, processed: int, cached: int = 0) -> int:
    """Weighted tokens that a session with a prompt of `prompt` tokens is worth once `processed` positions have run.

    The first `cached` of them were there already. Running the prompt's last position yields the first generated token,
    every later position one more.
    """
    held = min(processed, prompt)
    return weighted_tokens(held, max(0, processed - prompt + 1), min(cached, held))


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What work on a model costs in one epoch: `price` wei for one weighted token, over all `blocks` of the model."""

    price: int
    blocks: int

    def fee(self, units: int) -> int:
        """`feeFor` of the chain: wei that `units` cost, rounded up."""
        return -(-units * self.price // self.blocks)

    def units(self, wei: int, most: int) -> int:
        """The most units, up to `most`, whose fee is at most `wei`."""
        return most if not self.price else min(most, max(0, wei) * self.blocks // self.price)


def units_at(units: int, before: int, now: int) -> int:
    """The units at price `now` that cost no more than `units` did at the price `before`, and are no more than those."""
    return units if now <= before else units * before // now


@dataclass(slots=True)
class SessionMeter:
    """Weighted tokens that one session is worth so far. `fed` tokens are prefilled, of which `prompt` are the prompt.

    A session that resumes elsewhere (`fed` > `prompt`) starts from what its earlier route was worth: work that is
    repeated because of a failure counts once. Positions that run again (speculation, replay) count once too.
    """

    prompt: int
    fed: int
    processed: int = 0
    cached: int = 0
    """Positions that every hop had before the session's first token was fed."""

    def advance(self, processed: int) -> int:
        """Note that positions below `processed` have run; the weighted tokens that this adds."""
        before = self.tokens
        self.processed = max(self.processed, processed)
        return self.tokens - before

    @property
    def tokens(self) -> int:
        """Weighted tokens so far, beyond what an earlier route was worth."""
        if self.fed > self.prompt:  # what it begins with was counted on its earlier route
            return max(0, progress_tokens(self.prompt, self.processed) - self._base)
        return progress_tokens(self.prompt, self.processed, self.cached)

    @property
    def replayed(self) -> int:
        """Tokens that are run again for nothing."""
        return self.fed if self.fed > self.prompt else 0

    @property
    def _base(self) -> int:
        return progress_tokens(self.prompt, self.fed - 1)
