"""Tokens as they arrive become the deltas of an answer: streamed decoding and stop strings (no I/O)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from mesh.client.types import TextDelta, TokenLogprob
from shards.text.stop import StopStrings
from shards.text.tokenizer import Tokenizer


class AnswerText:
    """Turns token ids into text deltas; `stopped` once a stop string has appeared.

    With stop strings a token is handed out when its text begins to be: one whose text a stop string takes away never
    is, so that tokens and log-probabilities end where the text ends.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], shown: Sequence[int] = ()) -> None:
        """`shown` are special tokens that are part of the text, which they are not by themselves."""
        self._stream = tokenizer.stream(shown=shown) if shown else tokenizer.stream()
        self._stop = StopStrings(stop)
        self._holds = bool(stop)
        self._held: deque[tuple[int, int, TokenLogprob | None]] = deque()
        """Tokens not handed out yet, each with the character at which its text begins."""
        self._decoded = 0
        self._shown = 0
        self.stopped = False

    def resume(self, tokens: Iterable[int]) -> None:
        """The answer goes on after these, which its client has with their text."""
        for token in tokens:
            self.push(token, None)
        self._held.clear()

    def push(self, token: int, logprob: TokenLogprob | None) -> TextDelta:
        """The delta that `token` makes: its text, and with it the token, may still be held back."""
        self._held.append((self._decoded, token, logprob))
        decoded = self._stream.push(token)
        self._decoded += len(decoded)
        text, self.stopped = self._stop.push(decoded)
        self._shown += len(text)
        if self.stopped:
            ready = self._take(self._shown)
            self._held.clear()
        else:
            ready = self._take(self._shown if self._holds and self._shown < self._decoded else None)
        return _delta(text, ready)

    def finish(self) -> TextDelta | None:
        """What is still held back when the generation has ended without a stop string."""
        if self.stopped:
            return None
        text, self.stopped = self._stop.push(self._stream.flush())
        if not self.stopped:
            text += self._stop.flush()
        self._shown += len(text)
        ready = self._take(self._shown if self.stopped else None)
        return _delta(text, ready) if text or ready else None

    def _take(self, end: int | None) -> list[tuple[int, TokenLogprob | None]]:
        """Those held tokens whose text begins before character `end`; None: all of them."""
        ready = []
        while self._held and (end is None or self._held[0][0] < end):
            _, token, logprob = self._held.popleft()
            ready.append((token, logprob))
        return ready


def _delta(text: str, ready: Sequence[tuple[int, TokenLogprob | None]]) -> TextDelta:
    tokens = tuple(token for token, _ in ready)
    return TextDelta(text, tokens, tuple(logprob for _, logprob in ready if logprob is not None))
