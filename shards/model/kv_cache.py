"""One session's keys and values on one stage, in one contiguous tensor."""

from __future__ import annotations

import torch

from shards.errors import BadActivation, CapacityExceeded
from shards.model.span import Span


class ContiguousCache:
    """A `KVCache` of [blocks, 2, kv_heads, capacity, head_dim], reserved as a whole.

    On a CPU the operating system backs a page of it only once it is written. Raises `CapacityExceeded`
    when the device has no room.
    """

    def __init__(
        self,
        span: Span,
        capacity: int,
        *,
        n_kv_heads: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        if capacity < 1:
            raise CapacityExceeded(f"a cache needs room for at least one token, got {capacity}")
        self.span = span
        self.capacity = capacity
        self._length = 0
        shape = (len(span), 2, n_kv_heads, capacity, head_dim)
        try:
            self._data = torch.empty(shape, device=device, dtype=dtype)
        except RuntimeError as error:  # torch's out-of-memory errors
            raise CapacityExceeded(f"no room for {capacity} tokens of blocks {span}: {error}") from error

    @property
    def length(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        return self._data.nbytes

    def truncate(self, length: int) -> None:
        """Forget everything from `length` on. Raises `BadActivation` where the session is shorter."""
        if not 0 <= length <= self._length:
            raise BadActivation(f"cannot cut a session of {self._length} tokens at {length}")
        self._length = length

    def append(self, block: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Write `keys` and `values` [n, kv_heads, head_dim] of `block` from position `start`.

        Returns a view [2, kv_heads, start + n, head_dim]. The length moves only with `advance`, once all
        blocks are done, so that a pass that fails half-way leaves the session as it was.
        """
        held = self._data[block - self.span.start]
        end = start + keys.shape[0]
        held[0, :, start:end] = keys.transpose(0, 1)
        held[1, :, start:end] = values.transpose(0, 1)
        return held[:, :, :end]

    def advance(self, count: int) -> None:
        """Count `count` more tokens as held."""
        self._length += count
