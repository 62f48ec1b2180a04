"""Amounts: integers of wei inside, decimal FUNC for people. Nothing here rounds silently.

1 FUNC = 10^18 wei; the native coin that pays gas has the same 18 decimals.
"""

from __future__ import annotations

import re

from chain.errors import InvalidArgument

DECIMALS = 18
WEI_PER_FUNC = 10**DECIMALS
MAX_AMOUNT = 2**128 - 1
"""Amounts are `uint128` in the contracts' storage."""

MAX_WRITTEN = 100
"""More characters than any amount needs; Python itself reads no integer of thousands of digits."""

_DECIMAL = re.compile(r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.(?P<part>[0-9]+))?", re.ASCII)
_UNITS = {"": DECIMALS, "func": DECIMALS, "gwei": 9, "wei": 0}


def parse_func(text: str, *, allow_zero: bool = False) -> int:
    """Wei from `12`, `0.5`, `1,000.25`, `1.5 FUNC`, `3gwei` or `250 wei`.

    Strict: no sign, no exponent, no more than 18 decimals (none for wei), nothing above `MAX_AMOUNT`.
    Raises `InvalidArgument`.
    """
    written = text.strip()
    match = _DECIMAL.match(written)
    unit = written[match.end() :].strip().lower() if match else ""
    if match is None or unit not in _UNITS:
        raise InvalidArgument(
            f"an amount is written like 12, 0.5 or 250wei (FUNC if no unit is given), got {text!r}", argument="amount"
        )
    if len(written) > MAX_WRITTEN:
        raise InvalidArgument(f"an amount of {len(written)} characters is none", argument="amount")
    decimals = _UNITS[unit]
    part = match["part"] or ""
    if len(part.rstrip("0")) > decimals:
        raise InvalidArgument(f"{text!r} has more than {decimals} decimals", argument="amount")
    amount = int(match["whole"].replace(",", "")) * 10**decimals + int(part[:decimals].ljust(decimals, "0") or "0")
    return check_amount(amount, allow_zero=allow_zero)


def check_amount(amount: int, *, allow_zero: bool = False, name: str = "amount") -> int:
    """The same amount, if it is an integer within bounds. Raises `InvalidArgument` (floats are refused)."""
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise InvalidArgument(f"{name} must be an integer number of wei, got {amount!r}", argument=name)
    if amount < 0 or (amount == 0 and not allow_zero):
        raise InvalidArgument(f"{name} must be positive, got {amount}", argument=name)
    if amount > MAX_AMOUNT:
        raise InvalidArgument(f"{name} is larger than 2^128 - 1 wei", argument=name)
    return amount


def format_func(wei: int, *, decimals: int | None = None) -> str:
    """Exact decimal FUNC, as `1,234.5`. With `decimals`, cut off (towards zero) after so many and marked by `…`."""
    sign = "-" if wei < 0 else ""
    whole, part = divmod(abs(wei), WEI_PER_FUNC)
    digits = f"{part:0{DECIMALS}d}".rstrip("0")
    if decimals is not None and len(digits) > decimals:
        kept = digits[:decimals].rstrip("0") if decimals else ""
        return f"{sign}{whole:,}{'.' + kept if kept else ''}…"
    return f"{sign}{whole:,}{'.' + digits if digits else ''}"
