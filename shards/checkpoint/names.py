"""Which of a checkpoint's tensors a span needs, told from their names (no torch here)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection

from shards.errors import CheckpointError
from shards.model.span import Span

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.")
_OWN_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.\w+$")
"""Not what stands before the head, such as `lm_head.dense.weight`."""
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_\w+(?<!embed_out)|embeddings?|wte|wpe|\w*word_embeddings\w*)\.")
_NOT_TEXT = re.compile(r"(?:^|\.)(?:vision|visual|audio|image|multi_modal|mm|connector)(?:_\w+)?\.")
_FINAL = re.compile(r"(?:^|\.)(?:norm|ln_f|final_layernorm|final_layer_norm|norm_f)\.")


def block_of(name: str) -> int | None:
    """The block that a tensor belongs to, or None for one outside the blocks."""
    if _NOT_TEXT.search(name):
        return None
    match = _BLOCK.search(name)
    return int(match[1]) if match else None


def is_embedding(name: str) -> bool:
    """True for a tensor that turns token ids into the first block's input."""
    return block_of(name) is None and not _NOT_TEXT.search(name) and bool(_EMBEDDING.search(name))


def is_head(name: str) -> bool:
    """True for a tensor that turns the final norm's output into logits."""
    return block_of(name) is None and not _NOT_TEXT.search(name) and bool(_HEAD.search(name))


def has_head(names: Collection[str]) -> bool:
    """True where a checkpoint of these tensors has a head of its own: then that counts, whatever its config says."""
    return any(_OWN_HEAD.search(name) for name in names)


def tensors_of(names: Collection[str], span: Span, n_blocks: int, *, with_head: bool | None = None) -> list[str]:
    """The names among `names` that a stage over `span` of `n_blocks` blocks reads, in their given order.

    The first span also needs the embedding, the last one the final norm and the head, or the embedding where the
    checkpoint has no head (`with_head`: whether it has, where `names` are not the checkpoint's). A tensor of unknown
    purpose outside the blocks goes to both ends. Vision and audio towers go nowhere: only text is served.
    Raises `CheckpointError` for a span that goes beyond the model.
    """
    if span.end > n_blocks:
        raise CheckpointError(f"blocks {span} are not all in a model of {n_blocks} blocks")
    first, last = span.start == 0, span.end == n_blocks
    embedding_as_head = not (has_head(names) if with_head is None else with_head)

    def needed(name: str) -> bool:
        block = block_of(name)
        if block is not None:
            return span.start <= block < span.end
        if _NOT_TEXT.search(name):
            return False
        if is_embedding(name):
            return first or (last and embedding_as_head)
        if is_head(name) or _FINAL.search(name):
            return last
        return first or last

    return [name for name in names if needed(name)]


def check_parts(names: Collection[str], n_blocks: int, *, alike: bool) -> None:
    """Whether tensors of these names can be a model of `n_blocks` blocks; `alike`: all of the same layers.

    Raises `CheckpointError` naming the block that is missing, or the layer of a block.
    """
    layers: defaultdict[int, set[str]] = defaultdict(set)
    for name in names:
        block = block_of(name)
        if block is not None and block < n_blocks:
            layers[block].add(_BLOCK.split(name)[-1].rpartition(".")[0])
    missing = set(range(n_blocks)) - layers.keys()
    if missing:
        raise CheckpointError(
            f"there are no tensors for block {min(missing)} of {n_blocks}: download the model again, all of its files"
        )
    every = set().union(*layers.values())
    for block in sorted(layers) if alike else ():
        absent = every - layers[block]
        if absent:
            raise CheckpointError(
                f"block {block} has no {min(absent)}, which other blocks have: download the model again"
            )
