"""A quantised folder says what transformers says on the weights that it stands for, in every form that is read."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from mesh.provider.model_files import read_model_files
from shards.checkpoint.index import read_spec
from shards.checkpoint.opening import open_checkpoint
from shards.model.footprint import loaded_bytes
from shards.model.llama import NativeStage, kernels_for
from shards.model.loading import check_servable, load_stage
from shards.model.native_config import parse_native
from shards.model.span import Span
from shards.model.weights import load_packed_span
from shards.progress import silent
from tests.shards.models import reference
from tests.shards.packed_files import FORMS, WIDE, awq, compressed, fp8, gptq, make_packed, rewrite
from tests.shards.stages import Pipeline, random_tokens

torch.set_num_threads(1)

WHOLE = (Span(0, 2),)
WIDENED = {"gptq layers that disagree", "gptq uneven groups", "gptq odd groups", "fp8 blocks no kernel fits"}
"""In which there are layers that no kernel fits."""
ORDERED = {"gptq desc_act", "gptq 8 bits desc_act 128", "compressed int4 actorder", "gptq layers that disagree"}
"""Whose kernels add up the inputs in another order than widened weights would be."""
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_numbers_that_it_stands_for_and_kernels_the_bits_of_these(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, widened = make_packed(tmp_path, FORMS[name], n_blocks=2)
    check_servable(path, read_spec(path), Span(0, 2))
    checkpoint = open_checkpoint(path)
    expected = load_file(widened / "model.safetensors")
    assert set(checkpoint.names()) == set(expected)
    for key, numbers in expected.items():
        assert torch.equal(checkpoint.read(key).float(), numbers), key
    packed, plain = Pipeline(path, WHOLE), Pipeline(widened, WHOLE)
    assert ("widened" in caplog.text) == (name in WIDENED)
    sessions = [(packed.session(), plain.session()) for _ in range(9)]
    tolerance = 1e-3 if name in ORDERED else 0
    for count in (1, 2, 3, 7, 33):  # rows of a pass: each way in which they are tiled
        tokens = random_tokens(count, seed=count)
        found, numbers = packed.logits(sessions[0][0], tokens), plain.logits(sessions[0][1], tokens)
        torch.testing.assert_close(found, numbers, atol=tolerance, rtol=0)
    for together in (2, 4, 9):
        parts = [[(pair[side], [10 + index]) for index, pair in enumerate(sessions[:together])] for side in (0, 1)]
        for found, numbers in zip(packed.step(parts[0]), plain.step(parts[1]), strict=True):
            torch.testing.assert_close(found, numbers, atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
@pytest.mark.parametrize(
    "name",
    ["compressed int4", "compressed int4 asymmetric", "compressed plain int8", "gptq 8 bits", "fp8", "fp8 cut blocks"],
)
def test_embedding_and_head_may_be_quantised(name: str, family: str, tmp_path: Path) -> None:
    path, widened = make_packed(tmp_path, FORMS[name], family, tables=True, n_blocks=2)
    if name.startswith("compressed"):
        rewrite(path, lambda tensors: None, ignore=[])  # which names the head
    packed, plain = Pipeline(path, WHOLE), Pipeline(widened, WHOLE)
    tokens = random_tokens(40)
    assert torch.equal(packed.logits(packed.session(), tokens), plain.logits(plain.session(), tokens))


@pytest.mark.parametrize("name", sorted(ORDERED))
def test_inputs_out_of_order_give_a_row_the_same_bits_in_any_company(name: str, tmp_path: Path) -> None:
    path, _ = make_packed(tmp_path, FORMS[name], n_blocks=2)
    pipeline, tokens = Pipeline(path, WHOLE), random_tokens(40)
    alone, others = pipeline.session(), [pipeline.session() for _ in range(3)]
    one_by_one = torch.cat([pipeline.logits(alone, [token]) for token in tokens])
    assert torch.equal(pipeline.logits(pipeline.session(), tokens), one_by_one)
    beside = pipeline.session()
    found = [pipeline.step([*((other, [5, 6]) for other in others), (beside, [token])])[-1] for token in tokens]
    assert torch.equal(torch.cat(found), one_by_one)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("awq", "llama"),
        ("awq 128", "qwen2"),
        ("gptq", "mistral"),
        ("gptq desc_act", "llama"),
        ("fp8", "llama"),
        ("compressed int4", "llama-tied"),
        ("compressed fp8 channels", "qwen2"),
    ],
)
def test_logits_and_greedy_tokens_are_those_of_transformers(name: str, family: str, tmp_path: Path) -> None:
    path, widened = make_packed(tmp_path, FORMS[name], family)
    check(path, widened)


def test_torch_kernels_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shards.model.llama.native_library", lambda: None)
    check(*make_packed(tmp_path, gptq(8, 32)))
    assert "torch has no kernel for int8/32: widened" in caplog.text


def check(path: Path, widened: Path) -> None:
    """Logits in chunks over three stages, and greedy tokens, are those of transformers on the widened weights."""
    prompt, model = random_tokens(70), reference(widened)
    pipeline = Pipeline(path)
    assert all(isinstance(stage, NativeStage) for stage in pipeline.stages)
    session = pipeline.session()
    found = torch.cat([pipeline.logits(session, chunk) for chunk in (prompt[:1], prompt[1:8], prompt[8:])])
    with torch.inference_mode():
        expected = model(torch.tensor([prompt])).logits[0]
        tokens = model.generate(
            torch.tensor([prompt]), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert pipeline.greedy(pipeline.session(), prompt, 64) == tokens[0, len(prompt) :].tolist()


def test_eight_bit_floats_in_blocks_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    path, _ = make_packed(tmp_path, fp8((32, 32)))
    stored, checkpoint = load_file(path / "model.safetensors"), open_checkpoint(path)
    for dtype in (torch.float32, torch.bfloat16):
        for name in (name for name in stored if name.endswith("_inv")):
            weight = name.removesuffix("_scale_inv")
            theirs = Fp8Dequantize(None)._dequantize_one(stored[weight], stored[name], dtype)
            assert torch.equal(checkpoint.read(weight).to(dtype), theirs)


@pytest.mark.parametrize(
    ("form", "growth"),
    [
        (awq(128), 1.05),
        (gptq(4, 128), 1.05),
        (gptq(8, 128), 1.03),
        (fp8((128, 128)), 1.05),
        (compressed("pack-quantized", 4, "group", 128), 1.05),
        (compressed("int-quantized", 8, "channel"), 1.2),
    ],
)
def test_weights_stay_about_as_small_as_they_are_stored_and_that_is_planned_for(
    form: object, growth: float, tmp_path: Path
) -> None:
    path, _ = make_packed(tmp_path, form, **WIDE)  # type: ignore[arg-type]
    checkpoint, span = open_checkpoint(path), Span(1, 4)
    config = parse_native(checkpoint.spec)
    library = kernels_for(CPU, torch.float32)
    assert library is not None
    weights = load_packed_span(checkpoint, config, span, panel=library.panel, dtype=torch.float32, progress=silent)
    kept = sum(layer.panels.nbytes for block in weights.blocks for layer in block.linears())
    norms = 2 * 4 * config.hidden_size * len(span)
    assert kept <= growth * checkpoint.nbytes(span)
    assert loaded_bytes(checkpoint, span, device=CPU, dtype=torch.float32) == kept + norms
    widened = sum(checkpoint.read(name).numel() for name in checkpoint.tensors_of(span))
    for dtype in (torch.float16, torch.float64):  # which torch computes in
        assert loaded_bytes(checkpoint, span, device=CPU, dtype=dtype) == widened * dtype.itemsize


def test_only_the_bytes_of_the_span_are_read(tmp_path: Path) -> None:
    path, _ = make_packed(tmp_path, gptq(4, 32), n_blocks=8, **WIDE)
    load_stage(open_checkpoint(path), Span(0, 1))  # whatever is imported on the way
    own = psutil.Process()
    for span in (Span(2, 4), Span(7, 8)):
        before = own.io_counters().read_chars
        checkpoint = open_checkpoint(path)
        opening = own.io_counters().read_chars - before
        seen: list[tuple[int, int]] = []
        load_stage(checkpoint, span, progress=lambda done, total, what: seen.append((done, total)))  # noqa: B023
        loading = own.io_counters().read_chars - before - opening
        assert checkpoint.nbytes(span) <= loading <= checkpoint.nbytes(span) + 4096
        assert opening <= 1 << 17, "the header"
        assert loading < (path / "model.safetensors").stat().st_size / 2
        assert seen[-1] == (checkpoint.nbytes(span), checkpoint.nbytes(span))


def test_a_form_is_part_of_the_digest_and_of_the_numerics_profile(tmp_path: Path) -> None:
    forms = {
        "a": awq(32),
        "b": gptq(4, 32),
        "c": gptq(4, 32, version=2),
        "d": compressed("int-quantized", 8, "channel"),
    }
    folders = {name: make_packed(tmp_path / name, form) for name, form in forms.items()}
    paths = [path for path, _ in folders.values()] + [folders["a"][1]]
    assert len({read_model_files("m", path).digest for path in paths}) == len(paths)
    numerics = [load_stage(open_checkpoint(path), Span(1, 2)).numerics for path in paths]
    assert [each.split("/")[3:] for each in numerics] == [
        ["awq+int4"],
        ["gptq+int4"],
        ["gptq+int4"],
        ["compressed-tensors+int8"],
        [],
    ]
