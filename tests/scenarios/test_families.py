"""Every model family over three stage processes against transformers: the same tokens, the same probabilities."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from mesh.client.client import Answer, Client
from shards.model.precision import Precision
from tests.leftovers import lasting
from tests.scenarios.processes import Swarm, World, start_stages, stop_all
from tests.shards import adapter_models, models
from tests.shards.gguf_files import NARROW, make_gguf
from tests.shards.widened import write_widened

torch.set_num_threads(1)
TOLERANCE = 1e-4
"""Of a chosen token's natural log-probability. These random weights magnify rounding: in float32, transformers itself
is up to 1.6e-4 away from what it says in float64, so the reference for probabilities is transformers in float64."""


@dataclass(frozen=True)
class Family:
    """A checkpoint to make, how it is cut, and how much is asked of it."""

    name: str
    shape: dict[str, Any] = field(default_factory=dict)
    spans: tuple[str, ...] = ("0:2", "2:4", "4:5")
    native: bool = True
    blocks: str = ""
    """The type of its blocks, where it is a GGUF file."""
    quantize: Precision | None = None
    """What its providers quantise it to."""

    def make(self, folder: Path) -> Path:
        if self.blocks:
            return make_gguf(folder, self.name, self.blocks, **self.shape)[0]
        if self.native:
            return models.make_checkpoint(folder, self.name, **self.shape)
        return adapter_models.make_adapter_checkpoint(folder, self.name, **self.shape)

    def reference(self, folder: Path) -> Any:
        if self.quantize is not None:
            return models.reference(write_widened(folder, self.quantize, folder.parent / "widened"))
        if self.blocks:
            return models.reference(folder.parent / "widened")
        return models.reference(folder) if self.native else adapter_models.reference(folder)

    @property
    def new_tokens(self) -> int:
        return 128 if self.native else 64

    @property
    def prompts(self) -> list[list[int]]:
        # Past Mistral's window, of one token, and in between; past the window of the adapter's families.
        lengths = (61, 1, 18) if self.native else (37, 5)
        return [random_tokens(length, seed) for seed, length in enumerate(lengths, start=1)]


FAMILIES = {
    "Llama": Family("llama", {"hidden_size": 60, "n_heads": 6, "n_kv_heads": 3, "intermediate_size": 77}),
    "Llama tied": Family("llama-tied", {"hidden_size": 36, "n_heads": 3, "n_kv_heads": 1}, ("0:1", "1:2", "2:5")),
    "Llama 3 rope": Family("llama3", {"intermediate_size": 91}, ("0:3", "3:4", "4:5")),
    "Mistral": Family("mistral", {"n_kv_heads": 3, "intermediate_size": 53}, ("0:2", "2:3", "3:5")),
    "Qwen2": Family("qwen2", {"hidden_size": 42, "n_heads": 7, "n_kv_heads": 1}, ("0:1", "1:4", "4:5")),
    "Qwen2 tied": Family("qwen2", {"tie_word_embeddings": True, "intermediate_size": 65}),
    "Qwen3": Family("qwen3", {"hidden_size": 50, "n_heads": 4, "n_kv_heads": 2}, ("0:2", "2:4", "4:5")),
    "Mixtral": Family("mixtral"),
    "Qwen3-MoE": Family("qwen3-moe", {"decoder_sparse_step": 2, "mlp_only_layers": []}),
    "gpt-oss": Family("gpt-oss"),
    "GGUF, Q4_1": Family("llama-tied", NARROW, blocks="Q4_1"),
    "GGUF, Q5_0": Family("qwen2", NARROW, blocks="Q5_0"),
    "quantised to int4": Family("llama-tied", NARROW, ("0:1", "1:3", "3:5"), quantize=Precision.INT4),
    "Gemma 2": Family("gemma2", {"hidden_size": 52, "n_heads": 4, "n_kv_heads": 2}, ("0:1", "1:3", "3:5")),
    "Gemma 3": Family("gemma3", {"intermediate_size": 91}),
    "Phi-3": Family("phi3", {"n_kv_heads": 3}, ("0:3", "3:4", "4:5")),
    "Phi-3 with LongRoPE": Family("phi3-long"),
    "GPT-2": Family("gpt2", native=False),
    "Falcon": Family("falcon-new", native=False),
    "BLOOM": Family("bloom", native=False),
}


@dataclass
class Expected:
    """What transformers says: the tokens that follow each prompt (float32), and log-probabilities of every position."""

    tokens: list[list[int]]
    logprobs: list[torch.Tensor]


@pytest.fixture(scope="module")
def anchor(checkpoint: Path) -> Iterator[Swarm]:
    """A node that the others find each other through; what it serves plays no part."""
    with World() as world, lasting(world.mark):
        yield start_stages(world, checkpoint, ["0:1"], "--name", "anchor")


@pytest.fixture
def serve(anchor: Swarm) -> Iterator[Callable[..., Swarm]]:
    started: list[Swarm] = []

    def start(folder: Path, spans: Sequence[str], *options: str) -> Swarm:
        started.append(start_stages(anchor.world, folder, spans, *options, peers=anchor.address))
        return started[-1]

    yield start
    stop_all([provider for swarm in started for provider in swarm.providers])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_three_processes_say_what_transformers_says(
    family: Family, anchor: Swarm, serve: Callable[..., Swarm], tmp_path: Path
):
    folder = family.make(tmp_path / family.name)
    swarm = serve(folder, family.spans, *(("--quantize", family.quantize.value) if family.quantize else ()))
    expected = expect(family, folder)  # while the processes start
    swarm.wait_serving()
    if family.quantize is not None:
        (served,) = (model for model in anchor.world.status(anchor.address) if model["name"] == swarm.model)
        assert served["name"].endswith(f"-{family.quantize}")
        assert {each["numerics"] for each in served["providers"]} == {f"float32/cpu/native/{family.quantize}"}
    answers = asyncio.run(ask(anchor.address, swarm.model, family))
    for prompt, answer, tokens, logprobs in zip(
        family.prompts, answers, expected.tokens, expected.logprobs, strict=True
    ):
        assert [str(hop.span) for hop in answer.completion.route] == list(family.spans)
        assert list(answer.tokens) == tokens
        assert len(set(tokens)) > 3, "a model that repeats itself shows little"
        said = [score.logprob for score in answer.completion.prompt_logprobs + answer.logprobs]
        assert said[0] is None and len(said) == len(prompt) + len(tokens)
        chosen = logprobs[:-1].gather(1, torch.tensor([prompt + tokens]).T[1:])[:, 0]
        torch.testing.assert_close(torch.tensor(said[1:]), chosen, atol=TOLERANCE, rtol=0)
        for score, row in zip(answer.logprobs, logprobs[len(prompt) - 1 : -1], strict=True):
            values = torch.tensor([value for _, value in score.top])
            torch.testing.assert_close(values, row.topk(3).values, atol=2 * TOLERANCE, rtol=0)
            torch.testing.assert_close(values, row[[token for token, _ in score.top]], atol=2 * TOLERANCE, rtol=0)


async def ask(address: str, model: str, family: Family) -> list[Answer]:
    """Continue every prompt at once."""
    async with Client(peers=[address]) as client:
        return await asyncio.gather(
            *(
                client.generate(
                    model,
                    prompt,
                    max_tokens=family.new_tokens,
                    logprobs=3,
                    prompt_logprobs=True,
                    ignore_eos=True,
                )
                for prompt in family.prompts
            )
        )


@torch.inference_mode()
def expect(family: Family, folder: Path) -> Expected:
    model = family.reference(folder)
    model.generation_config.eos_token_id = None
    exact = copy.deepcopy(model).double()
    if hasattr(model.config, "num_experts_per_tok"):
        exact.set_experts_implementation("eager")  # torch's grouped products have no float64
    tokens, logprobs = [], []
    for prompt in family.prompts:
        ids = torch.tensor([prompt])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=family.new_tokens, pad_token_id=0
        )
        tokens.append(whole[0, len(prompt) :].tolist())
        logprobs.append(exact(whole).logits[0].log_softmax(-1).float())
    return Expected(tokens, logprobs)


def random_tokens(count: int, seed: int) -> list[int]:
    return torch.randint(2, models.VOCAB_SIZE, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
