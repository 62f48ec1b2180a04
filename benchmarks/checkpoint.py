"""Random Llama checkpoints of a given size for benchmarks: speed does not depend on what the weights have learned."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from shards.checkpoint.source import resolve


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of a benchmark model."""

    hidden: int
    intermediate: int
    blocks: int
    heads: int
    kv_heads: int
    vocab: int
    context: int = 2048


SIZES = {
    "smoke": Size(hidden=64, intermediate=160, blocks=4, heads=4, kv_heads=2, vocab=2048),
    "small": Size(hidden=512, intermediate=1408, blocks=8, heads=8, kv_heads=4, vocab=8192),
    "medium": Size(hidden=1024, intermediate=2816, blocks=12, heads=16, kv_heads=8, vocab=32000),
}


def write_checkpoint(folder: Path, size: Size) -> Path:
    """A float32 Llama with random weights and the shipped model's tokenizer; returns `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        vocab_size=size.vocab,
        max_position_embeddings=size.context,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(resolve("tiny-python") / name, folder / name)
    return folder
