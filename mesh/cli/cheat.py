"""What `mesh demo --with-cheat` starts beside honest providers: one whose blocks compute something else.

    python -m mesh.cli.cheat join …

All else of it is the software that there is: it registers, stakes, claims its work and signs records of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from mesh.cli.main import app
from mesh.provider import join
from shards.model import loading
from shards.model.stage import Piece, StageModel

NOISE: Final = 1e-2
"""Beside each number that its blocks give: as if its weights were another model's, or rounded too far."""


def spoilt(model: StageModel) -> StageModel:
    """The model, whose passes come to something else."""
    forward = model.forward

    def wrong(pieces: Sequence[Piece]) -> list[torch.Tensor]:
        return [rows * (1 + NOISE * torch.randn_like(rows)) for rows in forward(pieces)]

    model.forward = wrong  # type: ignore[method-assign]
    return model


def main() -> None:
    """Run a command as `mesh` would."""
    load = loading.load_stage

    def load_spoilt(*arguments: Any, **options: Any) -> StageModel:
        return spoilt(load(*arguments, **options))

    vars(join)["load_stage"] = load_spoilt
    app()


if __name__ == "__main__":
    main()
