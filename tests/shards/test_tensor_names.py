"""Which tensors a span needs, by name, in the naming of several model families."""

from __future__ import annotations

import pytest

from shards.checkpoint.names import block_of, check_parts, has_head, tensors_of
from shards.errors import CheckpointError
from shards.model.span import Span

LLAMA = [
    "model.embed_tokens.weight",
    *(f"model.layers.{block}.mlp.up_proj.weight" for block in range(12)),
    "model.norm.weight",
    "lm_head.weight",
]
GPT2 = ["wte.weight", "wpe.weight", *(f"h.{block}.attn.c_attn.weight" for block in range(3)), "ln_f.bias"]
BLOOM = [
    "word_embeddings.weight",
    "word_embeddings_layernorm.bias",
    *(f"h.{block}.mlp.dense_4h_to_h.weight" for block in range(3)),
    "ln_f.weight",
]
NEOX = ["gpt_neox.embed_in.weight", *(f"gpt_neox.layers.{b}.x" for b in range(3)), "embed_out.weight"]
GEMMA = [
    "language_model.model.embed_tokens.weight",
    *(f"language_model.model.layers.{block}.mlp.up_proj.weight" for block in range(3)),
    "language_model.model.norm.weight",
    "multi_modal_projector.mm_input_projection_weight",
    "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight",
]


@pytest.mark.parametrize(
    ("names", "n_blocks", "span", "expected"),
    [
        (LLAMA, 12, Span(0, 1), LLAMA[:2]),
        (LLAMA, 12, Span(1, 2), ["model.layers.1.mlp.up_proj.weight"]),
        (LLAMA, 12, Span(10, 12), LLAMA[11:]),
        (LLAMA, 12, Span(11, 12), LLAMA[12:]),
        (LLAMA[:-1], 12, Span(11, 12), [LLAMA[0], *LLAMA[12:-1]]),
        (LLAMA, 12, Span(0, 12), LLAMA),
        (GPT2, 3, Span(0, 1), GPT2[:3]),
        (GPT2, 3, Span(2, 3), [*GPT2[:2], *GPT2[4:]]),
        (BLOOM, 3, Span(0, 1), BLOOM[:3]),
        (BLOOM, 3, Span(2, 3), [*BLOOM[:2], *BLOOM[4:]]),
        (NEOX, 3, Span(0, 1), NEOX[:2]),
        (NEOX, 3, Span(2, 3), NEOX[3:]),
        (GEMMA, 3, Span(1, 2), [GEMMA[2]]),
        (GEMMA, 3, Span(0, 1), GEMMA[:2]),
        (GEMMA, 3, Span(2, 3), [GEMMA[0], *GEMMA[3:5]]),
        (["rotary.freqs", *LLAMA], 12, Span(0, 1), ["rotary.freqs", *LLAMA[:2]]),
        (["rotary.freqs", *LLAMA], 12, Span(4, 5), [LLAMA[5]]),
    ],
)
def test_a_span_needs_its_blocks_and_what_lies_at_its_ends(
    names: list[str], n_blocks: int, span: Span, expected: list[str]
) -> None:
    assert tensors_of(names, span, n_blocks) == expected


def test_a_block_is_told_from_a_similar_number() -> None:
    assert block_of("model.layers.1.x") == 1
    assert block_of("model.layers.11.x") == 11
    assert block_of("model.sublayers.1.x") is None
    assert block_of("model.layers.1") is None


def test_the_embedding_is_the_head_only_where_the_checkpoint_has_none() -> None:
    assert LLAMA[0] not in tensors_of(LLAMA, Span(11, 12), 12)
    assert LLAMA[0] in tensors_of(LLAMA, Span(11, 12), 12, with_head=False)
    assert not has_head(["lm_head.dense.weight", "lm_head.norm.weight"])
    assert has_head(["lm_head.weight"]) and has_head(["language_model.lm_head.qweight"])


def test_a_part_that_is_missing_is_named() -> None:
    check_parts(LLAMA, 12, alike=True)
    with pytest.raises(CheckpointError, match="block 12 of 13"):
        check_parts(LLAMA, 13, alike=True)
    more = [*LLAMA, "model.layers.3.mlp.down_proj.qweight"]
    check_parts(more, 12, alike=False)
    with pytest.raises(CheckpointError, match=r"block 0 has no mlp\.down_proj"):
        check_parts(more, 12, alike=True)
