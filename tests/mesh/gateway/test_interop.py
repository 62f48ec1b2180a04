"""Tools that speak to OpenAI speak to the gateway: litellm and lm-eval, each in its own process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mesh.gateway.conftest import Live
from tests.mesh.gateway.echo_backend import ByteModel
from tests.mesh.gateway.echo_tokenizer import BOS, EOS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LITELLM_SCRIPT = """
import asyncio, json, sys
import litellm

base = sys.argv[1]
options = {"api_base": base, "api_key": "unused", "temperature": 0, "max_tokens": 12}
messages = [{"role": "user", "content": "the swa"}]
chat = litellm.completion(model="openai/echo", messages=messages, **options)
pieces = litellm.completion(model="openai/echo", messages=messages, stream=True, **options)
streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces)
text = litellm.text_completion(model="text-completion-openai/echo", prompt="the swa", **options)

async def ask():
    return await litellm.acompletion(model="openai/echo", messages=messages, **options)

awaited = asyncio.run(ask())
errors = {}
for model in ("nobody", "refuses"):
    try:
        litellm.completion(model="openai/" + model, messages=messages, max_retries=0, **options)
    except Exception as error:
        errors[model] = type(error).__name__
print(json.dumps({
    "chat": chat.choices[0].message.content,
    "finish": chat.choices[0].finish_reason,
    "usage": [chat.usage.prompt_tokens, chat.usage.completion_tokens],
    "streamed": streamed,
    "awaited": awaited.choices[0].message.content,
    "text": text.choices[0].text,
    "errors": errors,
}))
"""


def run(arguments: list[str], home: Path) -> str:
    """Run Python without any network but loopback's; returns what it printed."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "OPENAI_API_KEY": "unused",
    }
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=240, cwd=home
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_litellm_completes_and_streams(live: Live, tmp_path: Path) -> None:
    printed = run(["-c", LITELLM_SCRIPT, f"{live.url}/v1"], tmp_path)
    seen = json.loads(printed.strip().splitlines()[-1])
    assert seen["text"] == "rm stage the"
    assert seen["finish"] == "length"
    assert seen["usage"] == [len("user: the swa\nassistant: "), 12]
    assert len(seen["chat"]) == 12
    assert seen["chat"] == seen["streamed"] == seen["awaited"]
    assert seen["errors"] == {"nobody": "NotFoundError", "refuses": "RateLimitError"}


def write_tokenizer(folder: Path) -> None:
    """A Hugging Face tokenizer that gives each byte the id that the twin's tokenizer gives it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Byte-level tokenizers write bytes that are not printable Latin-1 as the characters from U+0100 on.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    names = {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    vocabulary = {names[byte]: byte for byte in range(256)} | {"<s>": BOS, "</s>": EOS}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    wrapped.save_pretrained(folder)


def write_task(folder: Path, name: str, documents: list[dict], task: dict) -> None:
    """A task of lm-evaluation-harness (its YAML reader takes JSON) over a local dataset."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "metadata": {"version": 1},
        **task,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(settings))


def evaluate(
    live: Live, folder: Path, tasks: list[str], model_args: dict[str, object], *options: str
) -> dict[str, dict]:
    arguments = {"base_url": f"{live.url}/v1/completions", "max_retries": 1, "max_length": 256, **model_args}
    results = folder / "results"
    run(
        [
            *("-m", "lm_eval", "--model", "local-completions"),
            *("--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())),
            *("--tasks", ",".join(tasks), "--include_path", str(folder), "--output_path", str(results)),
            *options,
        ],
        folder,
    )
    [report] = results.rglob("results_*.json")
    return json.loads(report.read_text())["results"]


@pytest.mark.parametrize("tokenized", [True, False])
def test_lm_eval_scores_choices_and_documents(live: Live, tmp_path: Path, tokenized: bool) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    choices = [
        {"context": "the swarm serves the", "choices": ["zebra", "model"], "answer": 1},
        {"context": "each stage hands the", "choices": ["tokens", "qqqqqq"], "answer": 0},
        {"context": "a café in", "choices": ["Zürich", "xürich"], "answer": 1},
    ]
    write_task(
        tmp_path,
        "pick",
        choices,
        {
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc"}],
        },
    )
    document = "the next stage takes the café."
    write_task(
        tmp_path,
        "rolling",
        [{"text": document}],
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
    )
    model_args = {
        "model": "no-bos",
        "tokenizer_backend": "huggingface",
        "tokenizer": tmp_path / "tokenizer",
        "tokenized_requests": tokenized,
        "num_concurrent": 2,
    }
    # Rolling scores begin with the tokenizer's BOS, which no text spells to a server that reads text as text.
    tasks = ["pick", "rolling"] if tokenized else ["pick"]
    results = evaluate(live, tmp_path, tasks, model_args)
    # The third answer is wrong on purpose: the score must come from the model.
    assert math.isclose(results["pick"]["acc,none"], 2 / 3, abs_tol=1e-6)
    if tokenized:
        tokens = [BOS, *document.encode()]
        model = ByteModel()
        nats = -sum(model.logprobs(tokens[:i])[tokens[i]] for i in range(1, len(tokens)))
        expected = nats / math.log(2) / (len(tokens) - 1)
        assert math.isclose(results["rolling"]["bits_per_byte,none"], expected, rel_tol=1e-6)


def test_lm_eval_generates_without_a_tokenizer(live: Live, tmp_path: Path) -> None:
    write_task(
        tmp_path,
        "finish",
        [{"prompt": "the swa", "answer": "rm"}, {"prompt": "each sta", "answer": "nothing of this kind"}],
        {
            "output_type": "generate_until",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": [" "], "max_gen_toks": 8, "temperature": 0},
            "metric_list": [{"metric": "exact_match"}],
        },
    )
    model_args = {"model": "echo", "tokenizer_backend": "None", "tokenized_requests": "False"}
    results = evaluate(live, tmp_path, ["finish"], model_args, "--batch_size", "2")
    assert results["finish"]["exact_match,none"] == 0.5
