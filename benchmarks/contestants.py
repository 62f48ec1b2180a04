"""One program that answers questions about its speed: our engine alone, or `transformers`. Driven by JSON lines.

    python -m benchmarks.contestants engine|transformers FOLDER DTYPE THREADS

{"sessions": n, "prompt": p, "new": m, "round": r}  →  {"first": seconds, "rate": tokens/s, "tokens": [[ids], …]}

`first` is from the prompts to every session's first token, `rate` that of the tokens from there until one has all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shards.checkpoint.gguf import GgufCheckpoint
from shards.checkpoint.gguf_header import is_gguf
from shards.model.precision import Precision

Answer = Callable[[list[list[int]], int], tuple[float, float, list[list[int]]]]


def prompts_of(sessions: int, prompt: int, number: int, vocab: int) -> list[list[int]]:
    """The prompts of a round: the same for everybody who is asked (llama_cpp.cpp has the formula too)."""
    low = min(100, vocab // 4)
    return [[low + (i * 7919 + s * 31 + number * 101) % (vocab - low) for i in range(prompt)] for s in range(sessions)]


def engine(
    folder: Path, dtype: str, threads: int, precision: Precision | None = None, *, adapter: bool = False
) -> tuple[int, Answer]:
    """Our engine over a stage that has the whole model, driven without a thread of its own.

    `adapter`: over one that runs transformers' modelling code, also where the native path knows the model.
    """
    from shards.adapter import load_adapter_stage
    from shards.checkpoint.opening import open_checkpoint
    from shards.engine.core import EngineCore
    from shards.engine.sampler import SamplerState
    from shards.engine.sampling_params import SamplingParams
    from shards.engine.step import StepInput
    from shards.model.loading import load_stage
    from shards.model.span import Span
    from shards.model.stage import StageModel

    torch.set_num_threads(threads)
    checkpoint = open_checkpoint(folder, precision=precision)
    span = Span(0, checkpoint.spec.n_blocks)
    stage: StageModel
    if adapter:
        stage = load_adapter_stage(checkpoint, span, device=torch.device("cpu"), dtype=getattr(torch, dtype))
    else:
        stage = load_stage(checkpoint, span, dtype=dtype)
    core = EngineCore(stage, 4096)
    greedy = SamplingParams(temperature=0.0)

    def answer(prompts: list[list[int]], new: int) -> tuple[float, float, list[list[int]]]:
        began = time.perf_counter()
        size = len(prompts[0])
        capacity = size + new
        states = [
            core.add(
                index.to_bytes(4, "big"),
                span,
                capacity,
                reserve=capacity,
                sampler=SamplerState(greedy, prompt=size, fed=size, capacity=capacity, eos=()),
            )
            for index in range(len(prompts))
        ]
        tokens: dict[int, list[int]] = {state.number: [] for state in states}
        feed = [StepInput(state, 0, size, tokens=torch.tensor(ids)) for state, ids in zip(states, prompts, strict=True)]
        first = rate = 0.0
        had = 0
        while any(len(found) < new for found in tokens.values()):
            core.feed(feed)
            feed = []
            for output in core.step():
                if output.error is not None:
                    raise output.error
                if output.choice is None:
                    continue
                found, token = tokens[output.sequence.number], output.choice.sampled.token
                found.append(token)
                if len(found) < new:
                    feed.append(StepInput(output.sequence, output.choice.position, 1, tokens=torch.tensor([token])))
            now, have = time.perf_counter(), sum(map(len, tokens.values()))
            if not first and all(tokens.values()):
                first, had = now, have
            if first and now > first and not rate and any(len(found) == new for found in tokens.values()):
                rate = (have - had) / (now - first)
        for state in states:
            core.free(state)
        return first - began, rate, [tokens[state.number] for state in states]

    return checkpoint.spec.vocab_size, answer


def transformers(folder: Path, dtype: str, threads: int) -> tuple[int, Answer]:
    """The peer as its documentation has it: `sdpa` attention and a dynamic cache, all sessions in one batch.

    Of a GGUF file it gets the widened weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(threads)
    settings: dict[str, Any] = {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa"}
    if is_gguf(folder):
        checkpoint = GgufCheckpoint.open(folder)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**checkpoint.config), **settings)
        model.load_state_dict({name: checkpoint.read(name) for name in checkpoint.names()}, strict=False)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, **settings)
    model.eval()

    @torch.inference_mode()
    def answer(prompts: list[list[int]], new: int) -> tuple[float, float, list[list[int]]]:
        began = time.perf_counter()
        output = model(torch.tensor(prompts), use_cache=True, logits_to_keep=1)
        chosen = output.logits[:, -1].argmax(-1, keepdim=True)
        tokens = [chosen]
        first = time.perf_counter()
        for _ in range(new - 1):
            output = model(chosen, past_key_values=output.past_key_values, use_cache=True)
            chosen = output.logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(chosen)
        rate = len(prompts) * (new - 1) / (time.perf_counter() - first)
        return first - began, rate, torch.cat(tokens, dim=1).tolist()

    return int(model.config.vocab_size), answer


def main() -> None:
    """Serve questions until stdin ends."""
    kind, folder, dtype, threads = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    vocab, answer = {"engine": engine, "transformers": transformers}[kind](folder, dtype, threads)
    _say({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        prompts = prompts_of(asked["sessions"], asked["prompt"], asked["round"], vocab)
        first, rate, tokens = answer(prompts, asked["new"])
        _say({"first": first, "rate": rate, "tokens": tokens})


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
