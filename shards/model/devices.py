"""Which torch device to use when the operator left it open."""

from __future__ import annotations

import torch


def choose_device(asked: str) -> str:
    """`auto` becomes cuda where torch sees one, then mps, else cpu; anything else stays as it is."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
