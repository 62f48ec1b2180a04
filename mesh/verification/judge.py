"""Whether a hop gave the rows that its blocks give: the distance to a replay, and what of it is rounding (pure).

dRel = ‖Δp − Δv‖ ÷ ‖Δv‖ a position, where Δ is what the blocks add to a row: what went minus what came; for the first
blocks, which got tokens, all of what went. So a skipped block is far off however small its part of a row is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Outcome = Literal["exact", "within", "differs"]

TOLERANCES: Final = {"float32": (2e-5, 2e-4), "bfloat16": (3e-2, 1.5e-1), "float16": (4e-3, 2e-2)}
"""By wire dtype, what the median and the largest dRel of an honest replay stay below (`benchmarks.verification`)."""
SAME_BITS: Final = {"float32": (2e-6, 2e-5), "bfloat16": (5e-4, 5e-3), "float16": (6e-5, 6e-4)}
"""The same where both are of one profile that computes the same bits, and had the same root in the self-test."""
MARGINS: Final = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""By how many nats a token may be likelier than the one that was chosen: where logits nearly tie, rounding decides."""
SAME_MARGIN: Final = 1e-4


def tolerance(dtype: str, same: bool) -> tuple[float, float]:
    """What the honest stay below: median, largest."""
    return (SAME_BITS if same else TOLERANCES)[dtype]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a hop's rows are from a replay's."""

    median: float
    largest: float
    at: int
    """The position that is farthest off."""
    exact: bool


def as_floats(data: bytes | memoryview, count: int, dtype: str) -> Floats:
    """Rows [count, hidden] as float32. Raises `ValueError` where the bytes are not those of so many rows."""
    kind: Any = {"float32": "<f4", "bfloat16": "<u2", "float16": "<f2"}[dtype]
    rows = np.frombuffer(data, dtype=kind)
    if count < 1 or not rows.size or rows.size % count:
        raise ValueError(f"{len(data)} bytes are not {count} rows of {dtype}")
    if dtype == "bfloat16":
        rows = (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32).reshape(count, -1)


def distance(came: Floats | None, gave: Floats, replayed: Floats) -> Distance:
    """The distance between what a hop `gave` and what was `replayed` of what `came` (None: tokens)."""
    if gave.shape != replayed.shape:
        raise ValueError(f"rows {gave.shape} and {replayed.shape}")
    base = 0.0 if came is None else came.astype(np.float64)
    with np.errstate(all="ignore"):
        added = np.linalg.norm(replayed - base, axis=1)
        off = np.linalg.norm(gave.astype(np.float64) - replayed, axis=1)
        relative = np.nan_to_num(off / np.maximum(added, 1e-30), nan=1e30, posinf=1e30)
    worst = int(relative.argmax())
    exact = bool(np.array_equal(gave, replayed))
    return Distance(float(np.median(relative)), float(relative[worst]), worst, exact)


def outcome(found: Distance, dtype: str, *, same: bool) -> Outcome:
    """What a distance means, where both sides compute the `same` bits and where they do not."""
    if found.exact:
        return "exact"
    median, largest = tolerance(dtype, same)
    return "within" if found.median <= median and found.largest <= largest else "differs"
