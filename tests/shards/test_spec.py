"""A config.json is read as transformers' class of its model_type reads it, also where it says little."""

from __future__ import annotations

import contextlib
import json
import math
import random
from typing import Any

import pytest
import transformers

from shards.errors import CheckpointError, UnsupportedModel
from shards.model.class_defaults import SHAPES, TEXT_PARTS
from shards.model.fields import check_class
from shards.model.spec import ModelSpec, parse_config
from tests.profile import LONG
from tests.shards.quiet import quiet


def spec(**config: Any) -> ModelSpec:
    return parse_config(json.dumps(config))


def test_class_defaults_and_names_are_those_of_transformers():
    for kind in SHAPES if LONG else random.Random(0).sample(sorted(SHAPES), 20):
        shape = SHAPES[kind]
        with quiet():
            plain = transformers.CONFIG_MAPPING[kind]()
        for dimension in (shape.blocks, shape.hidden, shape.vocab, shape.context):
            known = [getattr(plain, name) for name in dimension.names if hasattr(plain, name)]
            assert (set(known) == {dimension.default}) or (not known and dimension is shape.context), (kind, dimension)


def test_text_parts_are_those_of_transformers():
    for kind, text in list(TEXT_PARTS.items())[:: 1 if LONG else 5]:
        assert transformers.CONFIG_MAPPING[kind].sub_configs_defaults["text_config"].model_type == text


def test_a_composite_that_says_little_of_its_text_part_is_its_class_for_the_rest():
    gemma = spec(
        model_type="gemma3",
        architectures=["Gemma3ForConditionalGeneration"],
        text_config={"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024},
    )
    assert (gemma.n_blocks, gemma.hidden_size, gemma.vocab_size) == (34, 2560, 262_208)
    llava = spec(
        model_type="llava", text_config={"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32_064}
    )
    assert (llava.n_blocks, llava.hidden_size, llava.context_length) == (32, 4096, 4096)
    assert spec(model_type="llava", text_config={}).vocab_size == 32_000


def test_other_names_of_a_field_count_where_its_class_knows_them():
    assert spec(model_type="bloom", n_embed=32, n_layer=2).hidden_size == 32
    assert spec(model_type="mpt", n_layers=3, d_model=16, max_seq_len=99).context_length == 99
    assert spec(model_type="gpt2", n_layer=3, num_hidden_layers=5).n_blocks == 5
    assert spec(model_type="llama", n_layer=3).n_blocks == 32


def test_numbers_that_json_lacks_are_read_as_transformers_writes_them():
    limit = spec(model_type="llama", time_step_limit=[0.0, {"__float__": "Infinity"}]).raw["time_step_limit"]
    assert limit == [0.0, math.inf]
    assert spec(model_type="llama", x={"__float__": "1"}).raw["x"] == {"__float__": "1"}
    with pytest.raises(CheckpointError, match="hidden_size"):
        spec(model_type="llama", hidden_size={"__float__": "Infinity"})


@pytest.mark.parametrize("depth", [500, 5_000, 100_000])
def test_a_config_that_is_nested_deeply_is_no_traceback(depth: int):
    with contextlib.suppress(CheckpointError):
        parse_config('{"model_type": "llama", "x": ' + "[" * depth + "]" * depth + "}")


@pytest.mark.parametrize(
    "field",
    [
        {"is_causal": False},
        {"use_bidirectional_attention": True},
        {"is_encoder_decoder": True},
        {"per_layer_config": {"0": {"head_dim": 8}}},
        {"transformers_weights": "other.safetensors"},
        {"configuration_files": ["config.4.0.0.json"]},
    ],
)
def test_a_field_of_any_model_that_is_not_served_is_named_with_a_way_out(field: dict[str, Any]):
    (name,) = field
    for config in ({"model_type": "llama", **field}, {"model_type": "llava", "text_config": field}):
        with pytest.raises(UnsupportedModel, match=rf"{name} = .*: .+ (choose|make|serve|name) .+"):
            spec(**config)


def test_a_text_part_of_a_model_that_has_none_is_refused():
    with pytest.raises(CheckpointError, match="text_config"):
        spec(model_type="llama", text_config={"hidden_size": 16})


def test_a_class_that_is_not_the_models_is_named():
    built = ("LlamaForCausalLM", "LlamaModel")
    for fine in ({}, {"architectures": None}, {"architectures": []}, {"architectures": ["LLaMAForCausalLM"]}):
        check_class(fine, built)
    with pytest.raises(UnsupportedModel, match="LlamaForSequenceClassification"):
        check_class({"architectures": ["LlamaForSequenceClassification"]}, built)
    with pytest.raises(CheckpointError, match="architectures"):
        check_class({"architectures": "LlamaForCausalLM"}, built)
