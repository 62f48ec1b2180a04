"""Which of a checkpoint's tensors a span needs, told from their names (no torch here)."""

from __future__ import annotations

import re
from collections.abc import Collection

from shards.model.span import Span

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_\w+(?<!embed_out)|embeddings?|wte|wpe|\w*word_embeddings\w*)\.")
_NOT_TEXT = re.compile(r"(?:^|\.)(?:vision|visual|audio|image|multi_modal|mm)(?:_\w+)?\.")
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


def tensors_of(names: Collection[str], span: Span, n_blocks: int, *, tied: bool) -> list[str]:
    """The names among `names` that a stage over `span` of `n_blocks` blocks reads, in their given order.

    The first span also needs the embedding, the last one the final norm and the head (`tied`: or, where
    there is no head of its own, the embedding). A tensor of unknown purpose outside the blocks goes to
    both ends. Vision and audio towers go nowhere: only text is served.
    """
    first, last = span.start == 0, span.end == n_blocks
    embedding_as_head = tied or not any(is_head(name) for name in names)

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
