"""When to ask a node again, and how long to wait: exponential with jitter, bounded by a deadline. Pure."""

from __future__ import annotations

from dataclasses import dataclass

RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
LIMIT_CODES = frozenset({429, -32005, -32016, -32029, -32097})
LIMIT_WORDS = ("rate limit", "too many requests", "request limit", "capacity exceeded", "slow down", "throughput")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`deadline` seconds for a whole call with all its tries; waits grow from `first` to `most` seconds."""

    deadline: float = 30.0
    attempt_timeout: float = 10.0
    first: float = 0.1
    most: float = 3.0

    def delay(self, attempt: int, jitter: float, retry_after: float | None = None) -> float:
        """Seconds to wait after try number `attempt` (0, 1, …); `jitter` is drawn from [0, 1)."""
        grown = min(self.most, self.first * 2.0 ** min(attempt, 16))
        waited = grown * (0.5 + jitter / 2)
        return max(waited, min(retry_after, self.deadline)) if retry_after is not None else waited


def is_rate_limit(code: int, message: str) -> bool:
    """True for a JSON-RPC error that asks us to slow down, rather than refusing what we want."""
    lowered = message.lower()
    if any(word in lowered for word in LIMIT_WORDS):
        return True
    # -32005 also stands for «too many results»: that is no reason to ask the same again.
    return code in LIMIT_CODES and not is_too_large(code, message)


def is_too_large(code: int, message: str) -> bool:
    """True for a refused log query that a smaller range of blocks may answer."""
    lowered = message.lower()
    words = ("results", "block range", "range is too", "range too", "limit exceeded", "response size", "too large")
    return any(word in lowered for word in words) and code != 429
