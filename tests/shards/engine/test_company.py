"""A session's answer to the last bit, alone and beside 31 others that come and go: what verification builds on."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch

from shards.checkpoint.folder import Checkpoint
from shards.engine.core import EngineCore
from shards.engine.sampler import SamplerState
from shards.engine.sampling_params import SamplingParams
from shards.engine.scheduler import BatchLimits
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.model.loading import load_stage
from shards.model.span import Span
from shards.model.stage import StageModel
from shards.native.library import native_library
from tests.shards.models import make_checkpoint
from tests.shards.stages import random_tokens

torch.set_num_threads(1)

STEPS = 1000
OTHERS = 31
SCORED = SamplingParams(logprobs=3)


@dataclass
class Talk:
    """A session that is fed its prompt and then every token, with what was said of each: its bits are in there."""

    sequence: SequenceState
    left: int
    said: list[tuple[int, float | None, object]] = field(default_factory=list)

    @classmethod
    def begin(cls, core: EngineCore, name: int, prompt: list[int], new: int, params: SamplingParams) -> Talk:
        fed, capacity = len(prompt), len(prompt) + new
        sampler = SamplerState(params, prompt=fed, fed=fed, capacity=capacity, eos=(), known=prompt)
        session = name.to_bytes(16)
        sequence = core.add(session, core.model.span, capacity, client=f"{name % 5}", reserve=fed, sampler=sampler)
        core.feed([StepInput(sequence, 0, fed, tokens=torch.tensor(prompt))])
        return cls(sequence, new)

    def hear(self, core: EngineCore, output: StepOutput) -> None:
        assert output.error is None, output.error
        if output.choice is None:
            return
        sampled = output.choice.sampled
        self.said.append((sampled.token, sampled.logprob, sampled.top))
        self.left -= 1
        if self.left:
            after = StepInput(self.sequence, output.choice.position, 1, tokens=torch.tensor([sampled.token]))
            core.feed([after])
        else:
            core.free(self.sequence)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def made(family: str) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp("model"), family, n_blocks=3, context_length=2048)

    return made


def converse(model: StageModel, company: int, steps: int = STEPS) -> list[tuple[int, float | None, object]]:
    """What a session of `steps` tokens hears beside so many others, of which one ends and another begins often."""
    core = EngineCore(model, 1000, BatchLimits(prefill_tokens=48))
    watched = Talk.begin(core, 0, random_tokens(21), steps, SCORED)
    talks = {watched.sequence.number: watched}
    chosen, passes, shared = random.Random(5), 0, 0
    while watched.left:
        while len(talks) <= company:
            prompt = random_tokens(chosen.randrange(1, 200), seed=chosen.randrange(1000))
            params = chosen.choice([SamplingParams(), SamplingParams(temperature=1.0, seed=chosen.randrange(99))])
            other = Talk.begin(core, chosen.randrange(1, 1 << 60), prompt, chosen.randrange(1, 120), params)
            talks[other.sequence.number] = other
        outputs = core.step()
        passes += 1
        shared += len(outputs)
        for output in outputs:
            talk = talks[output.sequence.number]
            talk.hear(core, output)
            if not talk.left:
                del talks[output.sequence.number]
    assert shared / passes > 0.8 * company
    return watched.said


@pytest.mark.parametrize(
    ("family", "dtype", "steps"),
    [
        ("llama", "float32", STEPS),
        ("llama", "bfloat16", STEPS),
        ("gemma2", "float32", 400),
        ("gemma3", "bfloat16", 400),
        ("phi3", "float32", 400),
        ("mixtral", "float32", 400),
        ("gpt-oss", "bfloat16", 400),
    ],
)
def test_many_steps_give_the_same_bits_alone_and_beside_31_others(
    folders: Callable[[str], Path], family: str, dtype: str, steps: int
) -> None:
    if native_library() is None:
        pytest.skip("no native kernels on this machine")
    model = load_stage(Checkpoint.open(folders(family)), Span(0, 3), dtype=dtype)
    assert "/native" in model.numerics, "another path does not promise it"

    alone = converse(model, 0, steps)

    assert len(alone) == steps
    assert len({token for token, _, _ in alone}) > 10
    assert converse(model, OTHERS, steps) == alone
