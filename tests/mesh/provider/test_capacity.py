"""What a plan counts for a model's weights is what they take once they are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mesh.errors import ConfigError
from mesh.provider.model_files import read_model_files
from mesh.provider.planner import capacity
from mesh.provider.planner.capacity import Wanted, model_bytes, quantised_bytes, survey
from mesh.provider.planner.stages import Place
from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.quantising import QuantisedCheckpoint
from shards.errors import UnsupportedModel
from shards.model.precision import Precision
from shards.model.span import Span
from tests.shards.models import make_checkpoint

SHAPE = {"hidden_size": 256, "intermediate_size": 768, "n_heads": 8, "n_kv_heads": 8, "n_blocks": 6}


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "m", "llama", dtype=request.param, **SHAPE)


@pytest.mark.parametrize("precision", Precision)
def test_quantised_weights_are_counted_as_their_blocks(folder: Path, precision: Precision) -> None:
    files = read_model_files("m", folder, precision)
    total, edge = quantised_bytes(model_bytes(folder, files), files.spec, precision)
    checkpoint = QuantisedCheckpoint(Checkpoint.open(folder), precision)
    assert total == pytest.approx(checkpoint.nbytes(Span(0, 6)), rel=0.02)
    ends = checkpoint.stored_bytes("model.embed_tokens.weight") + checkpoint.stored_bytes("lm_head.weight")
    assert edge == pytest.approx(ends, rel=0.01)


async def test_more_blocks_fit_into_the_same_memory_and_what_cannot_be_quantised_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Checkpoint.open(folder).nbytes(Span(0, 6))
    monkeypatch.setattr(capacity, "free_bytes", lambda device: int(whole / 0.5))
    places = (Place("cpu"), Place("cpu"))

    def wanted(precision: Precision | None, model: Path = folder) -> Wanted:
        return Wanted((str(model),), places, dtype="float32", quantize=precision, kv_bytes=1)

    assert all(each.span is not None for each in await survey(wanted(Precision.INT4)))
    monkeypatch.setattr(capacity, "free_bytes", lambda device: int(whole * 0.25 / 0.5))
    assert all(each.span is not None for each in await survey(wanted(Precision.INT4)))
    with pytest.raises(ConfigError, match="not one block"):
        monkeypatch.setattr(capacity, "free_bytes", lambda device: int(whole * 0.02 / 0.5))
        await survey(wanted(Precision.INT4))
    with pytest.raises(UnsupportedModel, match="multiples of 32"):
        await survey(wanted(Precision.INT8, make_checkpoint(tmp_path / "odd", "llama")))
