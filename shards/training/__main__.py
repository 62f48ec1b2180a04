"""`python -m shards.training`: corpus, tokenizer, training, export, in one command."""

from __future__ import annotations

import argparse
import platform
import re
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.training.corpus import Corpus
    from shards.training.model import Llama
    from shards.training.train import Options, Result

SAMPLE_PROMPTS = (
    "def fibonacci(n):\n",
    "class Stack:\n    def __init__(self):\n",
    "import os\nimport sys\n\ndef main(argv=None):\n",
)
SAMPLE_REQUESTS = (
    "Return the sum of two numbers.",
    "Return True if the path exists.",
    "Close the connection.",
)
SAMPLE_LENGTH = 120
SAMPLE_SEED = 7


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; 0 when the folder has been written, 2 when the options or the corpus do not do."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except ValueError as error:
        sys.stderr.write(f"shards.training: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shards.training", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder to write")
    add("--corpus", type=Path, default=Path(sysconfig.get_path("stdlib")), help="folder of Python source")
    add("--tests", action=argparse.BooleanOptionalAction, default=True, help="include test folders")
    add("--device", default="auto", help="cpu, cuda, or auto")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="torch.compile (default: on CUDA)",
    )
    add("--minutes", type=float, help="end training after this long; the schedule follows")
    add("--tokens", type=int, default=600_000_000, help="training tokens the schedule is for")
    add("--steps", type=int, help="training steps, instead of --tokens")
    add("--batch", type=int, default=64, help="windows per step")
    add("--learning-rate", type=float, default=3e-3)
    add("--warmup-steps", type=int, default=150)
    add("--weight-decay", type=float, default=0.1)
    add("--dropout", type=float, default=0.05)
    add("--chat-share", type=float, default=0.12, help="share of windows that hold conversations")
    add("--eval-every", type=int, default=250, help="steps between held-out losses")
    add("--seed", type=int, default=0)
    add("--vocab", type=int, default=2048)
    add("--hidden", type=int, default=192)
    add("--intermediate", type=int, default=512)
    add("--blocks", type=int, default=10)
    add("--heads", type=int, default=6)
    add("--kv-heads", type=int, default=2)
    add("--head-dim", type=int, default=32)
    add("--context", type=int, default=1024)
    return parser


def _run(options: argparse.Namespace) -> None:
    import torch

    from shards.checkpoint.manifest import write_manifest
    from shards.training import corpus as corpora
    from shards.training.export import (
        eos_token_ids,
        write_card,
        write_settings,
        write_weights,
    )
    from shards.training.model import Llama, Shape
    from shards.training.tokenizer import encode_all, train_tokenizer
    from shards.training.train import Options, Stream, train

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    corpus = corpora.read_corpus(options.corpus, tests=options.tests)
    _report(f"corpus: {len(corpus.training)} files to train on, {len(corpus.held_out)} held out")
    tokenizer = train_tokenizer(corpus.training, options.vocab)
    talks = list(corpora.conversations(corpus.training))
    held_talks = list(corpora.conversations(corpus.held_out))
    _shuffle(talks, options.seed)
    texts = {
        "source": [document.text for document in corpus.training],
        "chat": talks,
        "held_source": [document.text for document in corpus.held_out],
        "held_chat": held_talks,
    }
    streams = {name: Stream.of(*encode_all(tokenizer, items), device) for name, items in texts.items()}
    _report("tokens: " + ", ".join(f"{name} {len(stream.ids):,}" for name, stream in streams.items()))
    shape = Shape(
        vocab=tokenizer.get_vocab_size(),
        hidden=options.hidden,
        intermediate=options.intermediate,
        blocks=options.blocks,
        heads=options.heads,
        kv_heads=options.kv_heads,
        head_dim=options.head_dim,
        context=options.context,
    )
    model = Llama(shape, dropout=options.dropout).to(device)
    model.initialise(torch.Generator(device=device).manual_seed(options.seed))
    _report(f"model: {model.n_parameters():,} parameters on {device}")
    settings = Options(
        tokens=options.tokens,
        steps=options.steps,
        minutes=options.minutes,
        batch=options.batch,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        dropout=options.dropout,
        chat_share=options.chat_share,
        eval_every=options.eval_every,
        seed=options.seed,
        device=device,
        compile=device.startswith("cuda") if options.compile is None else options.compile,
    )
    folder: Path = options.out
    write_settings(folder, shape, tokenizer)
    result = train(
        model,
        streams["source"],
        streams["chat"],
        streams["held_source"],
        settings,
        _report,
        lambda: write_weights(folder, model),
    )
    write_weights(folder, model)
    for parameter in model.parameters():  # the card describes the weights as stored
        parameter.data = parameter.data.bfloat16().float()
    held_out = {}
    for name, label in (("held_source", "source files"), ("held_chat", "conversations")):
        if len(streams[name].ids) > 1:
            held_out[label] = _held_out(model, streams[name], texts[name], settings)
            _report(f"held-out {label}: {held_out[label]}")
    facts: dict[str, Any] = {
        "name": folder.name,
        "parameters": model.n_parameters(),
        "corpus": _corpus_facts(options, corpus, streams, len(talks)),
        "shape": asdict(shape),
        "run": _run_facts(settings, result),
        "held_out": held_out,
        "samples": _samples(model, tokenizer, eos_token_ids(tokenizer)),
        "curve": result.curve,
    }
    write_card(folder, facts)
    write_manifest(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    _report(f"wrote {folder} ({size:,} bytes), best step {result.best_step}")


def _held_out(model: Llama, stream: Any, texts: list[str], options: Options) -> dict[str, float]:
    from shards.training.train import held_out_loss

    loss = held_out_loss(model, stream, options.device, options.batch)
    n_bytes = sum(len(text.encode()) for text in texts)
    bits = loss * (len(stream.ids) - 1) / log(2) / n_bytes
    return {"nats_per_token": round(loss, 4), "bits_per_byte": round(bits, 4)}


def _samples(model: Llama, tokenizer: Any, stop: list[int]) -> list[dict[str, str]]:
    from shards.training.corpus import ASSISTANT, END, USER
    from shards.training.sample import generate

    chats = [f"{USER}\n{request}{END}\n{ASSISTANT}\n" for request in SAMPLE_REQUESTS]
    found = []
    for prompt in (*SAMPLE_PROMPTS, *chats):
        ids = tokenizer.encode(prompt).ids
        if len(ids) >= model.shape.context:
            continue
        for temperature in (0.0, 0.8):
            new = generate(model, ids, SAMPLE_LENGTH, temperature=temperature, seed=SAMPLE_SEED, stop=stop)
            how = "greedy" if temperature == 0 else f"temperature {temperature}, seed {SAMPLE_SEED}"
            text = tokenizer.decode(new, skip_special_tokens=False)
            found.append({"how": how, "prompt": prompt, "text": text})
    return found


def _corpus_facts(options: argparse.Namespace, corpus: Corpus, streams: dict[str, Any], talks: int) -> dict[str, Any]:
    return {
        "version": _python_version(options.corpus),
        "tests": "yes" if options.tests else "no",
        "training_files": len(corpus.training),
        "training_bytes": sum(len(document.text.encode()) for document in corpus.training),
        "training_tokens": len(streams["source"].ids),
        "held_out_files": len(corpus.held_out),
        "held_out_bytes": sum(len(document.text.encode()) for document in corpus.held_out),
        "held_out_tokens": len(streams["held_source"].ids),
        "conversations": talks,
        "conversation_tokens": len(streams["chat"].ids),
    }


def _run_facts(options: Options, result: Result) -> dict[str, Any]:
    import torch

    on_cuda = options.device.startswith("cuda")
    return {
        "hardware": torch.cuda.get_device_name() if on_cuda else f"CPU ({platform.machine()})",
        "torch": torch.__version__,
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 1),
        "best_step": result.best_step,
        **{name: value for name, value in asdict(options).items() if name not in ("steps", "tokens", "device")},
    }


def _python_version(folder: Path) -> str:
    """The corpus' own Python version, as its sources betray it."""
    if folder.resolve() == Path(sysconfig.get_path("stdlib")).resolve():
        return f"CPython {platform.python_version()}"
    for path in sorted(folder.glob("_sysconfigdata*.py")):
        found = re.search(r"'VERSION': '(\d+\.\d+)'", path.read_text(encoding="utf-8", errors="replace"))
        if found:
            return f"CPython {found[1]}"
    return "version not recorded"


def _shuffle(items: list[str], seed: int) -> None:
    import random

    random.Random(seed).shuffle(items)


def _report(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
