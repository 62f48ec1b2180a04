"""Exponentials in binary fixed point: integers only, so every machine computes the same wei.

`exp_neg(p, q)` is e^(−p/q) in units of 2^−192. Its error is below 2^−180: the constant ln 2 is given to 256 bits, the
argument is reduced to [0, ln 2) and the Taylor series of e^−r, of some 60 terms, is cut where terms vanish; each
step floors at 2^−256. A result scaled by T < 2^100 wei is therefore within 2^−80 wei before it is rounded.
"""

from __future__ import annotations

from typing import Final

ONE_BITS: Final = 192
ONE: Final = 1 << ONE_BITS
"""1 in the fixed-point format of results."""

_BITS: Final = 256
_UNIT: Final = 1 << _BITS
# floor(ln 2 · 2^256), from ln 2 = Σ 1 ÷ (k · 2^k), summed below with 64 guard bits.
_GUARD: Final = 64


def _ln2() -> int:
    unit = 1 << (_BITS + _GUARD)
    total, k = 0, 1
    while (term := (unit >> k) // k) > 0:
        total, k = total + term, k + 1
    return total >> _GUARD


LN2: Final = _ln2()
"""ln 2 in units of 2^−256; the sum drops fewer than 320 units of 2^−320, so it is exact but for the last bit."""


def exp_neg(numerator: int, denominator: int) -> int:
    """e^(−numerator ÷ denominator) in units of 2^−192, floored, for a non-negative argument.

    Raises:
        ValueError: the argument is negative or the denominator not positive.
    """
    if numerator < 0 or denominator <= 0:
        raise ValueError("the exponent −p/q needs p ≥ 0 and q > 0")
    return _exp_neg((numerator << _BITS) // denominator)


def exp2_neg(numerator: int, denominator: int) -> int:
    """2^(−numerator ÷ denominator) in units of 2^−192; exact where the exponent is whole. The same errors as `exp_neg`.

    Raises:
        ValueError: the argument is negative or the denominator not positive.
    """
    if numerator < 0 or denominator <= 0:
        raise ValueError("the exponent −p/q needs p ≥ 0 and q > 0")
    whole, rest = divmod(numerator, denominator)
    return _exp_neg(LN2 * rest // denominator) >> whole if whole <= ONE_BITS else 0


def _exp_neg(x: int) -> int:
    """e^−x for x in units of 2^−256."""
    halvings, r = divmod(x, LN2)
    total = term = _UNIT
    k = 1
    while term:
        term = (term * r >> _BITS) // k
        total += -term if k % 2 else term
        k += 1
    return total >> (halvings + _BITS - ONE_BITS)
