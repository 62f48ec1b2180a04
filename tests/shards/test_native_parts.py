"""The native path's parts on their own: norm, rotary table, attention views, packed linear layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from shards.model.attention import attend, attend_decode, group_decodes, window_of
from shards.model.blocks import embedding_scale
from shards.model.linear import Linear, can_pack
from shards.model.norm import rms_norm
from shards.model.pages import PagePool
from shards.model.rope import RotaryTable, inverse_frequencies
from shards.model.rope_config import Llama3Scaling, RopeConfig
from tests.shards.native_configs import gemma3, native

torch.set_num_threads(1)


def test_frequencies_are_those_of_transformers() -> None:
    scaled = {"rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    for kind, ours in (
        ("linear", RopeConfig(5e5, linear_factor=8.0)),
        ("llama3", RopeConfig(5e5, llama3=Llama3Scaling(8.0, 1.0, 4.0, 8192))),
    ):
        config = transformers.LlamaConfig(
            hidden_size=128,
            num_attention_heads=1,
            rope_parameters={"rope_type": kind, "original_max_position_embeddings": 8192, **scaled},
        )
        theirs, _ = ROPE_INIT_FUNCTIONS[kind](config)
        torch.testing.assert_close(inverse_frequencies(ours, 128), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"truncate": False, "beta_fast": 20, "beta_slow": 2.0},
        {"attention_factor": 1.7, "mscale": 2.0},
        {"mscale": 0.707, "mscale_all_dim": 1.3, "beta_slow": 0},
        {"factor": None},
    ],
    ids=str,
)
def test_yarn_is_that_of_transformers(changes: dict[str, Any]) -> None:
    asked = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 128, **changes}
    config = transformers.LlamaConfig(
        hidden_size=48, num_attention_heads=1, max_position_embeddings=512, rope_parameters=dict(asked)
    )
    theirs, factor = ROPE_INIT_FUNCTIONS["yarn"](config)
    ours = native(rope_parameters=asked).rope
    assert ours.yarn is not None
    torch.testing.assert_close(inverse_frequencies(ours, 48), theirs, rtol=1e-5, atol=0)
    assert ours.yarn.attention_factor == pytest.approx(factor)


def test_a_rotary_table_gives_the_same_angles_however_it_grew() -> None:
    grown = RotaryTable(RopeConfig(1e4), 8, torch.device("cpu"), torch.float32)
    for longest in (1, 600, 5000):
        grown.at(torch.tensor([0]), longest)
    fresh = RotaryTable(RopeConfig(1e4), 8, torch.device("cpu"), torch.float32)
    positions = torch.tensor([0, 599, 4999])
    for ours, expected in zip(grown.at(positions, 5000), fresh.at(positions, 5000), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_torchs(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((3, 37), (37,)))
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        rms_norm(x, weight, 1e-5), F.rms_norm(x, (37,), weight, 1e-5), atol=tolerance, rtol=tolerance
    )


@given(
    start=st.integers(0, 12),
    n=st.integers(1, 9),
    window=st.none() | st.integers(1, 14),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    dim=st.sampled_from((2, 6, 8)),
    scale=st.none() | st.just(0.7),
    cap=st.none() | st.just(1.5),
)
def test_attention_is_softmax_over_what_the_window_and_causality_leave(
    start: int,
    n: int,
    window: int | None,
    kv_heads: int,
    group: int,
    dim: int,
    scale: float | None,
    cap: float | None,
) -> None:
    generator = torch.Generator().manual_seed(start * 100 + n)
    query = torch.randn(n, kv_heads * group, dim, generator=generator)
    held = torch.randn(2, kv_heads, start + n, dim, generator=generator)
    seen = window_of(start, n, window, torch.device("cpu"))
    found = attend(query, *held[:, :, seen.first : seen.end], seen, scale=scale, cap=cap).view(n, -1, dim)
    for row in range(n):
        end = start + row + 1
        low = 0 if window is None else max(0, end - window)
        for head in range(kv_heads * group):
            keys, values = held[:, head // group, low:end]
            scores = keys @ query[row, head] * (scale or dim**-0.5)
            weights = torch.softmax(scores if cap is None else cap * torch.tanh(scores / cap), dim=0)
            torch.testing.assert_close(found[row, head], weights @ values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 5, 20, 40])
def test_sessions_that_decode_together_see_what_each_sees_alone_whatever_others_left_in_the_pages(
    window: int | None, cap: float | None
) -> None:
    generator = torch.Generator().manual_seed(1)
    pool = PagePool(2, 12, n_kv_heads=2, head_dim=6, device=torch.device("cpu"), dtype=torch.float32)
    pool.keys.fill_(torch.nan)
    pool.values.fill_(torch.inf)
    positions, pages = [0, 15, 16, 37, 52], [[3], [7], [1, 9], [11, 2, 5], [8, 4, 10, 6]]
    tables = [torch.tensor(each) for each in pages]
    for position, table in zip(positions, tables, strict=True):
        slots = pool.slots([table], [0], [position + 1])
        pool.write(1, slots, *torch.randn(2, position + 1, 2, 6, generator=generator))
    query = torch.randn(len(positions), 4, 6, generator=generator)
    found = torch.full((len(positions), 24), torch.nan)
    for group in group_decodes(range(len(positions)), positions, pages, window, torch.device("cpu")):
        held = pool.read_many(1, group.tables, group.mask)
        found[group.rows] = attend_decode(query[group.rows], *held, group.mask, cap=cap)
    for row, (position, table) in enumerate(zip(positions, tables, strict=True)):
        seen = window_of(position, 1, window, torch.device("cpu"))
        alone = attend(query[row : row + 1], *pool.read(1, table, seen.first, seen.end), seen, cap=cap)
        torch.testing.assert_close(found[row], alone[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 130])
def test_a_packed_linear_layer_equals_a_plain_one(dtype: torch.dtype, bias: bool, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(769, 515, generator=generator).to(dtype)
    offset = torch.randn(769, generator=generator).to(dtype) if bias else None
    if not can_pack(weight):
        pytest.skip("this machine has no packed layout for this dtype")
    x = torch.randn(rows, 515, generator=generator).to(dtype)
    with torch.inference_mode():
        packed, plain = Linear(weight, offset)(x), F.linear(x, weight, offset)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(packed, plain, rtol=tolerance, atol=tolerance * 25)


def test_embeddings_are_scaled_by_the_factor_as_transformers_rounds_it() -> None:
    config = gemma3(hidden_size=3072)
    assert embedding_scale(config, torch.float32) == pytest.approx(3072**0.5, rel=1e-7)
    assert embedding_scale(config, torch.bfloat16) == 55.5
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.Gemma2Config(hidden_size=3072, num_hidden_layers=1, vocab_size=2, intermediate_size=1, head_dim=2),
        dtype=torch.bfloat16,
    ).model.embed_tokens
    found = F.embedding(torch.tensor([1]), theirs.weight) * embedding_scale(config, torch.bfloat16)
    assert torch.equal(found, theirs(torch.tensor([1])))
