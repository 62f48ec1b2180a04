"""Tokens as they arrive become the deltas of an answer: streamed decoding and stop strings (no I/O)."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.client.types import TextDelta, TokenLogprob
from shards.text.stop import StopStrings
from shards.text.tokenizer import Tokenizer


class AnswerText:
    """Turns token ids into text deltas; `stopped` once a stop string has appeared."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._stream = tokenizer.stream()
        self._stop = StopStrings(stop)
        self.stopped = False

    def push(self, token: int, logprob: TokenLogprob | None) -> TextDelta:
        """The delta that `token` makes: its text may still be held back."""
        text, self.stopped = self._stop.push(self._stream.push(token))
        return TextDelta(text, (token,), () if logprob is None else (logprob,))

    def finish(self) -> TextDelta | None:
        """What is still held back when the generation has ended without a stop string."""
        if self.stopped:
            return None
        text, self.stopped = self._stop.push(self._stream.flush())
        if not self.stopped:
            text += self._stop.flush()
        return TextDelta(text) if text else None
