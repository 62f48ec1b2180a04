"""Attention of one session's new tokens over its cache, with grouped heads and sliding windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True, slots=True)
class AttentionWindow:
    """Which cached positions `n` new tokens see: those in `[first, end)`, narrowed by causality or a mask.

    `mask` is bool [n, end - first], true where a token may look; None where `causal` or everything is seen.
    """

    n: int
    first: int
    end: int
    causal: bool
    mask: torch.Tensor | None


def window_of(start: int, n: int, window: int | None, device: torch.device) -> AttentionWindow:
    """What tokens at positions `start, …, start + n - 1` see: themselves, and `window - 1` or all before."""
    end = start + n
    first = 0 if window is None else max(0, start + 1 - window)
    if n == 1:
        return AttentionWindow(n, first, end, causal=False, mask=None)
    if start == 0 and (window is None or n <= window):
        return AttentionWindow(n, first, end, causal=True, mask=None)
    queries = torch.arange(start, end, device=device)[:, None]
    keys = torch.arange(first, end, device=device)[None, :]
    mask = keys <= queries
    if window is not None:
        mask &= keys > queries - window
    return AttentionWindow(n, first, end, causal=False, mask=mask)


def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: AttentionWindow) -> torch.Tensor:
    """Attention of `query` [n, heads, head_dim] over the window's `keys` and `values` [kv_heads, length, head_dim].

    Each key-value head serves heads / kv_heads consecutive heads (Ainslie et al., "GQA", 2023). Keys and
    values are not repeated: for one token the heads of a group take the place of query positions, for
    several the key-value heads take the batch's place. Returns [n, heads * head_dim].
    """
    n, heads, dim = query.shape
    kv_heads = keys.shape[0]
    if n == 1:
        grouped = query.view(1, kv_heads, heads // kv_heads, dim)
        return F.scaled_dot_product_attention(grouped, keys[None], values[None]).reshape(1, heads * dim)
    grouped = query.view(n, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3)
    shape = (kv_heads, heads // kv_heads, window.end - window.first, dim)
    result = F.scaled_dot_product_attention(
        grouped,
        keys[:, None].expand(shape),
        values[:, None].expand(shape),
        attn_mask=window.mask,
        is_causal=window.causal,
    )
    return result.permute(2, 0, 1, 3).reshape(n, heads * dim)
