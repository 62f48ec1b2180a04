"""The operator's own API keys of an unpaid gateway, and what each may do: requests, tokens a day, models.

Counts are kept in memory: a gateway that is started again begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mesh.errors import ConfigError
from mesh.gateway.errors import ApiError, ApiFailure, retry_after
from mesh.payment.accounts.limits import TokenBucket

DAY = 86_400


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """None, or no models: no limit."""

    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    """Of prompts and answers together, by days of UTC."""
    models: frozenset[str] = frozenset()


UNLIMITED = KeyLimits()


def parse_keys(text: str) -> dict[str, KeyLimits]:
    """The keys of a file: one a line, with `requests_per_minute=N`, `tokens_per_day=N` and `models=NAME,NAME` after it
    where they are limited; `#` begins a comment. Raises `ConfigError`."""
    keys: dict[str, KeyLimits] = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, *settings = line.partition("#")[0].split() or [""]
        if not key:
            continue
        if key in keys:
            raise ConfigError(f"line {number} has a key that is there already")
        keys[key] = _limits(number, settings)
    return keys


def _limits(number: int, settings: list[str]) -> KeyLimits:
    counts: dict[str, int] = {}
    models: frozenset[str] = frozenset()
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "models" and value:
            models = frozenset(value.split(","))
        elif name in ("requests_per_minute", "tokens_per_day") and value.isascii() and value.isdecimal() and int(value):
            counts[name] = int(value)
        else:
            raise ConfigError(
                f"line {number}: after a key come requests_per_minute=N, tokens_per_day=N or models=NAME,NAME, "
                f"not {name[:40]!r} (a key of its own goes on a line of its own)"
            )
    return KeyLimits(counts.get("requests_per_minute"), counts.get("tokens_per_day"), models)


@dataclass(slots=True)
class KeyMeter:
    """What one key has used."""

    limits: KeyLimits
    clock: Callable[[], float] = time.time
    day: int = 0
    tokens: int = 0
    """Used on `day`."""
    requests: TokenBucket | None = field(init=False)

    def __post_init__(self) -> None:
        per_minute = self.limits.requests_per_minute
        self.requests = None if per_minute is None else TokenBucket(per_minute)

    def admit(self) -> None:
        """Count a request to generate. Raises `ApiFailure` (429) where there are too many, or too many tokens today."""
        now = self.clock()
        self._begin(now)
        limit = self.limits.tokens_per_day
        if limit is not None and self.tokens >= limit:
            message = f"This key may use {limit} tokens a day (UTC), and has."
            raise _too_many(message, "insufficient_quota", DAY - now % DAY)
        if self.requests is not None:
            wait = self.requests.wait(1, now)
            if wait > 0:
                message = f"This key may send {self.limits.requests_per_minute} requests a minute."
                raise _too_many(message, "rate_limit_exceeded", wait)
            self.requests.draw(1, now)

    def may_use(self, model: str) -> bool:
        """Whether the key is for this model too."""
        return not self.limits.models or model in self.limits.models

    def check_model(self, model: str) -> None:
        """Raises `ApiFailure` (404, as OpenAI) for a model that the key is not for."""
        if not self.may_use(model):
            message = f"The model {model[:100]!r} does not exist or you do not have access to it."
            raise ApiFailure(ApiError(404, message, param="model", code="model_not_found"))

    def count(self, tokens: int) -> None:
        """An answer took so many, its prompt counted."""
        self._begin(self.clock())
        self.tokens += tokens

    def _begin(self, now: float) -> None:
        if int(now // DAY) > self.day:
            self.day, self.tokens = int(now // DAY), 0


class KeyMeters:
    """The meters of the keys that have limits."""

    def __init__(self, limits: Mapping[str, KeyLimits]) -> None:
        self._meters = {key: KeyMeter(each) for key, each in limits.items() if each != UNLIMITED}

    def of(self, key: str) -> KeyMeter | None:
        return self._meters.get(key)


def _too_many(message: str, code: str, wait: float) -> ApiFailure:
    return ApiFailure(ApiError(429, message, "rate_limit_error", code=code, headers=retry_after(wait)))
