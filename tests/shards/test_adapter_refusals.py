"""What the adapter reads, what it refuses, and that a refusal leaves a session as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from shards.adapter import AdapterStage, load_adapter_stage
from shards.checkpoint.folder import Checkpoint
from shards.errors import BadActivation, CapacityExceeded, CheckpointError, ShardError, UnsupportedModel
from shards.model.loading import load_stage
from shards.model.span import Span
from shards.model.stage import LogitsMode
from shards.progress import silent
from tests.shards.adapter_models import CONTEXT, make_adapter_checkpoint
from tests.shards.stages import Memory, forward

torch.set_num_threads(1)
CPU = torch.device("cpu")


WHOLE = Span(0, 5)


def load(folder: Path, span: Span = WHOLE, progress: Any = silent) -> AdapterStage:
    return load_adapter_stage(Checkpoint.open(folder), span, device=CPU, dtype=torch.float32, progress=progress)


def change_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter_checkpoint(tmp_path_factory.mktemp("gpt2"), "gpt2", max_shard_size="30KB")


@pytest.fixture(scope="module")
def stage(gpt2: Path) -> AdapterStage:
    return load(gpt2)


@pytest.mark.parametrize("span", [Span(0, 2), Span(2, 4), Span(4, 5)])
def test_a_stage_reads_its_spans_tensors_and_nothing_else(gpt2: Path, tmp_path: Path, span: Span):
    index = json.loads((gpt2 / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {index[name] for name in Checkpoint.open(gpt2).tensors_of(span)}
    assert needed < set(index.values())
    for path in gpt2.iterdir():
        if path.suffix != ".safetensors" or path.name in needed:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    seen: list[tuple[int, int]] = []
    loaded = load(tmp_path, span, lambda done, total, what: seen.append((done, total)))
    total = Checkpoint.open(gpt2).nbytes(span)
    assert seen[-1] == (total, total)
    parameters = {id(p): p.nbytes for p in loaded._family.model.parameters()}
    assert sum(parameters.values()) == total


def test_a_missing_tensor_is_named(tmp_path: Path):
    folder = make_adapter_checkpoint(tmp_path, "phi3")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.3.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    load(folder, Span(0, 3))
    with pytest.raises(CheckpointError, match=r"layers\.3\.mlp\.down_proj\.weight is missing"):
        load(folder, Span(3, 5))


def test_a_missing_expert_is_refused(tmp_path: Path):
    folder = make_adapter_checkpoint(tmp_path, "mixtral")
    tensors = load_file(folder / "model.safetensors")
    (name,) = (name for name in tensors if "layers.1." in name and ".experts.2.w1." in name)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\."):
        load(folder, Span(0, 2))


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path):
    folder = make_adapter_checkpoint(tmp_path, "bloom")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("h.1.mlp.dense_h_to_4h.bias"))
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"h\.1\.mlp\.dense_h_to_4h\.bias does not fit"):
        load(folder, Span(1, 2))


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gpt2", {"model_type": "somebodys_own", "auto_map": {"AutoModel": "evil.Model"}}, "never run"),
        ("gpt2", {"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ("llama", {"model_type": "vit"}, "vit"),
        ("llama", {"model_type": "mamba"}, "running state"),
        ("llama", {"model_type": "t5"}, "t5"),
        ("gemma3", {"layer_types": ["linear_attention"] * 5}, "linear_attention"),
    ],
)
def test_a_model_that_cannot_be_cut_is_refused_with_the_reason(
    tmp_path: Path, family: str, changes: dict[str, Any], reason: str
):
    folder = change_config(make_adapter_checkpoint(tmp_path, family), **changes)
    with pytest.raises(UnsupportedModel, match=reason):
        load(folder)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path):
    folder = make_adapter_checkpoint(tmp_path, "gpt2")
    (folder / "evil.py").write_text("raise SystemExit('code of a checkpoint ran')")
    change_config(
        folder,
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
        attn_implementation="kernels-community/evil",
        _attn_implementation="kernels-community/evil",
        experts_implementation="evil",
    )
    loaded = load(folder, Span(0, 1))
    assert loaded._family.model.config._attn_implementation == "sdpa"


def test_a_config_that_makes_no_sense_is_refused(tmp_path: Path):
    folder = change_config(make_adapter_checkpoint(tmp_path, "gpt2"), layer_norm_epsilon="small", n_head="many")
    with pytest.raises(ShardError):
        load(folder)


def test_a_family_that_was_not_compared_is_checked_against_itself(tmp_path: Path, caplog):
    config = transformers.Jais2Config(
        vocab_size=300,
        hidden_size=36,
        intermediate_size=52,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    load(tmp_path, Span(1, 3))
    assert "jais2 stages have not been compared" in caplog.text


def test_a_family_that_changes_when_it_is_cut_is_refused(tmp_path: Path):
    config = transformers.CTRLConfig(
        vocab_size=300, n_embd=36, dff=52, n_layer=4, n_head=6, n_positions=CONTEXT, bos_token_id=0, eos_token_id=1
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="when it is cut"):
        load(tmp_path, Span(0, 4))


def test_sessions_longer_than_the_context_are_refused(stage: AdapterStage):
    assert stage.longest == CONTEXT
    session = Memory(stage).session(2 * CONTEXT)
    forward([(session, session.piece(torch.ones(CONTEXT, dtype=torch.int64)))])
    with pytest.raises(CapacityExceeded, match=str(CONTEXT)):
        stage.forward([session.piece(torch.tensor([1]))])


def test_sessions_stay_where_long_rope_keeps_its_short_factors(tmp_path: Path):
    long_rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 3,
        "long_factor": [2.0] * 3,
        "original_max_position_embeddings": 40,
    }
    folder = make_adapter_checkpoint(tmp_path, "phi3", rope_parameters=long_rope, original_max_position_embeddings=40)
    loaded = load(folder)
    assert loaded.longest == 40
    session = Memory(loaded).session(48)
    forward([(session, session.piece(torch.arange(2, 42)))])
    with pytest.raises(CapacityExceeded, match="40"):
        loaded.forward([session.piece(torch.tensor([1]))])


def test_a_session_over_blocks_that_the_stage_lacks_is_refused(gpt2: Path):
    stage = load(gpt2, Span(1, 3))
    with pytest.raises(BadActivation, match="2:4"):
        stage.forward([Memory(stage).session(8, Span(2, 4)).piece(hidden=torch.zeros(1, 36))])


def test_a_session_grows_with_its_pages_and_ends_when_it_is_forgotten(stage: AdapterStage):
    session, fresh = (memory := Memory(stage)).session(8), memory.session(64)
    tokens = torch.arange(2, 60)
    for start in range(0, len(tokens), 16):
        session.pages = fresh.pages[: start // 16 + 1]
        (last,) = forward([(session, session.piece(tokens[start : start + 16], want=LogitsMode.LAST))])
    (whole,) = forward([(fresh, fresh.piece(tokens, want=LogitsMode.LAST))])
    torch.testing.assert_close(last, whole, atol=1e-4, rtol=1e-4)
    stage.forget(session.sequence)
    with pytest.raises(BadActivation, match="holds 0"):
        stage.forward([session.piece(torch.tensor([1]))])


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"tokens": torch.tensor([[1, 2]])},
        {"tokens": torch.tensor([1, 2], dtype=torch.int32)},
        {"tokens": torch.tensor([], dtype=torch.int64)},
        {"tokens": torch.tensor([300])},
        {"tokens": torch.tensor([-1])},
        {"hidden": torch.zeros(1, 36)},
    ],
)
def test_a_malformed_first_input_is_refused_and_the_session_goes_on(stage: AdapterStage, inputs):
    session, other = (memory := Memory(stage)).session(8), memory.session(8)
    forward([(session, session.piece(torch.tensor([5, 6])))])
    with pytest.raises(BadActivation):
        stage.forward([other.piece(torch.tensor([3])), session.piece(**inputs)])
    (after,) = stage.forward([session.piece(torch.tensor([7]), want=LogitsMode.LAST)])
    (fresh,) = stage.forward([other.piece(torch.tensor([5, 6, 7]), want=LogitsMode.LAST)])
    torch.testing.assert_close(after, fresh, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "inputs",
    [
        {"tokens": torch.tensor([1])},
        {"hidden": torch.zeros(2, 35)},
        {"hidden": torch.zeros(36)},
        {"hidden": torch.zeros(0, 36)},
        {"hidden": torch.zeros(2, 36, dtype=torch.int64)},
    ],
)
def test_malformed_hidden_states_are_refused(stage: AdapterStage, inputs):
    with pytest.raises(BadActivation):
        stage.forward([Memory(stage).session(8, Span(2, 4)).piece(**inputs)])


def test_pieces_that_do_not_belong_together_are_refused(stage: AdapterStage):
    memory = Memory(stage)
    session, other = memory.session(4, Span(0, 2)), memory.session(4, Span(0, 3))
    tokens = torch.tensor([1])
    with pytest.raises(BadActivation, match="0:3"):
        stage.forward([session.piece(tokens), other.piece(tokens)])
    with pytest.raises(BadActivation, match="two pieces"):
        stage.forward([session.piece(tokens), session.piece(tokens)])
    with pytest.raises(CapacityExceeded):
        stage.forward([session.piece(torch.arange(17))])
    with pytest.raises(BadActivation, match="cut"):
        stage.cut(session.sequence, 1)
    forward([(session, session.piece(tokens))])
    with pytest.raises(BadActivation, match="cut"):
        stage.cut(session.sequence, 2)
    session.length = 2
    with pytest.raises(BadActivation, match="position 2"):
        stage.forward([session.piece(tokens)])
    assert stage.forward([]) == []


def test_loading_by_name_takes_the_adapter_where_the_lean_path_knows_no_better(gpt2: Path):
    assert isinstance(load_stage(Checkpoint.open(gpt2), Span(1, 2)), AdapterStage)


def test_importing_any_of_it_does_not_import_transformers():
    modules = "shards.model.loading, shards.engine.sampling, shards.adapter"
    code = f"import sys, {modules}\nsys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)
