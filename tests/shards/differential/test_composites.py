"""The text part of models that also see, written by transformers' own classes, against those classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import torch
import transformers

from shards.checkpoint.index import read_spec
from shards.model.loading import check_servable
from shards.model.span import Span
from tests.shards.adapter_models import scatter
from tests.shards.differential.compare import TOKENS, Refused, ours
from tests.shards.differential.families import N_BLOCKS, SMALL, WINDOW
from tests.shards.quiet import quiet

torch.set_num_threads(1)
_TEXT: Final[dict[str, Any]] = {
    name: SMALL[name]
    for name in (
        "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size",
        "head_dim", "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id",
    )
} | {"pad_token_id": 2}  # fmt: skip
_EYE: Final = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
COMPOSITES: Final[dict[str, dict[str, Any]]] = {
    "llava": {
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "clip_vision_model", **_EYE},
    },
    "mistral3": {
        "text_config": {"model_type": "mistral", **_TEXT, "sliding_window": WINDOW},
        "vision_config": {"model_type": "pixtral", **_EYE},
    },
    "gemma3": {
        "text_config": {**_TEXT, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2},
        "vision_config": {"model_type": "siglip_vision_model", **_EYE},
        "mm_tokens_per_image": 1,
    },
    "smolvlm": {"text_config": {"model_type": "llama", **_TEXT}, "vision_config": _EYE, "pad_token_id": 2},
    "idefics3": {"text_config": {"model_type": "llama", **_TEXT}, "vision_config": _EYE, "pad_token_id": 2},
}
COMPOSITES["gemma3"]["text_config"]["layer_types"].pop()


@pytest.mark.parametrize("kind", COMPOSITES)
def test_the_text_part_of_a_model_that_also_sees_says_the_same(tmp_path: Path, kind: str):
    with quiet(), torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        config = transformers.CONFIG_MAPPING[kind](**COMPOSITES[kind])
        model = transformers.AutoModelForImageTextToText.from_config(config).eval()
        scatter(model)
        model.save_pretrained(tmp_path)
        expected = model(input_ids=torch.tensor([TOKENS])).logits[0]
    check_servable(tmp_path, read_spec(tmp_path), Span(0, N_BLOCKS))
    for whole in (True, False):
        logits = ours(tmp_path, whole=whole)
        assert not isinstance(logits, Refused), logits
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)
