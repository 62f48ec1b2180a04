"""Whose turn it is in a pass: decode first, within the budget, clients alike, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shards.engine.scheduler import MOST_CLIENTS, BatchLimits, Shares, Turn, choose_turns, choose_victim
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput
from shards.model.span import Span

SPANS = (Span(0, 4), Span(0, 2), Span(1, 4))


def waiting(
    number: int, count: int = 1, span: Span = SPANS[0], passed_over: int = 0, client: str = ""
) -> SequenceState:
    sequence = SequenceState(number, number.to_bytes(16, "big"), client, span, 10_000)
    sequence.queue.append(StepInput(sequence, 0, count, passed_over=passed_over))
    return sequence


queues = st.lists(
    st.tuples(
        st.sampled_from((1, 1, 2, 30, 100, 700)), st.sampled_from(SPANS), st.sampled_from((0, 0, 0, 5)),
        st.sampled_from("abc"),
    ),
    max_size=25,
).map(lambda facts: [waiting(number, *each) for number, each in enumerate(facts)])  # fmt: skip

limits = st.builds(BatchLimits, st.integers(1, 6), st.integers(1, 200), st.integers(1, 6))


@settings(max_examples=400)
@given(queues, limits)
def test_a_pass_keeps_all_the_rules(ready: list[SequenceState], limits: BatchLimits) -> None:
    turns = choose_turns(ready, limits, Shares())

    assert bool(turns) == bool(ready)
    assert len(turns) <= limits.sessions
    assert len({turn.sequence.number for turn in turns}) == len(turns), "one turn of a session"
    assert len({turn.sequence.span for turn in turns}) <= 1, "one span"
    assert all(0 < turn.count <= turn.sequence.queue[0].left for turn in turns)
    prompts = sum(turn.count for turn in turns if not turn.sequence.queue[0].is_decode)
    assert prompts <= limits.prefill_tokens


@given(queues, limits)
def test_decodes_go_before_prompts_unless_something_waited_too_long(
    ready: list[SequenceState], limits: BatchLimits
) -> None:
    for each in ready:
        each.queue[0].passed_over = 0
    turns = choose_turns(ready, limits, Shares())
    if any(each.queue[0].is_decode for each in ready):
        span = turns[0].sequence.span
        there = sum(1 for each in ready if each.queue[0].is_decode and each.span == span)
        assert turns[0].sequence.queue[0].is_decode
        assert sum(1 for turn in turns if turn.sequence.queue[0].is_decode) == min(limits.sessions, there)


def counts(turns: list[Turn]) -> list[tuple[int, int]]:
    return [(turn.sequence.number, turn.count) for turn in turns]


def test_prompts_fill_the_budget_the_shortest_first_and_the_last_in_part() -> None:
    ready = [waiting(1, 60), waiting(2), waiting(3, 30), waiting(4, 20), waiting(5, 5)]
    turns = choose_turns(ready, BatchLimits(prefill_tokens=100), Shares())
    assert counts(turns) == [(2, 1), (5, 5), (4, 20), (3, 30), (1, 45)]


def test_a_long_prompt_does_not_keep_another_clients_short_one_waiting() -> None:
    shares = Shares()
    long, short = waiting(1, 900, client="a"), waiting(2, 20, client="b")
    assert counts(choose_turns([long, short], BatchLimits(prefill_tokens=100), shares)) == [(2, 20), (1, 80)]
    shares.count("a", 100)
    long.queue[0].ran = 100
    assert counts(choose_turns([long, short], BatchLimits(prefill_tokens=100), shares)) == [(2, 20), (1, 80)]


def test_where_there_are_more_decodes_than_seats_clients_take_turns() -> None:
    shares, limits = Shares(), BatchLimits(sessions=4)
    ready = [waiting(number, client="a") for number in range(12)] + [waiting(20, client="b")]
    had = {"a": 0, "b": 0}
    for client in had:
        shares.enter(client, had)
    for _ in range(40):
        turns = choose_turns(ready, limits, shares)
        for turn in turns:
            client = turn.sequence.client
            shares.count(client, 1)
            had[client] += 1
            ready.remove(turn.sequence)
            ready.append(turn.sequence)
    assert had == {"a": 121, "b": 39}, "who has one session has its turn as soon as another was served before it"


def test_who_comes_late_has_no_claim_on_what_was_served_before() -> None:
    shares = Shares()
    shares.count("a", 500)
    shares.count("b", 900)
    shares.enter("new", {"a", "b"})
    assert shares.of("new") == 500
    shares.enter("b", {"a"})
    assert shares.of("b") == 900, "nor does who has had more lose count by pausing"
    for number in range(2 * MOST_CLIENTS):
        shares.enter(f"client {number}", {"a"})
    assert len(shares._tokens) == MOST_CLIENTS


def test_of_two_spans_the_older_decode_decides() -> None:
    ready = [waiting(1, 50, SPANS[1]), waiting(2, 1, SPANS[2]), waiting(3, 1, SPANS[0])]
    assert counts(choose_turns(ready, BatchLimits(), Shares())) == [(2, 1)]


def test_overdue_work_decides_on_the_span_and_has_a_seat() -> None:
    ready = [waiting(number) for number in range(10)]
    ready += [waiting(20, 50, SPANS[1], passed_over=16), waiting(21, 1, SPANS[1])]
    assert counts(choose_turns(ready, BatchLimits(sessions=4), Shares())) == [(20, 50), (21, 1)]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_nothing_starves_however_much_keeps_coming(data: st.DataObject) -> None:
    """Decodes of one span never cease, more of them than seats; what else waits is served all the same."""
    limits, shares = BatchLimits(sessions=4, prefill_tokens=64, patience=8), Shares()
    facts = data.draw(
        st.lists(st.tuples(st.sampled_from(SPANS), st.sampled_from((1, 10, 500))), min_size=1, max_size=5)
    )
    endless = [waiting(number, client="a") for number in range(data.draw(st.integers(1, 12)))]
    others = [waiting(100 + number, count, span, client="b") for number, (span, count) in enumerate(facts)]
    ready = [*endless, *others]
    passes = 0
    while any(each in ready for each in others):
        turns = choose_turns(ready, limits, shares)
        taken = {turn.sequence.number: turn.count for turn in turns}
        for each in list(ready):
            head = each.queue[0]
            if each.number not in taken:
                head.passed_over += 1
                continue
            shares.count(each.client, taken[each.number])
            ready.remove(each)
            if each in endless:
                each.queue[0] = StepInput(each, 0, 1)
                ready.append(each)
            else:
                head.ran += taken[each.number]
                if head.left:
                    ready.append(each)
        passes += 1
        pieces = sum(1 + count // limits.prefill_tokens for _, count in facts)
        assert passes <= (limits.patience + 2) * (pieces + 2) + len(endless)


def holder(number: int, pages: int, client: str) -> SequenceState:
    return SequenceState(number, bytes(16), client, SPANS[0], 1000, pages=list(range(pages)), length=pages)


def test_the_youngest_gives_way_so_that_the_oldest_gets_to_its_end() -> None:
    limits = BatchLimits(client_share=0.75)
    sessions = [holder(1, 5, "a"), holder(4, 1, "a"), holder(3, 2, "b"), holder(9, 0, "b")]
    assert choose_victim(sessions, sessions[0], 8, limits) is sessions[1]
    assert choose_victim(sessions, sessions[3], 8, limits) is sessions[3], "also if it is the one that asks"


def test_who_holds_more_than_its_share_gives_way_first() -> None:
    limits = BatchLimits(client_share=0.75)
    sessions = [holder(1, 4, "a"), holder(2, 4, "a"), holder(3, 1, "b"), holder(4, 1, "c")]
    assert choose_victim(sessions, sessions[3], 10, limits) is sessions[1]
    assert choose_victim(sessions, sessions[3], 11, limits) is sessions[3], "exactly its share is not too much"


def test_the_oldest_of_all_goes_on_however_much_its_client_holds() -> None:
    limits = BatchLimits(client_share=0.75)
    sessions = [holder(1, 6, "a"), holder(2, 1, "b")]
    assert choose_victim(sessions, sessions[1], 7, limits) is sessions[1]
    sessions = [holder(1, 1, "a"), holder(2, 6, "b")]
    assert choose_victim(sessions, sessions[0], 7, limits) is sessions[1]


def test_pages_that_are_merely_held_are_taken_before_those_that_are_used() -> None:
    sessions = [holder(1, 3, "a"), holder(2, 3, "b"), holder(3, 3, "a")]
    sessions[1].length = 0
    assert choose_victim(sessions, sessions[2], 9, BatchLimits()) is sessions[1]
