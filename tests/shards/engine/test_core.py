"""The core over a model that hashes everything before a token: whatever shares the passes and the pages, the answers
are those of an undisturbed model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shards.engine.blocks import chain_keys, chain_root
from shards.engine.core import MAX_QUEUED, EngineCore
from shards.engine.sampler import SamplerState
from shards.engine.sampling_params import SamplingParams
from shards.engine.scheduler import BatchLimits
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput, StepOutput
from shards.errors import BadActivation, CapacityExceeded, Preempted
from shards.model.paging import pages_for
from shards.model.span import Span
from shards.model.spec import parse_config
from shards.model.stage import PAGE
from tests.shards.hash_model import CONTEXT, HIDDEN, VOCAB, HashModel, reference

N_BLOCKS = 3
WHOLE = Span(0, N_BLOCKS)
SPEC = parse_config(
    json.dumps(
        {
            "model_type": "llama",
            "num_hidden_layers": N_BLOCKS,
            "hidden_size": HIDDEN,
            "vocab_size": VOCAB,
            "max_position_embeddings": CONTEXT,
        }
    )
)
GREEDY = SamplingParams()


@dataclass
class Chat:
    """What a client does with one session: feeds its prompt, then every token; again when it lost its pages."""

    prompt: Sequence[int]
    count: int
    params: SamplingParams = GREEDY
    client: str = ""
    chunk: int = 1000
    keys: Sequence[bytes] = ()
    tokens: list[int] = field(default_factory=list)
    sequence: SequenceState | None = None
    preempted: int = 0

    @property
    def done(self) -> bool:
        return len(self.tokens) >= self.count

    @property
    def expected(self) -> list[int]:
        return list(reference(N_BLOCKS, self.prompt, self.count, self.params, ignore_eos=True))

    def open(self, core: EngineCore, *, reserve: bool = True) -> None:
        fed = [*self.prompt, *self.tokens]
        capacity = len(self.prompt) + self.count
        sampler = SamplerState(self.params, prompt=len(self.prompt), fed=len(fed), capacity=capacity, eos=(), known=fed)
        sequence = core.add(
            bytes(16),
            WHOLE,
            capacity,
            client=self.client,
            reserve=len(fed) if reserve else 0,
            sampler=sampler,
            keys=self.keys,
        )
        self.sequence = sequence
        inputs = []
        for start in range(sequence.length, len(fed), self.chunk):
            part = fed[start : start + self.chunk]
            inputs.append(StepInput(sequence, start, len(part), tokens=torch.tensor(part)))
        core.feed(inputs)

    def hear(self, core: EngineCore, output: StepOutput) -> None:
        assert output.sequence is self.sequence
        if isinstance(output.error, Preempted):
            self.preempted += 1
            core.free(output.sequence)
            self.sequence = None
            return
        assert output.error is None
        if output.choice is None:
            return
        assert output.choice.position == len(self.prompt) + len(self.tokens)
        token = output.choice.sampled.token
        self.tokens.append(token)
        if self.done:
            core.free(output.sequence)
            self.sequence = None
        else:
            core.feed([StepInput(output.sequence, output.choice.position, 1, tokens=torch.tensor([token]))])


def check(core: EngineCore, chats: Sequence[Chat]) -> None:
    """The pool is never over-allocated, and holds what its sessions have."""
    held = {page for chat in chats if chat.sequence for page in chat.sequence.pages}
    assert core.blocks.held == len(held) <= core.blocks.pages


def run(core: EngineCore, chats: Sequence[Chat], *, reserve: bool = True) -> None:
    """Until all are done; those without a session are opened again as soon as there is room."""
    for _ in range(5000):
        for chat in chats:
            if chat.sequence is None and not chat.done:
                try:
                    chat.open(core, reserve=reserve)
                except CapacityExceeded:
                    break
        check(core, chats)
        for output in core.step():
            next(chat for chat in chats if chat.sequence is output.sequence).hear(core, output)
        if all(chat.done for chat in chats):
            return
    raise AssertionError("the sessions never ended")


def core_of(pages: int, **limits: int) -> tuple[EngineCore, HashModel]:
    model = HashModel(SPEC, WHOLE)
    return EngineCore(model, pages, BatchLimits(**limits)), model


def prompt(count: int, seed: int = 0) -> list[int]:
    return torch.randint(2, VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_sessions_that_share_passes_get_what_they_get_alone() -> None:
    core, _ = core_of(200)
    chats = [Chat(prompt(5 + 9 * number, number), 20) for number in range(8)]
    run(core, chats)
    assert [chat.tokens for chat in chats] == [chat.expected for chat in chats]
    assert core.blocks.held == 0 and not len(core) and not core.queued


@pytest.mark.parametrize("reserve", [True, False])
def test_a_pool_that_is_too_small_preempts_and_no_token_is_lost_or_differs(reserve: bool) -> None:
    core, _ = core_of(12)
    sampling = SamplingParams(temperature=1.0, seed=7, repetition_penalty=1.2)
    chats = [Chat(prompt(20, number), 60, sampling if number % 2 else GREEDY) for number in range(6)]
    run(core, chats, reserve=reserve)
    assert [chat.tokens for chat in chats] == [chat.expected for chat in chats]
    assert sum(chat.preempted for chat in chats) > 0
    assert not chats[0].preempted, "the oldest goes on to its end"
    assert core.blocks.held == 0


def test_two_that_are_larger_than_a_share_both_get_to_their_end() -> None:
    core, _ = core_of(7, sessions=4, prefill_tokens=32, patience=4)
    chats = [Chat(prompt(68, 2), 38, client="b", chunk=3), Chat(prompt(70, 3), 16, client="a", chunk=3)]
    run(core, chats, reserve=False)
    assert [chat.tokens for chat in chats] == [chat.expected for chat in chats]


chats_of = st.lists(
    st.builds(
        lambda length, count, seed, client, chunk: Chat(
            prompt(length, seed), count, SamplingParams(temperature=0.9, seed=seed), client, chunk
        ),
        st.integers(1, 70),
        st.integers(1, 40),
        st.integers(0, 3),
        st.sampled_from("ab"),
        st.sampled_from((3, 17, 1000)),
    ),
    min_size=1,
    max_size=7,
)


@settings(max_examples=60, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(chats_of, st.integers(7, 30), st.integers(1, 5), st.integers(1, 40), st.booleans(), st.booleans())
def test_whatever_comes_every_session_gets_its_own_answer(
    chats: list[Chat], pages: int, seats: int, budget: int, cached: bool, reserve: bool
) -> None:
    core, model = core_of(pages, sessions=seats, prefill_tokens=budget, patience=4)
    if cached:
        for chat in chats:
            chat.keys = keys_of(chat)
    run(core, chats, reserve=reserve)
    assert [chat.tokens for chat in chats] == [chat.expected for chat in chats]
    assert core.blocks.held == 0 and core.queued == 0 and not len(core)
    assert all(len(pieces) <= seats for pieces in model.passes)
    assert all(sum(count for _, _, count in pieces if count > 1) <= budget for pieces in model.passes)


def keys_of(chat: Chat) -> list[bytes]:
    full = (repr(chat.prompt[at : at + PAGE]).encode() for at in range(0, len(chat.prompt) // PAGE * PAGE, PAGE))
    return chain_keys(chain_root(chat.client), full)


def test_running_sessions_decode_in_every_pass_while_a_long_prompt_is_run_in_parts() -> None:
    core, model = core_of(100, prefill_tokens=32)
    short = Chat(prompt(4), 30)
    short.open(core)
    for output in core.step():
        short.hear(core, output)
    long = Chat(prompt(200, 1), 2)
    long.open(core)
    for _ in range(7):
        for output in core.step():
            (short if output.sequence is short.sequence else long).hear(core, output)
    assert [len(pieces) for pieces in model.passes[1:]] == [2] * 7
    assert [pieces[1][2] for pieces in model.passes[1:]] == [32] * 6 + [8]
    assert len(long.tokens) == 1 and len(short.tokens) == 8
    assert long.tokens == long.expected[:1]


def test_the_parts_of_an_input_come_out_one_by_one_and_the_last_is_complete() -> None:
    model = HashModel(SPEC, Span(0, 2))
    core = EngineCore(model, 20, BatchLimits(prefill_tokens=10))
    sequence = core.add(b"s" * 16, Span(0, 2), 60, reserve=25)
    core.feed([StepInput(sequence, 0, 25, tokens=torch.arange(25))])
    outputs = [core.step()[0] for _ in range(3)]
    assert [(each.start, each.count, each.complete) for each in outputs] == [
        (0, 10, False),
        (10, 10, False),
        (20, 5, True),
    ]
    assert [len(each.hidden) for each in outputs if each.hidden is not None] == [10, 10, 5]
    assert not core.has_work


def test_clients_share_the_prompt_budget() -> None:
    core, _ = core_of(200, prefill_tokens=20)
    greedy = [Chat(prompt(100, number), 1, client="a") for number in range(4)]
    modest = Chat(prompt(60, 9), 1, client="b")
    for chat in (*greedy, modest):
        chat.open(core)
    passes = 0
    while not modest.done:
        for output in core.step():
            next(chat for chat in (*greedy, modest) if chat.sequence is output.sequence).hear(core, output)
        passes += 1
    assert passes <= 2 * 60 // 20 + 1, "half of the budget is its own, however many sessions the other has"


def test_the_second_session_with_a_prompt_shares_its_pages_and_gets_the_same_answer() -> None:
    core, model = core_of(40)
    first = Chat(prompt(70), 5)
    first.keys = keys_of(first)
    run(core, [first])
    second = Chat([*first.prompt, *first.tokens, 9, 8], 5, keys=first.keys)
    second.open(core)
    assert second.sequence is not None and second.sequence.length == 64
    model.passes.clear()
    for output in core.step():
        second.hear(core, output)
    assert model.passes == [[(second.sequence.number, 64, 13)]] if second.sequence else True
    run(core, [second])
    assert second.tokens == second.expected


def test_a_prompt_that_is_cached_whole_still_runs_its_last_token() -> None:
    core, _ = core_of(40)
    first, second = Chat(prompt(64), 3), Chat(prompt(64), 3)
    first.keys = second.keys = keys_of(first)
    run(core, [first])
    second.open(core)
    assert second.sequence is not None and second.sequence.length == 48
    run(core, [second])
    assert second.tokens == first.tokens == first.expected


def test_sessions_that_are_open_at_once_share_what_is_full() -> None:
    core, _ = core_of(40)
    chats = [Chat(prompt(40), 30) for _ in range(3)]
    for chat in chats:
        chat.keys = keys_of(chat)
    chats[0].open(core)
    for output in core.step():
        chats[0].hear(core, output)
    for chat in chats[1:]:
        chat.open(core)
    assert core.blocks.held == 3 + 1 + 1, "two full pages are shared, the third is each one's own"
    run(core, chats)
    assert all(chat.tokens == chat.expected for chat in chats)


def test_a_session_cut_to_where_a_page_ends_leaves_the_rest_to_who_finds_it() -> None:
    core, _ = core_of(40)
    chats = [Chat(prompt(70), 5) for _ in range(3)]
    for chat in chats:
        chat.keys = keys_of(chat)
    run(core, chats[:1])
    for chat in chats[1:]:
        chat.open(core)
    first = chats[1].sequence
    assert first is not None and first.length == 64
    core.free(first)
    again = core.add(bytes(16), WHOLE, 75, reserve=70, keys=chats[1].keys, sampler=first.sampler)
    chats[1].sequence = again
    core.feed([StepInput(again, 32, 38, tokens=torch.tensor(prompt(70)[32:]))])
    run(core, chats)
    assert all(chat.tokens == chat.expected for chat in chats)
    assert core.blocks.find(chats[0].keys) == 4


def test_what_others_share_cannot_be_written_over() -> None:
    core, _ = core_of(40)
    first, second = Chat(prompt(40), 30), Chat(prompt(40), 30)
    first.keys = second.keys = keys_of(first)
    first.open(core)
    for output in core.step():
        first.hear(core, output)
    second.open(core)
    assert first.sequence is not None and second.sequence is not None
    core.step()
    core.feed([StepInput(second.sequence, 20, 1, tokens=torch.tensor([3]))])
    failed = next(output for output in core.step() if output.sequence is second.sequence)
    assert isinstance(failed.error, BadActivation)
    core.free(second.sequence)
    core.feed([StepInput(first.sequence, 20, 1, tokens=torch.tensor([3]))])
    while core.has_work:
        core.step()
    assert first.sequence.length == 21 and core.blocks.find(first.keys) == 1


def test_freeing_a_session_drops_what_waits_and_frees_its_pages_also_during_a_pass() -> None:
    core, _ = core_of(20)
    stay, leave = Chat(prompt(20), 10), Chat(prompt(30, 1), 10, chunk=10)
    stay.open(core)
    leave.open(core)
    assert core.queued == 4
    chosen = core.plan()
    assert leave.sequence is not None
    gone = leave.sequence
    core.free(gone)
    core.free(gone)
    other = Chat(prompt(60, 2), 5)
    other.open(core)
    outputs = core.book(chosen, core.compute(chosen))
    assert {output.sequence for output in outputs} == {stay.sequence, gone}
    assert gone.pages == [] and gone.length == 0
    core.feed([StepInput(gone, 30, 1, tokens=torch.tensor([3]))])
    for output in outputs:
        if output.sequence is stay.sequence:
            stay.hear(core, output)
    run(core, [stay, other])
    assert stay.tokens == stay.expected and other.tokens == other.expected


def test_cancelled_input_is_dropped_and_the_rest_of_a_failed_one_is_not_run() -> None:
    core, model = core_of(20, prefill_tokens=10)
    sequence = core.add(bytes(16), WHOLE, 100, reserve=50)
    core.feed([StepInput(sequence, 5, 25, tokens=torch.arange(25))])
    (failed,) = core.step()
    assert isinstance(failed.error, BadActivation) and failed.complete
    assert not core.queued and not model.passes
    given = StepInput(sequence, 0, 25, tokens=torch.arange(25))
    core.feed([given])
    core.step()
    given.cancelled = True
    assert core.step() == [] and not core.queued and sequence.length == 10


def test_what_can_never_fit_or_does_not_fit_now_is_refused_and_nothing_is_taken() -> None:
    core, _ = core_of(4)
    for span, capacity in ((Span(0, 4), 10), (WHOLE, 0), (WHOLE, CONTEXT + 1), (WHOLE, 4 * PAGE + 1)):
        with pytest.raises(CapacityExceeded):
            core.add(bytes(16), span, capacity)
    core.add(bytes(16), WHOLE, 4 * PAGE, reserve=2 * PAGE)
    with pytest.raises(CapacityExceeded, match="3 pages are needed, 2 are free"):
        core.add(bytes(16), WHOLE, 4 * PAGE, reserve=2 * PAGE + 1)
    assert core.blocks.held == 2


def test_a_full_queue_refuses_all_of_a_frame() -> None:
    core, _ = core_of(4)
    sequence = core.add(bytes(16), WHOLE, 20)
    core.feed([StepInput(sequence, 0, 1) for _ in range(MAX_QUEUED - 1)])
    with pytest.raises(CapacityExceeded, match="queue is full"):
        core.feed([StepInput(sequence, 0, 1) for _ in range(2)])
    assert core.queued == MAX_QUEUED - 1


def test_sessions_over_a_part_of_the_span_take_whole_pages_and_passes_of_their_own() -> None:
    core, model = core_of(20)
    part = core.add(b"p" * 16, Span(0, 2), 40, reserve=20)
    whole = Chat(prompt(20), 4)
    whole.open(core)
    core.feed([StepInput(part, 0, 20, tokens=torch.tensor(prompt(20)))])
    assert len(part.pages) == pages_for(20)
    while not whole.done:
        for output in core.step():
            if output.sequence is not part:
                whole.hear(core, output)
    assert whole.tokens == whole.expected
    assert all(len(pieces) == 1 for pieces in model.passes)
