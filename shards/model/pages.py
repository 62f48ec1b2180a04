"""The stage's memory for keys and values: one pool of pages of `PAGE` tokens, shared by all sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shards.errors import CapacityExceeded
from shards.model.paging import PAGE
from shards.model.paging import pages_for as pages_for


@dataclass(frozen=True, slots=True)
class Slots:
    """Where new tokens go: for each of them its page and its place in the page, int64 [n]."""

    page: torch.Tensor
    offset: torch.Tensor


class PagePool:
    """Keys [blocks, pages, kv_heads, head_dim, PAGE] and values [blocks, pages, kv_heads, PAGE, head_dim].

    In a page of keys the positions of one number of a head lie beside each other, so that scores are sums of
    vectors of positions; in a page of values the numbers of one position do. On a CPU the operating system backs
    a part of the pool only once it is written, so the whole of it is taken at the start. What a page held before
    stays in it: nobody may read past the tokens of his session. Raises `CapacityExceeded` without room.
    """

    def __init__(
        self,
        n_blocks: int,
        pages: int,
        *,
        n_kv_heads: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        if pages < 0:
            raise CapacityExceeded(f"a pool cannot have {pages} pages")
        self.pages = pages
        try:
            self.keys = torch.empty(n_blocks, pages, n_kv_heads, head_dim, PAGE, device=device, dtype=dtype)
            self.values = torch.empty(n_blocks, pages, n_kv_heads, PAGE, head_dim, device=device, dtype=dtype)
        except RuntimeError as error:  # torch's out-of-memory errors
            raise CapacityExceeded(f"no room for {pages} pages of {n_blocks} blocks: {error}") from error

    def slots(self, tables: Sequence[torch.Tensor], starts: Sequence[int], sizes: Sequence[int]) -> Slots:
        """The slots of `sizes` tokens from `starts` on in the page tables of as many sessions, one after another."""
        pages, offsets = [], []
        for table, start, size in zip(tables, starts, sizes, strict=True):
            positions = torch.arange(start, start + size, device=table.device)
            pages.append(table[positions // PAGE])
            offsets.append(positions % PAGE)
        return Slots(torch.cat(pages), torch.cat(offsets))

    def write(self, block: int, slots: Slots, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put `keys` and `values` [n, kv_heads, head_dim] of the pool's block number `block` into their slots."""
        self.keys[block][slots.page, :, :, slots.offset] = keys
        self.values[block][slots.page, :, slots.offset] = values

    def read(self, block: int, table: torch.Tensor, first: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of a session's keys and values at positions `[first, end)`, each [kv_heads, end - first, head_dim]."""
        low = first // PAGE
        pages = table[low : pages_for(end)]
        held = slice(first - low * PAGE, end - low * PAGE)
        keys = self.keys[block].index_select(0, pages).permute(1, 0, 3, 2).flatten(1, 2)
        values = self.values[block].index_select(0, pages).transpose(0, 1).flatten(1, 2)
        return keys[:, held], values[:, held]

    def read_many(self, block: int, tables: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of the keys and values in pages [sessions, n], each [sessions, kv_heads, n * PAGE, head_dim].

        Zero where `mask` [sessions, 1, 1, n * PAGE] is false: what others left there may not be finite, and would get
        through attention's own mask.
        """
        unseen = ~mask.transpose(2, 3)
        keys = self.keys[block][tables].permute(0, 2, 1, 4, 3).flatten(2, 3)
        values = self.values[block][tables].transpose(1, 2).flatten(2, 3)
        return keys.masked_fill(unseen, 0), values.masked_fill(unseen, 0)
