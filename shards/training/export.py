"""Write a trained model as a checkpoint folder: config, bf16 weights, tokenizer and model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from shards.training.corpus import END, ENDOFTEXT
from shards.training.model import RMS_EPSILON, ROPE_THETA, Llama, Shape
from shards.training.tokenizer import tokenizer_config

WEIGHTS = "model.safetensors"


def eos_token_ids(tokenizer: Any) -> list[int]:
    """End of text, and the end of a message."""
    return [int(tokenizer.token_to_id(ENDOFTEXT)), int(tokenizer.token_to_id(END))]


def write_settings(folder: Path, shape: Shape, tokenizer: Any) -> None:
    """Everything but the weights and the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    eos = eos_token_ids(tokenizer)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": RMS_EPSILON,
        "rope_theta": ROPE_THETA,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": eos,
        "pad_token_id": eos[0],
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "bfloat16",
    }
    generation = {"eos_token_id": eos, "pad_token_id": eos[0], "do_sample": True, "temperature": 0.8}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation)
    (folder / "tokenizer.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(tokenizer_config(shape.context), encoding="utf-8")


def write_weights(folder: Path, model: Llama) -> None:
    """The weights in bfloat16 under transformers' names; the tied head is not stored."""
    tensors = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in model.state_dict().items()
    }
    partial = folder / f"{WEIGHTS}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(folder / WEIGHTS)


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """training.json with every figure of the run, and README.md written from it."""
    _write_json(folder / "training.json", facts)
    (folder / "README.md").write_text(_card(facts), encoding="utf-8")


def _card(facts: dict[str, Any]) -> str:
    corpus, shape, run, held_out = facts["corpus"], facts["shape"], facts["run"], facts["held_out"]
    lines = [
        f"# {facts['name']}",
        "",
        f"A {facts['parameters'] / 1e6:.2f} million parameter Llama that writes Python, for demonstrations",
        "and tests of the inference mesh. It was trained from nothing with `python -m shards.training`, and",
        "this file was written by that run. It completes plausible Python; it knows nothing else, and its",
        "code is usually wrong.",
        "",
        "## Corpus",
        f"The source of Python's standard library ({corpus['version']}); its tests included: {corpus['tests']}.",
        f"Training: {corpus['training_files']:,} files, {corpus['training_bytes']:,} bytes, "
        f"{corpus['training_tokens']:,} tokens;",
        f"held out by content hash: {corpus['held_out_files']:,} files, {corpus['held_out_bytes']:,} bytes, "
        f"{corpus['held_out_tokens']:,} tokens.",
        f"{corpus['conversations']:,} functions with docstrings were also shown as conversations "
        f"({run['chat_share']:.0%} of sequences).",
        "CPython's source is under the PSF licence; text that the model repeats from it stays under it.",
        "",
        "## Model",
        f"{shape['blocks']} blocks, hidden {shape['hidden']}, feed-forward {shape['intermediate']}, "
        f"{shape['heads']} heads over {shape['kv_heads']} key-value heads of {shape['head_dim']},",
        f"context {shape['context']}, byte-level BPE vocabulary of {shape['vocab']}, tied embeddings, bfloat16.",
        "",
        "## Training",
        f"{run['steps']:,} steps, {run['tokens']:,} tokens in {run['seconds']:,.0f} s on {run['hardware']}",
        f"(torch {run['torch']}); AdamW, peak rate {run['learning_rate']:g}, "
        f"weight decay {run['weight_decay']:g}, "
        f"dropout {run['dropout']:g}, seed {run['seed']}.",
        f"The weights are those of step {run['best_step']:,}, the best on the held-out files.",
        "",
        "## Held-out loss (of the bfloat16 weights as stored)",
        "| text | nats per token | bits per byte |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {figures['nats_per_token']:.4f} | {figures['bits_per_byte']:.4f} |"
        for name, figures in held_out.items()
    ]
    lines += ["", "## Samples", "The prompt and its continuation, cut at the end token or the length limit."]
    for sample in facts["samples"]:
        lines += ["", f"{sample['how']}:", "````text", sample["prompt"] + sample["text"], "````"]
    return "\n".join(lines) + "\n"


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
