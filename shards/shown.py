"""Values from strangers in error messages: short, and never a recursion as deep as the stranger likes (pure)."""

from __future__ import annotations

from reprlib import Repr
from typing import Final

_SHORT: Final = Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_MOST: Final = 120


def shown(value: object) -> str:
    """`repr(value)`, cut off in length, width and depth."""
    return _SHORT.repr(value)[:_MOST]
