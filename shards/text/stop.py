"""Stop strings in a text that arrives in pieces: emit what is safe, hold back what may become one."""

from __future__ import annotations

from collections.abc import Sequence

from shards.errors import InvalidSampling

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024


class StopStrings:
    """Cuts a text before its first stop string, however the text is chunked.

    First means: complete first (so that waiting for more text never changes the answer); of several that
    end at the same character the longest counts. Raises `InvalidSampling` when a stop string is empty or
    too long, or when there are too many.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if len(stops) > MAX_STOPS:
            raise InvalidSampling(f"at most {MAX_STOPS} stop strings, got {len(stops)}")
        for stop in stops:
            if not 0 < len(stop) <= MAX_STOP_CHARACTERS:
                raise InvalidSampling(f"a stop string has 1 to {MAX_STOP_CHARACTERS} characters, got {len(stop)}")
        self._stops = tuple(dict.fromkeys(stops))
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self._held = ""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, if one has."""
        return self._matched

    def push(self, text: str) -> tuple[str, bool]:
        """Text that may be shown now, and whether a stop string has been met (then nothing follows)."""
        if self._matched is not None:
            return "", True
        held = self._held + text
        found = [(place + len(stop), -len(stop), stop) for stop in self._stops if (place := held.find(stop)) >= 0]
        if found:
            end, _, self._matched = min(found)
            self._held = ""
            return held[: end - len(self._matched)], True
        keep = self._possible_beginning(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def flush(self) -> str:
        """What is still held back, when the text has ended without a stop string."""
        held, self._held = self._held, ""
        return held

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest suffix of `text` with which a stop string begins."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if text.startswith(tuple(stop[:length] for stop in self._stops if len(stop) > length), -length):
                return length
        return 0
