"""What `mesh join --plan` says of a model that is larger than a node: what fits, and how many such nodes hold it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.errors import ConfigError
from mesh.provider.planner.capacity import Planned, Wanted, model_bytes, survey
from mesh.provider.planner.machine import growth
from mesh.provider.planner.stages import Place
from shards.model.experts_config import read_share
from shards.model.spec import parse_config
from tests.shards.models import make_checkpoint

SHAPE = {"hidden_size": 64, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 512, "n_blocks": 6}
EXPERTS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), "mixtral", **SHAPE, num_local_experts=EXPERTS)


async def plan(folder: Path, free: int, monkeypatch: pytest.MonkeyPatch) -> Planned:
    monkeypatch.setattr("mesh.provider.planner.capacity.free_bytes", lambda device: free)
    (planned,) = await survey(Wanted((str(folder),), (Place("cpu"),), kv_bytes=1))
    return planned


async def test_a_plan_counts_all_experts_of_a_block(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_experts = EXPERTS * 3 * 64 * 512 * 4
    room = (await plan(folder, 10 * of_experts, monkeypatch)).room
    assert of_experts < room.block_bytes < 1.05 * of_experts
    assert (room.fits, room.stages) == (4, 2), "half of the memory is for weights"
    assert (await plan(folder, 100 * of_experts, monkeypatch)).room.stages == 1


async def test_a_node_too_small_for_one_block_is_told_what_would_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"not one block of .* a block takes 3\.\d MiB, .*of which 6 hold the model"):
        await plan(folder, 4 << 20, monkeypatch)


def spec(**fields: Any) -> Any:
    shape = {"num_hidden_layers": 32, "hidden_size": 4096, "vocab_size": 32000, "dtype": "bfloat16", **fields}
    return parse_config(json.dumps(shape))


def test_a_mixture_whose_weights_are_elsewhere_is_not_taken_for_a_dense_model(tmp_path: Path) -> None:
    mixtral = spec(model_type="mixtral", intermediate_size=14336, num_local_experts=8, num_experts_per_tok=2)
    files: Any = SimpleNamespace(spec=mixtral)
    assert model_bytes(tmp_path, files) == pytest.approx(2 * 46.7e9, rel=0.03)
    assert read_share(mixtral) == pytest.approx(0.29, abs=0.01), "most experts are not read for a token"
    assert read_share(spec(model_type="llama", intermediate_size=14336)) == 1.0


def test_four_bits_are_counted_as_what_becomes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, plain = (
        spec(model_type="gpt_oss", quantization_config={"quant_method": "mxfp4"}),
        spec(model_type="gpt_oss"),
    )
    assert growth(packed, "bfloat16", "cuda") == pytest.approx(16 / 4.25)
    assert growth(plain, "bfloat16", "cuda") == 1.0
    assert growth(plain, "float32", "cpu") == 2.0
    for library, bits in ((object(), 6), (None, 32)):
        monkeypatch.setattr("shards.model.llama.native_library", lambda library=library: library)
        assert growth(packed, "float32", "cpu") == pytest.approx(bits / 4.25)
