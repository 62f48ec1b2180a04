"""Attention step by step, for what torch's own attention does not do: capped scores, and sinks.

A sink is a learned number of each head that scores compete with, and that leads to no value. Sources: OpenAI,
"gpt-oss-120b & gpt-oss-20b Model Card" (2025), after Xiao et al., "Efficient Streaming Language Models with Attention
Sinks" (2023).
"""

from __future__ import annotations

import torch

_ROWS_AT_ONCE = 64
"""Whose scores are kept: they take four bytes for each head and position."""


def attend_plainly(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scale: float,
    cap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """`query` [..., kv_heads, group, n, dim] over `keys` and `values` [..., kv_heads, length, dim]; as `query`.

    Scores are multiplied by `scale`, and with a `cap` s they become s * tanh(score / s). `mask`, true where a row may
    look, broadcasts over scores [..., kv_heads, group, n, length]; `sinks` are [kv_heads, group].
    """
    *outer, group, n, dim = query.shape
    found = []
    for first in range(0, n, _ROWS_AT_ONCE):
        some = query[..., first : first + _ROWS_AT_ONCE, :]
        rows = some.shape[-2]
        scores = (some.reshape(*outer, group * rows, dim) @ keys.transpose(-1, -2)).float().mul_(scale)
        if cap is not None:
            scores = scores.div_(cap).tanh_().mul_(cap)
        scores = scores.view(*outer, group, rows, -1)
        if mask is not None:
            own = mask if mask.shape[-2] == 1 else mask[..., first : first + _ROWS_AT_ONCE, :]
            scores.masked_fill_(~own, -torch.inf)
        if sinks is None:
            weights = scores.softmax(dim=-1)
        else:
            each = sinks.float()[..., None, None].expand(*scores.shape[:-1], 1)
            weights = torch.cat((scores, each), dim=-1).softmax(dim=-1)[..., :-1]
        mixed = weights.to(values.dtype).reshape(*outer, group * rows, -1) @ values
        found.append(mixed.view(*outer, group, rows, dim))
    return torch.cat(found, dim=-2)
