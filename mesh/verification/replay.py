"""The same blocks run again over what a hop got: what an engine is given for that, and what comes of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch

from mesh.errors import BadTensor
from mesh.wire.audit import Replay, Replayed
from mesh.wire.sampling import from_wire
from mesh.wire.tokens import read_tokens
from shards.engine.core import EngineCore
from shards.engine.sampler import Choice, SamplerState
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.model.span import Span
from shards.model.spec import ModelSpec

Bytes = bytes | bytearray | memoryview

WIRE_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOGETHER: Final = 16
"""Positions of an answer that are looked at in one part."""
MOST_WRONG: Final = 4
"""After so many tokens that are not right nothing more is to be found out."""
ALTERNATIVES: Final = 20
UNLIKE: Final = 1e9
"""The margin where the claimed token was not the likeliest's rival but another draw."""


class ReplayRun:
    """One question: `begin` and `follow` give what the engine is to run next; once it has run all, `answer` is there.

    Raises `BadTensor` for a payload that is not what the question says, and `InvalidSampling`.
    """

    def __init__(self, question: Replay, payload: Bytes, spec: ModelSpec) -> None:
        if not question.prompt_tokens <= question.fed_tokens < question.capacity or question.count >= question.capacity:
            raise BadTensor("prompt_tokens <= fed_tokens < capacity and count < capacity must hold")
        if not 0 <= question.start < question.end <= spec.n_blocks:
            raise BadTensor(f"{question.start}:{question.end} are no blocks of a model of {spec.n_blocks}")
        self.span = Span(question.start, question.end)
        self.count = question.count
        self.wire_dtype = WIRE_DTYPES[question.wire_dtype]
        self.sampler: SamplerState | None = None
        self._question = question
        self._tokens: list[int] = []
        """Of a session's last blocks: those of all positions and the one after."""
        is_first, is_last = question.start == 0, question.end == spec.n_blocks
        row = 4 if is_first else spec.hidden_size * self.wire_dtype.itemsize
        size = question.count * row
        data = memoryview(payload)
        if len(data) != size + (4 * (question.count + 1) if is_last else 0):
            raise BadTensor(f"{len(data)} bytes came for {question.count} positions")
        self._given: torch.Tensor | None = None
        self._ids: torch.Tensor | None = None
        if is_first:
            self._ids = torch.tensor(read_tokens(data[:size], question.count, spec.vocab_size), dtype=torch.int64)
        else:
            self._given = torch.frombuffer(bytearray(data[:size]), dtype=self.wire_dtype).view(question.count, -1)
        if is_last:
            self._tokens = read_tokens(data[size:], question.count + 1, spec.vocab_size)
            params = replace(from_wire(question.sampling, question.logit_bias), logprobs=ALTERNATIVES)
            self._draws, self._remembers = params.temperature > 0, params.needs_prompt
            known = self._tokens[: question.fed_tokens] if question.count >= question.fed_tokens else None
            if params.needs_prompt and known is None:
                raise BadTensor("nothing was chosen in these positions")
            self.sampler = SamplerState(
                params,
                prompt=question.prompt_tokens,
                fed=question.fed_tokens,
                capacity=question.capacity,
                eos=question.eos,
                known=known,
            )
        self._rows: list[torch.Tensor] = []
        self._wrong: list[tuple[int, int, float]] = []

    def begin(self, sequence: SequenceState) -> StepInput:
        """What the engine runs first."""
        self._sequence = sequence
        count = min(self._question.fed_tokens, self.count) if self.sampler is not None else self.count
        return self._input(0, count)

    def _input(self, start: int, count: int) -> StepInput:
        rows = slice(start, start + count)
        ids = None if self._ids is None else self._ids[rows]
        hidden = None if self._given is None else self._given[rows]
        work = StepInput(self._sequence, start, count, tokens=ids, hidden=hidden)
        if self.sampler is not None and start >= self._question.fed_tokens and count > 1:
            work.verifies, work.drafts = True, tuple(self._tokens[start + 1 : start + count])
        return work

    def follow(self, output: StepOutput) -> StepInput | None:
        """What the engine runs after this. Raises the output's error."""
        if output.error is not None:
            raise output.error
        if output.hidden is not None:
            self._rows.append(output.hidden)
        if not output.complete:
            return None
        if self.sampler is None or not output.choices:
            return None
        going_on = self._compare(output.choices)
        position = output.choices[-1].position
        if not going_on or position >= self.count or output.choices[-1].finish is not None:
            return None
        return self._input(position, min(TOGETHER, self.count - position))

    def _compare(self, choices: Sequence[Choice]) -> bool:
        """Whether there is anything more to look for."""
        last = choices[-1]
        claimed = self._tokens[last.position]
        if last.sampled.token == claimed:
            return True
        margin = UNLIKE
        if not self._draws:
            known = dict(last.sampled.top)
            least = min(known.values(), default=0.0)
            margin = max(0.0, (last.sampled.logprob or 0.0) - known.get(claimed, least))
        self._wrong.append((last.position, last.sampled.token, margin))
        return len(self._wrong) < MOST_WRONG and not self._remembers

    def answer(self) -> tuple[Replayed, bytes]:
        """What the asker hears."""
        if self.sampler is None:
            joined = torch.cat(self._rows).contiguous()
            return Replayed(), joined.flatten().view(torch.uint8).numpy().tobytes()
        if not self._wrong:
            return Replayed(), b""
        position, token, _ = self._wrong[0]
        return Replayed(None, position, token, max(margin for _, _, margin in self._wrong), len(self._wrong)), b""


def replay_here(core: EngineCore, question: Replay, payload: Bytes) -> tuple[Replayed, bytes]:
    """The answer to a question by an engine of our own. Raises what `ReplayRun` does."""
    run = ReplayRun(question, payload, core.model.spec)
    sequence = core.add(
        b"audit", run.span, run.count + 1, reserve=run.count, sampler=run.sampler, wire_dtype=run.wire_dtype
    )
    try:
        with torch.inference_mode():
            work: StepInput | None = run.begin(sequence)
            while work is not None:
                core.feed([work])
                following: StepInput | None = None
                while core.has_work:
                    for output in core.step():
                        following = run.follow(output)
                work = following
        return run.answer()
    finally:
        core.free(sequence)


def question_bytes(rows: Bytes, tokens: Sequence[int]) -> bytes:
    """The payload of a question: rows, and at the last blocks tokens."""
    return bytes(rows) + struct.pack(f"<{len(tokens)}i", *tokens)
