"""Running a span with transformers' modelling code: any sub-span, session by session."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from shards.adapter.cache import AdapterCache, CacheShape
from shards.adapter.skeleton import THEIR_ERRORS, Family, parent_of
from shards.errors import BadActivation, CapacityExceeded, UnsupportedModel
from shards.model.span import Span
from shards.model.spec import ModelSpec
from shards.model.stage import PAGE, LogitsMode, Piece

_PROBE_TOKENS = 2


class AdapterStage:
    """A `StageModel` over a loaded transformers model.

    The model's own forward does everything around the blocks (masks, positions, ALiBi); where the span does
    not begin at block 0, hidden states take the place of what it hands to the first own block. Blocks keep
    their number in the whole model. Pieces run one after the other, each with a cache of its session's own: what
    transformers' code takes is no page, so pages only count what a session may hold. Not safe for several threads: the
    engine's thread owns it.
    """

    def __init__(
        self, spec: ModelSpec, family: Family, span: Span, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.spec = spec
        self.span = span
        self.device = device
        self.dtype = dtype
        self._family = family
        self._base = parent_of(family.model, family.base_path)
        self._blocks: dict[int, nn.Module] = {block: getattr(self._base, family.list_name)[block] for block in span}
        self._views: dict[Span, tuple[Any, Any]] = {}
        self._base_takes = set(inspect.signature(type(self._base).forward).parameters)
        self._model_takes = set(inspect.signature(type(family.model).forward).parameters)
        self._given: torch.Tensor | None = None
        self._got: torch.Tensor | None = None
        for module in self._blocks.values():
            module.register_forward_pre_hook(self._before_block, with_kwargs=True)
            module.register_forward_hook(self._after_block)
        self.longest = min(spec.context_length, family.longest or spec.context_length)
        self.numerics = f"{str(dtype).removeprefix('torch.')}/{device.type}/transformers"
        self.shares_pages = False
        self._caches: dict[int, AdapterCache] = {}
        self._shapes = self._probe()
        self.page_bytes = PAGE * sum(self._shapes[block].width for block in span) * dtype.itemsize

    def allocate(self, pages: int) -> None:
        """Forget every session; memory is taken as they grow, as much as their pages stand for."""
        self._caches.clear()

    def cut(self, sequence: int, length: int) -> None:
        """Raises `BadActivation` where the session is shorter."""
        cache = self._caches.get(sequence)
        if cache is not None:
            cache.truncate(length)
        elif length:
            raise BadActivation(f"cannot cut a session of 0 tokens at {length}")

    def forget(self, sequence: int) -> None:
        self._caches.pop(sequence, None)

    @torch.inference_mode()
    def forward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        """One pass over a micro-batch (see `StageModel.forward`).

        Raises `BadActivation` when a piece does not fit its session or its input is malformed, and
        `CapacityExceeded` when it is longer than its pages; then no session holds more.
        """
        if not pieces:
            return []
        span = pieces[0].span
        lengths = [self._check(piece, span) for piece in pieces]
        if len({piece.sequence for piece in pieces}) != len(pieces):
            raise BadActivation("a session has two pieces in one micro-batch")
        inputs = [self._input(piece, span) for piece in pieces]
        caches = [self._grown(piece) for piece in pieces]
        results = [
            self._run(cache, value, piece.want) for cache, value, piece in zip(caches, inputs, pieces, strict=True)
        ]
        for cache, value, length in zip(caches, inputs, lengths, strict=True):
            cache.advance(length + value.shape[0])
        return results

    def _check(self, piece: Piece, span: Span) -> int:
        """How many tokens the session holds."""
        cache = self._caches.get(piece.sequence)
        held = piece.span if cache is None else cache.span
        if piece.span != span or held != span or not self.span.covers(span):
            raise BadActivation(f"blocks {piece.span} in a micro-batch over {span} on a stage of {self.span}")
        length = 0 if cache is None else cache.length
        if piece.start != length:
            raise BadActivation(f"tokens from position {piece.start}, but the session holds {length}")
        return length

    def _grown(self, piece: Piece) -> AdapterCache:
        """The session's cache, with room for what its pages stand for."""
        capacity = min(self.longest, len(piece.pages) * PAGE)
        cache = self._caches.get(piece.sequence)
        if cache is None:
            cache = self._caches[piece.sequence] = self._cache(piece.span, capacity, self._shapes)
        else:
            cache.reserve(capacity)
        return cache

    def _input(self, piece: Piece, span: Span) -> torch.Tensor:
        """The piece's token ids [n] or hidden states [n, hidden_size], checked and on the device."""
        if span.start == 0:
            value = piece.tokens
            if piece.hidden is not None or value is None or value.ndim != 1 or value.dtype != torch.int64:
                raise BadActivation("the first stage takes a row of int64 token ids")
        else:
            value = piece.hidden
            width = self.spec.hidden_size
            if (
                piece.tokens is not None
                or value is None
                or value.ndim != 2
                or value.shape[1] != width
                or not value.is_floating_point()
            ):
                raise BadActivation(f"this stage takes hidden states [n, {width}]")
        n = value.shape[0]
        if not n:
            raise BadActivation("a piece has no tokens")
        if piece.start + n > min(self.longest, len(piece.pages) * PAGE):
            raise CapacityExceeded(
                f"{piece.start} + {n} tokens exceed {len(piece.pages)} pages, or the model's {self.longest} tokens"
            )
        if span.start:
            return value.to(device=self.device, dtype=self.dtype)
        low, high = (int(bound) for bound in value.aminmax())
        if low < 0 or high >= self.spec.vocab_size:
            wrong = low if low < 0 else high
            raise BadActivation(f"token id {wrong} is not in a vocabulary of {self.spec.vocab_size}")
        return value.to(self.device)

    def _run(self, cache: AdapterCache, value: torch.Tensor, want: LogitsMode) -> torch.Tensor:
        base, model = self._view(cache.span)
        n, start = value.shape[0], cache.length
        positions = torch.arange(start, start + n, device=self.device).unsqueeze(0)
        settings: dict[str, Any] = {"past_key_values": cache.attached, "use_cache": True}
        first = cache.span.start == 0
        settings["input_ids" if first else "inputs_embeds"] = value.unsqueeze(0)
        self._given = None if first else value.unsqueeze(0)
        last = cache.span.end == self.spec.n_blocks
        try:
            if last and want is not LogitsMode.NOTHING:
                if "position_ids" in self._model_takes:
                    settings["position_ids"] = positions
                if "logits_to_keep" in self._model_takes:
                    settings["logits_to_keep"] = 1 if want is LogitsMode.LAST else 0
                logits: torch.Tensor = model(**settings).logits[0]
                return logits[-1:].float() if want is LogitsMode.LAST else logits.float()
            if "position_ids" in self._base_takes:
                settings["position_ids"] = positions
            base(**settings)
            hidden = self._got
        finally:
            self._given = self._got = None
        if last:
            return torch.empty(0, self.spec.vocab_size, device=self.device)
        if hidden is None or hidden.shape != (1, n, self.spec.hidden_size):
            raise UnsupportedModel(f"the blocks of {self.spec.model_type} do not hand on hidden states")
        return hidden[0]

    def _before_block(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # The first block to run after `_run` set it takes the stage's input instead of its own.
        if self._given is None:
            return None
        given, self._given = self._given, None
        if args:
            return (given, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": given}

    def _after_block(self, _: nn.Module, __: object, output: Any) -> None:
        self._got = output[0] if isinstance(output, tuple) else output

    def _view(self, span: Span) -> tuple[Any, Any]:
        """The decoder and the model around it, with only `span`'s blocks; all other modules are shared."""
        if span not in self._views:
            base = _copy(self._base, self._family.list_name, nn.ModuleList(self._blocks[block] for block in span))
            base.config = self._config(span)
            model, path = base, self._family.base_path
            for depth in reversed(range(len(path))):
                model = _copy(parent_of(self._family.model, path[:depth]), path[depth], model)
            self._views[span] = base, model
        return self._views[span]

    def _config(self, span: Span) -> Any:
        """The decoder's config with its lists per block cut to `span`, since it counts its blocks from 0."""
        config = copy.copy(self._base.config)
        for name, value in list(vars(config).items()):
            if "layer" in name and isinstance(value, (list, tuple)) and len(value) == self.spec.n_blocks:
                vars(config)[name] = value[span.start : span.end]
        return config

    def _cache(self, span: Span, capacity: int, shapes: dict[int, CacheShape] | None) -> AdapterCache:
        return AdapterCache(
            span,
            capacity,
            n_blocks=self.spec.n_blocks,
            device=self.device,
            dtype=self.dtype,
            shapes=shapes,
        )

    @torch.inference_mode()
    def _probe(self) -> dict[int, CacheShape]:
        """Run a few tokens to learn what a block caches, and whether the model can be run in stages at all."""
        cache = self._cache(self.span, _PROBE_TOKENS, None)
        if self.span.start == 0:
            value = torch.zeros(_PROBE_TOKENS, dtype=torch.int64, device=self.device)
        else:
            value = torch.ones(_PROBE_TOKENS, self.spec.hidden_size, device=self.device, dtype=self.dtype)
        try:
            self._run(cache, value, LogitsMode.LAST)
        except THEIR_ERRORS as error:
            raise UnsupportedModel(f"{self.spec.model_type} does not run as a stage: {error}") from error
        if set(cache.shapes) != set(self.span):
            raise UnsupportedModel(f"not every block of this {self.spec.model_type} model caches keys and values")
        return cache.shapes


def _copy(module: Any, name: str, child: nn.Module) -> Any:
    """`module` with another child of that name; all else is shared."""
    copied = copy.copy(module)
    copied._modules = {**module._modules, name: child}
    return copied
