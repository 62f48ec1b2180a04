"""Attention whose scores compete with a learned number of each head besides, the sink, which leads to no value.

Source: OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card" (2025), after Xiao et al., "Efficient Streaming Language Models
with Attention Sinks" (2023).
"""

from __future__ import annotations

import torch

_ROWS_AT_ONCE = 64
"""Whose scores are kept: they take four bytes for each head and position."""


def attend_with_sinks(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, sinks: torch.Tensor
) -> torch.Tensor:
    """`query` [..., n, dim] over `keys` and `values` [..., length, dim]; returns [..., n, dim].

    `mask`, true where a row may look, broadcasts over [..., n, length], `sinks` over [..., n, 1].
    """
    rows = query.shape[-2]
    whole = mask is None or mask.shape[-2] == 1
    found = []
    for first in range(0, rows, _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        scores = (query[..., some, :] @ keys.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~(mask if whole else mask[..., some, :]), -torch.inf)
        each = sinks if sinks.shape[-2] == 1 else sinks[..., some, :]
        competing = torch.cat((scores, each.float().expand(*scores.shape[:-1], 1)), dim=-1)
        found.append(competing.softmax(dim=-1)[..., :-1].to(values.dtype) @ values)
    return torch.cat(found, dim=-2)
