"""A pass of the engine: which tokens of which sessions are part of it, and what the model's results for them mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from shards.engine.sampler import Passed, SamplerState, conclude
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.errors import BadActivation, ShardError


@dataclass(slots=True)
class Part:
    """Some tokens of a session in a pass; `error` where they turned out not to be runnable."""

    input: StepInput
    start: int
    count: int
    complete: bool
    losses: int
    pages: Sequence[int] = ()
    error: ShardError | None = None

    @property
    def sequence(self) -> SequenceState:
        return self.input.sequence

    def output(self, error: ShardError | None = None) -> StepOutput:
        return StepOutput(self.sequence, self.input, self.start, self.count, self.complete, error=error)


@dataclass(slots=True)
class Pass:
    """What `plan` has chosen: the parts to run, and sessions that lost their pages for it."""

    parts: list[Part] = field(default_factory=list)
    outputs: list[StepOutput] = field(default_factory=list)
    cuts: list[tuple[int, int]] = field(default_factory=list)
    """Session numbers and lengths."""
    forgotten: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.parts or self.outputs or self.forgotten)


def conclude_parts(parts: Sequence[Part], results: Sequence[torch.Tensor]) -> list[StepOutput]:
    """What the model's results mean: hidden states that may leave, or tokens chosen for all sessions at once."""
    outputs = [part.output() for part in parts]
    sampled: list[tuple[StepOutput, SamplerState, torch.Tensor]] = []
    for part, output, result in zip(parts, outputs, results, strict=True):
        if part.sequence.sampler is not None:
            sampled.append((output, part.sequence.sampler, result))
            continue
        hidden = result.to(dtype=part.sequence.wire_dtype, device="cpu")
        if bool(torch.isfinite(hidden).all()):
            output.hidden = hidden
        else:  # never handed on: the next stage would take us for the one at fault
            output.error = _overflow(part.input)
    told = conclude(
        [
            Passed(sampler, output.start, output.count, logits, () if output.input is None else output.input.drafts)
            for output, sampler, logits in sampled
        ]
    )
    for (output, _, _), answer in zip(sampled, told, strict=True):
        if isinstance(answer, ShardError):
            output.error = answer
        else:
            output.choices, output.scores = answer
    return outputs


def _overflow(given: StepInput) -> ShardError:
    if given.hidden is None:
        return ShardError("the blocks made values that are not finite out of token ids: are the weights sound?")
    return BadActivation("the hidden states that were received make values that are not finite")
