"""Whether a family that nobody compared with its whole model stays itself when it is cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shards.adapter.stage import AdapterStage
from shards.errors import UnsupportedModel
from shards.model.paging import pages_for
from shards.model.span import Span
from shards.model.stage import LogitsMode, Piece

_PARTS = (3, 1, 2)
_TOLERANCE = {torch.float32: 1e-3}
_HALF_TOLERANCE = 0.1


@torch.inference_mode()
def check_cuts(stage: AdapterStage) -> None:
    """Run a few tokens at once and piece by piece, over the stage's span and over two halves of it.

    Raises `UnsupportedModel` where the results differ by more than rounding: then the modelling code carries
    something besides hidden states, keys and values, or cannot continue from a cache.
    """
    generator = torch.Generator().manual_seed(0)
    n = sum(_PARTS)
    if stage.span.start == 0:
        x = torch.randint(stage.spec.vocab_size, (n,), generator=generator)
    else:
        x = torch.randn(n, stage.spec.hidden_size, generator=generator).to(stage.dtype)
    expected = _run(stage, [stage.span], x, [n])
    routes = [[stage.span]]
    if len(stage.span) > 1:
        middle = (stage.span.start + stage.span.end) // 2
        routes.append([Span(stage.span.start, middle), Span(middle, stage.span.end)])
    for route in routes:
        difference = (_run(stage, route, x, _PARTS) - expected).norm() / expected.norm()
        if not bool(difference <= _TOLERANCE.get(stage.dtype, _HALF_TOLERANCE)):
            raise UnsupportedModel(
                f"{stage.spec.model_type} gives another result when it is cut (by {float(difference):.2g} of its size)"
            )


def _run(stage: AdapterStage, route: Sequence[Span], x: torch.Tensor, parts: Sequence[int]) -> torch.Tensor:
    pages = range(pages_for(x.shape[0]))
    results: list[torch.Tensor] = []
    start = 0
    for part in x.split(list(parts)):  # type: ignore[no-untyped-call]
        value = part
        for number, span in enumerate(route):
            given = {"tokens": value} if span.start == 0 else {"hidden": value}
            (value,) = stage.forward([Piece(number, span, pages, start, want=LogitsMode.ALL, **given)])
        results.append(value.float())
        start += part.shape[0]
    for number in range(len(route)):
        stage.forget(number)
    return torch.cat(results)
