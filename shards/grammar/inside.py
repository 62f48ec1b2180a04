"""A stranger's form tried in a child process: built, and gone some way through, before it is built where we serve.

Deep grammars end the process that builds them, and a few regular expressions take minutes; here neither matters.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

from shards.errors import InvalidGrammar
from shards.grammar import library, limits
from shards.grammar.constraint import KINDS

_TRIE = library.vocabulary([bytes([value]) for value in range(256)])


def new_operations() -> Mapping[str, Callable[..., Any]]:
    """What a fresh worker can do."""
    return {"try": _try, "nothing": lambda: None}


def _try(kind: str, text: str) -> None:
    """Raises `InvalidGrammar`; is killed when it takes too long."""
    signal.setitimer(signal.ITIMER_PROF, limits.PROBE_SECONDS)  # finer than the sandbox's own limit, of whole seconds
    try:
        _on_small_stack(lambda: _walk(kind, text))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _walk(kind: str, text: str) -> None:
    """Through the middle of what is allowed: ends and repetitions are tried beside texts of any characters."""
    (known,) = [each for each in KINDS if each == kind]
    matcher = library.matcher(_TRIE, known, text)
    for number in range(limits.PROBE_STEPS):
        mask = matcher.compute_bitmask()
        if matcher.is_error():
            raise InvalidGrammar(library.words(matcher.get_error()))
        allowed = [token for token in range(256) if mask[token >> 3] >> (token & 7) & 1]
        if not allowed:
            if number == 0 and not matcher.is_accepting():
                raise InvalidGrammar("there is no text of this form")
            return
        if not matcher.consume_token(allowed[len(allowed) * (number % 3 + 1) // 4]):
            raise InvalidGrammar(library.words(matcher.get_error()))


def _on_small_stack(call: Callable[[], None]) -> None:
    """Raises `InvalidGrammar`, also for what the library runs into by mistake."""
    failures = [InvalidGrammar("it cannot be built")]

    def run() -> None:
        try:
            call()
            failures.clear()
        except InvalidGrammar as error:
            failures[:] = [error]

    before = threading.stack_size(limits.PROBE_STACK)
    thread = threading.Thread(target=run)
    thread.start()
    threading.stack_size(before)
    thread.join()
    if failures:
        raise failures[0]
