"""How many prompt tokens go into a pass, so that nobody waits long for it to end (pure).

A pass cannot be broken off: who comes while it runs, and every session that decodes, waits for all of it. A budget in
tokens bounds that on one machine and for short contexts only; so it is one of seconds, by what the last passes took (as
chunked prefill has it: Sarathi-Serve, Agrawal et al., OSDI '24).
"""

from __future__ import annotations

from typing import Final

from shards.engine.scheduler import BatchLimits

COMPANY_SECONDS: Final = 1.0
"""So long after a session has decoded here it counts as one that goes on: its next token is under way at other hops."""
SMOOTHING: Final = 0.5


class PrefillPace:
    """Seconds per token of recent passes with prompts, and what follows for the next one."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._seconds_per_token = 0.0
        self._decoded_at: float | None = None

    def ran(self, tokens: int, seconds: float, *, prompts: bool) -> None:
        """A pass over so many tokens took so long; `prompts`: some of them were prompts'."""
        if prompts and tokens and seconds > 0:
            each = seconds / tokens
            before = self._seconds_per_token or each
            self._seconds_per_token = before + SMOOTHING * (each - before)

    def decoded(self, now: float) -> None:
        """A session decodes in the pass that begins now."""
        self._decoded_at = now

    def budget(self, now: float, *, company: bool) -> int:
        """Prompt tokens of the pass that begins now; `company`: several sessions have work."""
        limits = self._limits
        if not self._seconds_per_token:
            return limits.prefill_tokens
        goes_on = self._decoded_at is not None and now - self._decoded_at < COMPANY_SECONDS
        seconds = limits.shared_seconds if company or goes_on else limits.pass_seconds
        return min(limits.prefill_tokens, max(limits.least_prefill, int(seconds / self._seconds_per_token)))
