"""Who has which page of a stage's memory, and which full pages can be used again (pure: numbers and bytes)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

KEY_BYTES = 16


def chain_root(*parts: str) -> bytes:
    """Where a chain of keys begins. Pages are shared only under the same root: it names the model's digest, how
    numbers are computed, the span, and the owner (the client and who hands its hidden states to us), so that nobody
    can see or spoil what was cached for another."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode()
        state.update(len(data).to_bytes(4, "little") + data)
    return state.digest()[:KEY_BYTES]


def chain_keys(root: bytes, contents: Iterable[bytes]) -> list[bytes]:
    """A key for each full page: a hash of the key before it and of what the page is made from."""
    keys: list[bytes] = []
    key = root
    for content in contents:
        key = hashlib.sha256(key + content).digest()[:KEY_BYTES]
        keys.append(key)
    return keys


def keys_under(root: bytes, keys: Iterable[bytes]) -> list[bytes]:
    """Keys that another has chained, each of which names all before it, under a root of ours."""
    return [hashlib.sha256(root + key).digest()[:KEY_BYTES] for key in keys]


class BlockManager:
    """Pages numbered 0 to `pages - 1`; each is free, held by sessions (counted), or cached and held by nobody.

    A cached page is found by its key. Cached pages that nobody holds are taken for new contents when no other is
    free, those first that were not used for longest, and of one chain the later pages before the earlier.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._fresh = 0
        """Pages from this number on were never used."""
        self._free: list[int] = []
        self._holders: dict[int, int] = {}
        self._by_key: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Cached pages without a holder, the longest unused first."""

    @property
    def available(self) -> int:
        """Pages that can be taken: free ones, and cached ones that nobody holds."""
        return self.pages - len(self._holders)

    @property
    def held(self) -> int:
        """Pages that sessions hold."""
        return len(self._holders)

    @property
    def cached(self) -> int:
        """Pages that can be found by a key, held or not."""
        return len(self._by_key)

    def take(self, count: int) -> list[int] | None:
        """So many pages for new contents; None, and nothing changes, where there are not enough."""
        if count > self.available:
            return None
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        elif self._fresh < self.pages:
            page = self._fresh
            self._fresh += 1
        else:
            page, _ = self._idle.popitem(last=False)
            del self._by_key[self._keys.pop(page)]
        self._holders[page] = 1
        return page

    def give(self, pages: Sequence[int]) -> None:
        """A session holds these pages, its table in order, no longer."""
        for page in reversed(pages):
            left = self._holders[page] - 1
            if left:
                self._holders[page] = left
                continue
            del self._holders[page]
            if page in self._keys:
                self._idle[page] = None
            else:
                self._free.append(page)

    def find(self, keys: Sequence[bytes]) -> int:
        """How many of the first keys have a page."""
        for count, key in enumerate(keys):
            if key not in self._by_key:
                return count
        return len(keys)

    def share(self, keys: Sequence[bytes]) -> list[int]:
        """Hold the pages of `keys`, all of which `find` has found."""
        pages = [self._by_key[key] for key in keys]
        for page in pages:
            self._idle.pop(page, None)
            self._holders[page] = self._holders.get(page, 0) + 1
        return pages

    def publish(self, page: int, key: bytes) -> None:
        """A page that its session holds is full and will not change: others may find it. The first of a key stays."""
        if key not in self._by_key and page not in self._keys:
            self._by_key[key] = page
            self._keys[page] = key

    def retract(self, page: int) -> bool:
        """The page's only session is about to change it: nobody finds it any more. False where others hold it too."""
        if self._holders[page] > 1:
            return False
        key = self._keys.pop(page, None)
        if key is not None:
            del self._by_key[key]
        return True
