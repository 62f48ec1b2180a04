"""Attention of new tokens over the cache, with grouped heads and sliding windows: of one session or of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from shards.model.paging import PAGE, pages_for
from shards.model.plain_attention import attend_plainly


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


def first_seen(position: int, window: int | None) -> int:
    """The first position that the token at `position` sees."""
    return 0 if window is None else max(0, position + 1 - window)


def window_of(start: int, n: int, window: int | None, device: torch.device) -> AttentionWindow:
    """What tokens at positions `start, …, start + n - 1` see: themselves, and `window - 1` or all before."""
    end = start + n
    first = first_seen(start, window)
    if start == 0 and (window is None or n <= window):
        return AttentionWindow(n, first, end, causal=True, mask=None)
    queries = torch.arange(start, end, device=device)[:, None]
    keys = torch.arange(first, end, device=device)[None, :]
    mask = keys <= queries
    if window is not None:
        mask &= keys > queries - window
    return AttentionWindow(n, first, end, causal=False, mask=mask)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: AttentionWindow,
    sinks: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> torch.Tensor:
    """Attention of `query` [n, heads, head_dim] over the window's `keys` and `values` [kv_heads, length, head_dim].

    Each key-value head serves heads / kv_heads consecutive heads (Ainslie et al., "GQA", 2023). Keys and values are
    not repeated: the key-value heads take the batch's place. Scores are multiplied by `scale`, or divided by the root
    of head_dim, and with a `cap` s they become s * tanh(score / s). `sinks` are [heads]. Returns [n, heads * head_dim].
    """
    n, heads, dim = query.shape
    kv_heads = keys.shape[0]
    grouped = query.view(n, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3)
    if cap is not None or sinks is not None:
        mask = window.mask
        if window.causal:
            mask = torch.ones(n, n, dtype=torch.bool, device=query.device).tril()
        own = None if sinks is None else sinks.view(kv_heads, -1)
        mixed = attend_plainly(grouped, keys, values, mask, scale=scale or dim**-0.5, cap=cap, sinks=own)
        return mixed.permute(2, 0, 1, 3).reshape(n, heads * dim)
    shape = (kv_heads, heads // kv_heads, window.end - window.first, dim)
    result = F.scaled_dot_product_attention(
        grouped,
        keys[:, None].expand(shape),
        values[:, None].expand(shape),
        attn_mask=window.mask,
        is_causal=window.causal,
        scale=scale,
    )
    return result.permute(2, 0, 1, 3).reshape(n, heads * dim)


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """Sessions with one new token each, whose windows are about as long: one call computes them all.

    `rows` are their rows in the pass, `tables` [sessions, pages] the pages of their windows, filled up with page 0;
    `mask` [sessions, 1, 1, pages * PAGE] is true where a token may look.
    """

    rows: torch.Tensor
    tables: torch.Tensor
    mask: torch.Tensor


def group_decodes(
    rows: Sequence[int],
    positions: Sequence[int],
    pages: Sequence[Sequence[int]],
    window: int | None,
    device: torch.device,
) -> list[DecodeRows]:
    """Groups of the sessions that have one new token each, in which no window has less than half of the pages."""
    groups: dict[int, list[int]] = {}
    lows = [first_seen(position, window) for position in positions]
    seen: list[Sequence[int]] = []
    for index, position in enumerate(positions):
        seen.append(pages[index][lows[index] // PAGE : pages_for(position + 1)])
        groups.setdefault((len(seen[index]) - 1).bit_length(), []).append(index)
    found = []
    for members in groups.values():
        most = max(len(seen[index]) for index in members)
        tables = torch.tensor([[*seen[index], *[0] * (most - len(seen[index]))] for index in members], device=device)
        first = torch.tensor([lows[index] % PAGE for index in members], device=device)
        end = first + torch.tensor([positions[index] + 1 - lows[index] for index in members], device=device)
        places = torch.arange(most * PAGE, device=device)
        mask = (places >= first[:, None]) & (places < end[:, None])
        found.append(DecodeRows(torch.tensor([rows[i] for i in members], device=device), tables, mask[:, None, None]))
    return found


def attend_decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    sinks: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> torch.Tensor:
    """Attention of one token of each session: `query` [sessions, heads, head_dim], `keys` and `values` [sessions,
    kv_heads, length, head_dim], `sinks`, `scale` and `cap` as for `attend`. The heads of a group take the place of
    query positions. Returns [sessions, heads * head_dim]."""
    sessions, heads, dim = query.shape
    grouped = query.view(sessions, keys.shape[1], heads // keys.shape[1], dim)
    if cap is not None or sinks is not None:
        own = None if sinks is None else sinks.view(keys.shape[1], -1)
        some = grouped.unsqueeze(3), keys, values, mask.unsqueeze(1)
        return attend_plainly(*some, scale=scale or dim**-0.5, cap=cap, sinks=own).reshape(sessions, heads * dim)
    return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale).reshape(
        sessions, heads * dim
    )
