"""One session's keys and values, in the shape of a transformers cache whose tokens can be taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from shards.errors import BadActivation, CapacityExceeded, UnsupportedModel
from shards.model.span import Span

GROWTH = 8
"""A session that outgrows its room gets an eighth more than it needs."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Heads and head dimension of one block's keys and of its values (some families' differ)."""

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int

    @property
    def width(self) -> int:
        """Numbers held per token."""
        return self.key_heads * self.key_dim + self.value_heads * self.value_dim


class AdapterCache:
    """The cache of `span`, read and written by transformers' modelling code through `attached`.

    All blocks keep every position, also those that attend to a window: the mask hides what lies outside,
    and any number of tokens can be taken back. `shapes` is by block; without it a block's tensors are made
    when it first writes. Raises `CapacityExceeded` when the device has no room.
    """

    def __init__(
        self,
        span: Span,
        capacity: int,
        *,
        n_blocks: int,
        device: torch.device,
        dtype: torch.dtype,
        shapes: Mapping[int, CacheShape] | None = None,
    ) -> None:
        if capacity < 1:
            raise CapacityExceeded(f"a cache needs room for at least one token, got {capacity}")
        self.span = span
        self.capacity = capacity
        self._length = 0
        self.layers = [CacheLayer(self, device, dtype) for _ in range(n_blocks)]
        """One per block of the whole model: modelling code finds its own by the block's number."""
        if shapes is not None:
            try:
                for block in span:
                    self.layers[block].reserve(shapes[block])
            except RuntimeError as error:  # torch's out-of-memory errors
                raise CapacityExceeded(f"no room for {capacity} tokens of blocks {span}: {error}") from error
        self.attached = _attach(self.layers)

    @property
    def length(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    @property
    def shapes(self) -> dict[int, CacheShape]:
        """The shapes of the blocks that have written."""
        return {block: layer.shape for block, layer in enumerate(self.layers) if layer.shape is not None}

    def truncate(self, length: int) -> None:
        """Forget everything from `length` on. Raises `BadActivation` where the session is shorter."""
        if not 0 <= length <= self._length:
            raise BadActivation(f"cannot cut a session of {self._length} tokens at {length}")
        self._length = length

    def advance(self, length: int) -> None:
        """Count `length` tokens as held: all blocks have written them."""
        self._length = length

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` tokens, and for some more so that the next ones copy nothing.

        Raises `CapacityExceeded` when the device has no room; what is held stays as it is.
        """
        if capacity <= self.capacity:
            return
        before, self.capacity = self.capacity, capacity + capacity // GROWTH
        try:
            for layer in self.layers:
                layer.grow()
        except RuntimeError as error:  # torch's out-of-memory errors
            self.capacity = before
            raise CapacityExceeded(f"no room for {capacity} tokens of blocks {self.span}: {error}") from error


class CacheLayer:
    """One block's part of an `AdapterCache`, with the interface of transformers' `CacheLayerMixin`.

    Its length is the session's, which moves once a pass is done: a pass that fails half-way leaves the
    session as it was.
    """

    is_compileable = False
    is_croppable = False
    is_sliding = False
    supports_early_init = False

    def __init__(self, session: AdapterCache, device: torch.device, dtype: torch.dtype) -> None:
        self._session = session
        self._device = device
        self._dtype = dtype
        self.shape: CacheShape | None = None
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    @property
    def is_initialized(self) -> bool:
        return self.keys is not None

    @property
    def nbytes(self) -> int:
        return sum(data.nbytes for data in (self.keys, self.values) if data is not None)

    def reserve(self, shape: CacheShape) -> None:
        """Make room for the session's capacity. On a CPU a page is backed only once it is written."""
        capacity = self._session.capacity
        options: dict[str, Any] = {"device": self._device, "dtype": self._dtype}
        self.keys = torch.empty(1, shape.key_heads, capacity, shape.key_dim, **options)
        self.values = torch.empty(1, shape.value_heads, capacity, shape.value_dim, **options)
        self.shape = shape

    def grow(self) -> None:
        """Copy keys and values to where there is room for the session's capacity."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self._wider(self.keys), self._wider(self.values)

    def _wider(self, data: torch.Tensor) -> torch.Tensor:
        _, heads, _, dim = data.shape
        room = data.new_empty(1, heads, self._session.capacity, dim)
        room[:, :, : self._session.length] = data[:, :, : self._session.length]
        return room

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values [1, heads, n, dim] after the session's tokens; returns all of them up to there."""
        if self.keys is None or self.values is None:
            if key_states.ndim != 4 or value_states.ndim != 4 or key_states.shape[2] != value_states.shape[2]:
                raise UnsupportedModel("its attention caches something other than keys and values per token")
            keys, values = key_states.shape, value_states.shape
            self.reserve(CacheShape(keys[1], keys[3], values[1], values[3]))
        assert self.keys is not None and self.values is not None  # reserved above
        begin = self._session.length
        end = begin + key_states.shape[2]
        self.keys[:, :, begin:end] = key_states
        self.values[:, :, begin:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self._session.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._session.length + query_length, 0

    def get_max_length(self) -> int:
        return self._session.capacity


def _attach(layers: list[CacheLayer]) -> Any:
    # transformers takes seconds to import: only a process that runs the adapter does.
    from transformers.cache_utils import Cache, CacheLayerMixin

    CacheLayerMixin.register(CacheLayer)
    return Cache(layers=layers)
