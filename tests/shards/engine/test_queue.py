"""Which work a pass takes: decode first, within the budget, one turn a session, and nobody waits for ever."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from shards.engine.scheduler import BatchLimits, choose_batch
from shards.engine.work import Work
from shards.model.span import Span

SPANS = (Span(0, 4), Span(0, 2), Span(1, 4))


@dataclass
class FakeCache:
    """The one thing of a cache that the choice looks at."""

    span: Span
    capacity: int = 1000
    length: int = 0
    nbytes: int = 0

    def truncate(self, length: int) -> None:
        self.length = length


def work(session: int, count: int = 1, span: Span = SPANS[0], passed_over: int = 0) -> Work:
    return Work(session.to_bytes(16, "big"), FakeCache(span), 0, count, passed_over=passed_over)


@st.composite
def queues(draw: st.DrawFn) -> list[Work]:
    spans = {session: draw(st.sampled_from(SPANS)) for session in range(8)}
    return [
        work(
            session, draw(st.sampled_from((1, 1, 2, 30, 100, 700))), spans[session], draw(st.sampled_from((0, 0, 0, 5)))
        )
        for session in draw(st.lists(st.integers(0, 7), max_size=25))
    ]


limits = st.builds(BatchLimits, st.integers(1, 6), st.integers(1, 200), st.integers(1, 6))


@settings(max_examples=400)
@given(queues(), limits)
def test_a_batch_keeps_all_the_rules(waiting: list[Work], limits: BatchLimits) -> None:
    batch = choose_batch(waiting, limits)

    assert bool(batch) == bool(waiting)
    assert len(batch) <= limits.sessions
    assert len({item.session for item in batch}) == len(batch), "one turn of a session"
    assert len({item.cache.span for item in batch}) <= 1, "one span"
    first_turns: dict[bytes, Work] = {}
    for item in waiting:
        first_turns.setdefault(item.session, item)
    assert all(first_turns[item.session] is item for item in batch), "a session's work stays in order"
    prompts = [item for item in batch if not item.is_decode]
    assert len(prompts) <= 1 or sum(item.count for item in prompts) <= limits.prefill_tokens


@given(queues(), limits)
def test_decodes_go_before_prompts_unless_something_waited_too_long(waiting: list[Work], limits: BatchLimits) -> None:
    for item in waiting:
        item.passed_over = 0
    batch = choose_batch(waiting, limits)
    if not batch:
        return
    span = batch[0].cache.span
    turns = list({item.session: item for item in reversed(waiting)}.values())
    decodes = {id(item) for item in turns if item.is_decode}
    if decodes:
        assert batch[0].is_decode
        same_span = sum(1 for item in turns if item.is_decode and item.cache.span == span)
        assert sum(1 for item in batch if item.is_decode) == min(limits.sessions, same_span)


def test_a_prompt_larger_than_the_budget_goes_alone_among_prompts() -> None:
    batch = choose_batch([work(1, 900), work(2), work(3, 10)], BatchLimits(prefill_tokens=100))
    assert [item.count for item in batch] == [1, 900]


def test_prompts_fill_the_budget_in_order() -> None:
    waiting = [work(1, 60), work(2, 30), work(3, 20), work(4, 5)]
    batch = choose_batch(waiting, BatchLimits(prefill_tokens=100))
    assert [item.count for item in batch] == [60, 30], "nobody overtakes the one that does not fit"


def test_of_two_spans_the_older_decode_decides() -> None:
    batch = choose_batch([work(1, 50, SPANS[1]), work(2, 1, SPANS[2]), work(3, 1, SPANS[0])], BatchLimits())
    assert [item.session[-1] for item in batch] == [2]


def test_overdue_work_decides_on_the_span_and_has_a_seat() -> None:
    waiting = [work(number) for number in range(10)] + [work(20, 50, SPANS[1], passed_over=16), work(21, 1, SPANS[1])]
    batch = choose_batch(waiting, BatchLimits(sessions=4))
    assert [item.session[-1] for item in batch] == [20, 21]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_nothing_starves_however_much_keeps_coming(data: st.DataObject) -> None:
    """Decodes of one span never cease, more of them than seats; what else waits is served all the same."""
    limits = BatchLimits(sessions=4, prefill_tokens=64, patience=8)
    others = data.draw(
        st.lists(st.tuples(st.sampled_from(SPANS), st.sampled_from((1, 10, 500))), min_size=1, max_size=5)
    )
    endless = [work(number) for number in range(data.draw(st.integers(1, 12)))]
    waiting = deque(endless)
    outstanding = [work(100 + number, count, span) for number, (span, count) in enumerate(others)]
    waiting.extend(outstanding)
    passes = 0
    while any(item in waiting for item in outstanding):
        batch = choose_batch(waiting, limits)
        for item in batch:
            waiting.remove(item)
        for item in waiting:
            item.passed_over += 1
        for item in batch:
            if item in endless:
                item.passed_over = 0
                waiting.append(item)
        passes += 1
        assert passes <= limits.patience + len(endless) + 2 * len(outstanding) + 8
