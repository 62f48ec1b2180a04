"""JSON from strangers: parsed without ever exhausting the C stack.

`json.loads` relies on Python's recursion limit to stop deep nesting. Some libraries (py_ecc, which py-evm imports)
raise that limit to 100,000, and then a hundred thousand `[` end the process with a segmentation fault.
"""

from __future__ import annotations

import json
import re
from reprlib import Repr
from typing import Any, Final

SAFE_DEPTH = 5_000
"""Nesting that fits the stack of any thread by far."""
MOST_DEPTH = 64
"""Nesting that we accept of documents with more brackets than that."""
_SHORT: Final = Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_NO_BRACKETS = re.compile(rb"[^\[\]{}]+")


def parse(raw: bytes) -> Any:
    """The value. Raises ValueError for what is not JSON, not UTF-8, or nested too deeply."""
    if raw.count(b"[") + raw.count(b"{") > SAFE_DEPTH:
        # Each round takes away the innermost level. Brackets inside strings can only make us refuse more.
        left = _NO_BRACKETS.sub(b"", raw)
        for _ in range(MOST_DEPTH):
            left = left.replace(b"[]", b"").replace(b"{}", b"")
        if len(left) > SAFE_DEPTH:
            raise ValueError("nested too deeply")
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def shown(value: object) -> str:
    """A stranger's value for an error message: cut off in length, width and depth."""
    return _SHORT.repr(value)[:120]
