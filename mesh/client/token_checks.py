"""What an honest last hop can send of a session; anything else ends the way through it (pure)."""

from __future__ import annotations

from mesh.client.session_plan import SessionPlan
from mesh.errors import ProtocolViolation
from mesh.wire.messages import NewToken, NewTokens


class TokenChecks:
    """Of what `last`, the last hop, sends in a session with this plan. Every method raises `ProtocolViolation`."""

    def __init__(self, plan: SessionPlan, last: str) -> None:
        self._plan = plan
        self._last = last

    def trip(self, message: NewToken | NewTokens) -> tuple[NewToken, ...]:
        """The tokens of a trip, one by one: all can be, and it has checked no more guesses than it may."""
        singles = (message,) if isinstance(message, NewToken) else message.singles()
        if isinstance(message, NewTokens) and message.drafted > self._plan.drafts:
            raise self._wrong(f"checked {message.drafted} guesses where {self._plan.drafts} are allowed")
        for each in singles:
            self._token(each)
        return singles

    def _token(self, message: NewToken) -> None:
        """It is of the vocabulary, ends the session where that ends, and has the log-probabilities asked for."""
        plan = self._plan
        self.top(message.top)
        if message.token >= plan.vocab_size:
            raise self._wrong("sent a token that is not in the vocabulary")
        if message.finish != plan.finish_of(message.token, message.position):
            raise self._wrong(f"said {message.finish!r} where the session does not end so")
        if (message.logprob is None) != (plan.sampling.logprobs is None):
            raise self._wrong("sent other log-probabilities than were asked for")

    def top(self, top: tuple[tuple[int, float], ...]) -> None:
        """Alternatives are of the vocabulary, and no more than were asked for."""
        if len(top) > (self._plan.sampling.logprobs or 0):
            raise self._wrong("sent more alternatives than were asked for")
        if any(token >= self._plan.vocab_size for token, _ in top):
            raise self._wrong("sent an alternative that is not in the vocabulary")

    def _wrong(self, what: str) -> ProtocolViolation:
        return ProtocolViolation(f"{self._last} {what}", peer=self._last)
