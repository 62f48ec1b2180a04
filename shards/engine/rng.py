"""The random number that chooses a token: a function of (seed, position), so that a replay repeats it."""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Words4 = tuple[int, int, int, int]


def philox4x32(counter: Words4, key: tuple[int, int]) -> Words4:
    """Philox4x32-10: four 32-bit words out of a 128-bit counter and a 64-bit key, both as 32-bit words.

    Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC'11).
    """
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left = _MULTIPLIERS[0] * a
        right = _MULTIPLIERS[1] * c
        a, b, c, d = (right >> 32) ^ b ^ k0, right & _MASK, (left >> 32) ^ d ^ k1, left & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return a, b, c, d


def uniform(seed: int, position: int) -> float:
    """The number of `position` in the stream of `seed`: uniform in [0, 1), a multiple of 2^-53.

    Both arguments are unsigned 64-bit integers. Raises `ValueError` when they are not.
    """
    if not 0 <= seed < 1 << 64 or not 0 <= position < 1 << 64:
        raise ValueError(f"seed and position must be unsigned 64-bit integers, got {seed} and {position}")
    counter = (position & _MASK, position >> 32, 0, 0)
    high, low, _, _ = philox4x32(counter, (seed & _MASK, seed >> 32))
    return ((high >> 5) * (1 << 26) + (low >> 6)) / (1 << 53)
