"""Forms over one model's tokens: tried in a child process, built once, and begun for each answer."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from shards.errors import InvalidGrammar, SandboxBreach, SandboxRefusal
from shards.grammar import limits
from shards.grammar.constraint import ConstraintKind
from shards.grammar.matcher import Matcher, TokenTable, token_table
from shards.sandbox.box import Sandbox
from shards.sandbox.limits import Call

if TYPE_CHECKING:
    from llguidance import LLMatcher

KEPT = 64
"""Forms that are kept built."""
LOOKERS = 2
"""Threads that find what may come next."""
SANDBOX = Sandbox("shards.grammar.inside")


class Forms:
    """Those of one model. Use as a context manager; its methods block, and may be called from any thread."""

    def __init__(self, read: Callable[[], tuple[Sequence[bytes], Sequence[int]]], vocab: int) -> None:
        """`read` gives the model's tokens by id, as bytes, and which are special; `vocab` is the width of its logits.
        It is called when the first form is asked for."""
        self._read = read
        self._vocab = vocab
        self._lock = threading.Lock()
        self._table: TokenTable | None = None
        self._built: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()
        self._box = SANDBOX.box(Call("nothing", (), limits.PROBE))
        self._pool = ThreadPoolExecutor(LOOKERS, "grammar")

    def close(self) -> None:
        """What is still looked for comes to nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._box.let_go()
        SANDBOX.rest()

    def begin(self, kind: ConstraintKind, text: str, begun: Sequence[int] = ()) -> Matcher:
        """An answer of this form, of which the tokens `begun` are there already.

        Raises `InvalidGrammar`; `CapacityExceeded` where too many others are tried at once.
        """
        with self._lock:
            found = self._built.get((kind, text))
            if found is not None:
                self._built.move_to_end((kind, text))
        if found is None:
            found = self._build(kind, text)
        matcher = Matcher(found.deep_copy(), self._loaded(), self._pool, json=kind == "json_schema")
        if begun:
            matcher.follow(begun)
        return matcher

    def _build(self, kind: ConstraintKind, text: str) -> LLMatcher:
        from shards.grammar import library  # imports llguidance

        try:
            self._box.call(Call("try", (kind, text), limits.PROBE))
        except SandboxRefusal as error:
            raise InvalidGrammar(str(error)) from error
        except SandboxBreach as error:
            raise InvalidGrammar("it is too complex: it takes too long, or too much memory, to follow") from error
        built = library.matcher(self._loaded().trie, kind, text)
        with self._lock:
            self._built[kind, text] = built
            while len(self._built) > KEPT:
                self._built.popitem(last=False)
        return built

    def _loaded(self) -> TokenTable:
        with self._lock:
            if self._table is None:
                from shards.grammar import library

                tokens, special = self._read()
                tokens = [*tokens[: self._vocab], *[b""] * (self._vocab - len(tokens))]
                trie = library.vocabulary(tokens, [token for token in special if token < self._vocab])
                self._table = token_table(trie, tokens)
            return self._table
