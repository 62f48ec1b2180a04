"""Earlier responses that `previous_response_id` names: in memory only, few, small and not for long."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mesh.gateway.errors import ApiError, ApiFailure


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it was answered, and the chat's messages up to its end, without instructions."""

    asker: str
    body: dict[str, Any]
    messages: tuple[dict[str, Any], ...]
    size: int
    """Bytes that both take, about."""
    at: float


class ResponseStore:
    """At most `most` responses and `most_bytes`, each for `seconds`; the oldest go first."""

    def __init__(
        self,
        *,
        most: int = 1000,
        most_bytes: int = 64 << 20,
        seconds: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[str, StoredResponse] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()  # requests are prepared in threads

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, asker: str, body: dict[str, Any], messages: tuple[dict[str, Any], ...], size: int) -> None:
        """Keep one. One that is larger than all may be together is not kept."""
        if size > self._most_bytes:
            return
        with self._lock:
            self._kept[body["id"]] = StoredResponse(asker, body, messages, size, self._clock())
            self._bytes += size
            self._trim()

    def get(self, asker: str, id: str) -> StoredResponse:
        """One of this asker's. Raises `ApiFailure` (404): no other's is told from one that was never there."""
        with self._lock:
            self._trim()
            found = self._kept.get(id)
        if found is None or found.asker != asker:
            message = f"Response with id {id[:100]!r} not found: it is kept in memory for a while only."
            raise ApiFailure(ApiError(404, message, param="previous_response_id", code="previous_response_not_found"))
        return found

    def remove(self, asker: str, id: str) -> None:
        """Forget one of this asker's. Raises as `get`."""
        self.get(asker, id)
        with self._lock:
            found = self._kept.pop(id, None)
            self._bytes -= 0 if found is None else found.size

    def _trim(self) -> None:
        before = self._clock() - self._seconds
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if len(self._kept) <= self._most and self._bytes <= self._most_bytes and oldest.at >= before:
                return
            self._kept.popitem(last=False)
            self._bytes -= oldest.size
