"""The training recipe, in miniature: it learns, and what it writes is a checkpoint anyone can load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from shards.checkpoint.manifest import read_manifest
from shards.model.spec import parse_config
from shards.text.fast import check_tokenizer, load_tokenizer
from shards.training.__main__ import main
from shards.training.corpus import Document, conversations, read_corpus, render_conversation
from shards.training.model import Llama, Shape
from shards.training.train import Options, talks_at

torch.set_num_threads(1)

SIZES = {
    "steps": 20,
    "batch": 4,
    "warmup-steps": 4,
    "eval-every": 10,
    "vocab": 300,
    "hidden": 32,
    "intermediate": 64,
    "blocks": 2,
    "heads": 4,
    "kv-heads": 2,
    "head-dim": 8,
    "context": 64,
}


def write_corpus(folder: Path) -> None:
    for place in range(80):
        text = f'"""Arithmetic, part number {place}."""\n\n' + "".join(
            f'def add_{place}_{n}(value):\n    """Return the value plus {n}."""\n    return value + {n}\n\n\n'
            for n in range(4)
        )
        (folder / f"part{place:02}.py").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus, out = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("out") / "tiny"
    write_corpus(corpus)
    sizes = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
    assert main(["--corpus", str(corpus), "--out", str(out), "--device", "cpu", *sizes]) == 0
    return out


def test_the_held_out_loss_falls(trained: Path) -> None:
    facts = json.loads((trained / "training.json").read_text(encoding="utf-8"))
    losses = [point["held_out_loss"] for point in facts["curve"]]
    assert len(losses) == 2
    assert losses[-1] < losses[0] < 6.0
    assert facts["run"]["steps"] == 20
    # Weights rounded to bfloat16 are measured again; the figures may differ in the third place.
    assert facts["held_out"]["source files"]["nats_per_token"] == pytest.approx(min(losses), abs=0.02)


def test_the_manifest_holds_for_what_a_node_loads(trained: Path) -> None:
    manifest = read_manifest(trained)
    assert manifest is not None
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(manifest.files)
    for name in manifest.files:
        manifest.check(trained / name)


def test_the_tokenizer_fits_the_model(trained: Path) -> None:
    spec = parse_config((trained / "config.json").read_bytes())
    tokenizer = load_tokenizer(trained)
    check_tokenizer(tokenizer, spec)
    assert spec.eos_token_ids == tokenizer.eos_token_ids == (0, 4)
    assert spec.dtype == "bfloat16"
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Add."}])
    assert prompt + "x<|end|>\n" == render_conversation("Add.", "x")


def test_transformers_computes_the_same_logits_and_generates(trained: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    shape = json.loads((trained / "training.json").read_text(encoding="utf-8"))["shape"]
    ours = Llama(Shape(**shape)).eval()
    ours.load_state_dict({name: value.float() for name, value in load_file(trained / "model.safetensors").items()})
    ids = torch.tensor([load_tokenizer(trained).encode("def add_1_2(value):\n")])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
        made = theirs.generate(ids, max_new_tokens=5, do_sample=False)
    assert made.shape[1] > ids.shape[1]


def test_a_corpus_leaves_out_what_is_not_source(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    for folder in ("site-packages", "test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "more.py").write_text(f"# from {folder}\n", encoding="utf-8")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "table.py").write_text("x = " + repr(list(range(500))), encoding="utf-8")
    (tmp_path / "special.py").write_text("x = '<|end|>'\n", encoding="utf-8")
    (tmp_path / "copy.py").write_bytes((tmp_path / "part00.py").read_bytes())
    corpus = read_corpus(tmp_path, tests=False)
    paths = [document.path for document in (*corpus.training, *corpus.held_out)]
    assert len(paths) == 80
    assert not {"site-packages/more.py", "test/more.py", "latin.py", "table.py", "special.py"} & set(paths)
    assert "test/more.py" in [item.path for part in (read_corpus(tmp_path),) for item in part.training]
    assert read_corpus(tmp_path, tests=False) == corpus


def test_functions_with_docstrings_become_conversations() -> None:
    text = (
        '"""Small sums."""\nclass A:\n    @property\n    def two(self):\n'
        '        """Return the number two.\n\n'
        '        Always.\n        """\n        return 2\n\ndef silent(): pass\n'
    )
    (only,) = conversations([Document("a.py", text), Document("bad.py", "def (")])
    assert only.startswith(
        "<|system|>\nSmall sums.<|end|>\n<|user|>\nReturn the number two.<|end|>\n"
        "<|assistant|>\n@property\ndef two(self):\n"
    )
    assert only.endswith("    return 2<|end|>\n")


def test_small_batches_get_their_share_of_conversations() -> None:
    options = Options(batch=3, chat_share=0.12)
    counts = [talks_at(step, options) for step in range(1000)]
    assert sum(counts) == 360
    assert set(counts) == {0, 1}


def test_an_empty_corpus_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--corpus", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert "too few Python files" in capsys.readouterr().err
