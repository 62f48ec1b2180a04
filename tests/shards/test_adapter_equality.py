"""Adapter stages against the whole model as transformers runs it, for every proven family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open

from shards.adapter import AdapterStage, load_adapter_stage
from shards.checkpoint.folder import Checkpoint
from shards.model.span import Span
from shards.model.stage import LogitsMode
from tests.shards.adapter_models import FAMILIES, WINDOW, make_adapter_checkpoint, make_composite, reference
from tests.shards.models import EOS
from tests.shards.stages import Memory, StageSession, forward

torch.set_num_threads(1)
THREE = (Span(0, 2), Span(2, 4), Span(4, 5))
PROMPT = torch.randint(2, 300, (37,), generator=torch.Generator().manual_seed(1)).tolist()
OTHER = torch.randint(2, 300, (29,), generator=torch.Generator().manual_seed(2)).tolist()


def load(folder: Path, span: Span) -> AdapterStage:
    return load_adapter_stage(Checkpoint.open(folder), span, device=torch.device("cpu"), dtype=torch.float32)


@dataclass
class Session:
    """One session over hops."""

    hops: list[StageSession]

    @property
    def length(self) -> int:
        return self.hops[0].length

    def step(self, tokens: Sequence[int], want: LogitsMode = LogitsMode.LAST) -> torch.Tensor:
        x = torch.tensor(tokens)
        for index, hop in enumerate(self.hops):
            (x,) = forward([(hop, hop.piece(hidden=x, want=want) if index else hop.piece(x, want=want))])
        return x

    def truncate(self, length: int) -> None:
        for hop in self.hops:
            hop.truncate(length)


@dataclass
class Subject:
    """A family's checkpoint, the whole model, and the same model in three stages."""

    folder: Path
    whole: transformers.PreTrainedModel
    stages: list[AdapterStage]

    def __post_init__(self) -> None:
        self.memories = [Memory(stage) for stage in self.stages]

    def session(self) -> Session:
        return Session([memory.session(120) for memory in self.memories])

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            return self.whole(torch.tensor([tokens])).logits[0]


@pytest.fixture(scope="module")
def subject_of(tmp_path_factory: pytest.TempPathFactory):
    @cache
    def make(family: str) -> Subject:
        folder = make_adapter_checkpoint(tmp_path_factory.mktemp(family), family)
        return Subject(folder, reference(folder), [load(folder, span) for span in THREE])

    return make


@pytest.fixture
def subject(subject_of, family: str) -> Subject:
    return subject_of(family)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_64_greedy_tokens_after_a_prompt_in_chunks_equal_transformers_generate(subject: Subject):
    n = 64
    told = subject.whole.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.int64),
        max_new_tokens=n,
        min_new_tokens=n,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    session = subject.session()
    session.step(PROMPT[:11], LogitsMode.NOTHING)
    session.step(PROMPT[11:30], LogitsMode.NOTHING)
    logits = session.step(PROMPT[30:])
    said: list[int] = []
    for expected in told.logits:
        assert logits.shape == expected.shape and logits.dtype == torch.float32
        close(logits, expected)
        allowed = logits[0].clone()
        allowed[EOS] = -torch.inf  # what min_new_tokens does
        said.append(int(allowed.argmax()))
        logits = session.step(said[-1:])
    assert said == told.sequences[0, len(PROMPT) :].tolist()
    assert len(set(said)) >= 5  # the model does not just repeat itself


@every_family
def test_tokens_taken_back_and_replayed_leave_no_trace(subject: Subject):
    session = subject.session()
    session.step(PROMPT, LogitsMode.NOTHING)
    session.step(OTHER, LogitsMode.NOTHING)
    session.truncate(len(PROMPT) - 5)
    assert session.length == len(PROMPT) - 5
    tokens = PROMPT[:-5] + OTHER[:17]
    close(session.step(OTHER[:17], LogitsMode.ALL), subject.logits(tokens)[-17:])
    session.truncate(0)
    close(session.step(OTHER, LogitsMode.ALL), subject.logits(OTHER))


@every_family
def test_sessions_over_sub_spans_of_one_stage_equal_the_whole_model(subject: Subject):
    stage = load(subject.folder, Span(0, 5))
    spans = (Span(0, 1), Span(1, 3), Span(3, 4), Span(4, 5))
    memory = Memory(stage)
    session = Session([memory.session(64, span) for span in spans])
    tail = Session([memory.session(64, Span(0, 4)), subject.memories[2].session(64)])
    whole = Session([memory.session(64)])
    expected = subject.logits(PROMPT)
    for each in (session, tail, whole):
        got = [each.step(PROMPT[:20], LogitsMode.ALL), each.step(PROMPT[20:36], LogitsMode.ALL), each.step(PROMPT[36:])]
        close(torch.cat(got), expected)
    held = {hop.span: stage._caches[hop.sequence].nbytes for hop in session.hops}
    assert sum(held.values()) == stage.page_bytes * len(whole.hops[0].pages)
    for hop in session.hops:
        stage.forget(hop.sequence)


@every_family
def test_interleaved_sessions_do_not_disturb_each_other(subject: Subject):
    one, two = subject.session(), subject.session()
    one.step(PROMPT[:25], LogitsMode.NOTHING)
    two.step(OTHER[:9], LogitsMode.NOTHING)
    ours, theirs = one.step(PROMPT[25:], LogitsMode.ALL), two.step(OTHER[9:], LogitsMode.ALL)
    close(ours, subject.logits(PROMPT)[25:])
    close(theirs, subject.logits(OTHER)[9:])
    x = [torch.tensor([7, 8]), torch.tensor([9])]
    for number in range(len(one.hops)):
        name = "hidden" if number else "tokens"
        hops = one.hops[number], two.hops[number]
        x = forward([(hop, hop.piece(want=LogitsMode.ALL, **{name: each})) for hop, each in zip(hops, x, strict=True)])
    close(x[0], subject.logits([*PROMPT, 7, 8])[-2:])
    close(x[1], subject.logits([*OTHER, 9])[-1:])


@every_family
def test_a_stage_gives_logits_for_the_positions_that_are_wanted(subject: Subject):
    counts = {LogitsMode.NOTHING: 0, LogitsMode.LAST: 1, LogitsMode.ALL: len(OTHER)}
    for want, count in counts.items():
        logits = subject.session().step(OTHER, want)
        assert logits.shape == (count, 300) and logits.dtype == torch.float32
        if count:
            close(logits, subject.logits(OTHER)[-count:])


@pytest.mark.parametrize("nested", [True, False])
def test_the_text_part_of_a_model_that_also_sees_is_served(subject_of, tmp_path: Path, nested: bool):
    text = subject_of("gemma3")
    folder = make_composite(tmp_path / "both", text.folder, nested=nested)
    stages = [load(folder, span) for span in THREE]
    session = Session([Memory(stage).session(64) for stage in stages])
    close(session.step(PROMPT, LogitsMode.ALL), text.logits(PROMPT))


def test_the_references_cover_windows_and_fused_experts(subject_of):
    assert len(PROMPT) > WINDOW
    with safe_open(subject_of("mixtral").folder / "model.safetensors", "pt") as file:
        assert any(".experts.4.w1." in name for name in file.keys())  # noqa: SIM118 (not a dict)
    fused = dict(subject_of("mixtral").whole.named_parameters())
    assert any(name.endswith("experts.gate_up_proj") for name in fused)


def test_a_half_precision_stage_agrees_with_the_whole_model_at_its_precision(subject_of):
    folder = subject_of("gemma3").folder
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    stages = [
        load_adapter_stage(Checkpoint.open(folder), span, device=torch.device("cpu"), dtype=torch.bfloat16)
        for span in THREE
    ]
    session = Session([Memory(stage).session(64) for stage in stages])
    with torch.inference_mode():
        expected = whole(torch.tensor([OTHER])).logits[0].float()
    torch.testing.assert_close(session.step(OTHER, LogitsMode.ALL), expected, atol=0.05, rtol=0.05)
