"""The rules of a hop's session table, by example and as a state machine."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from msgspec.structs import replace as change

from mesh.errors import ProtocolViolation
from mesh.provider.stage.admission import AdmissionLimits, NotAdmitted, SessionTable, StageFacts
from mesh.provider.stage.session import StageSession
from mesh.wire.messages import OpenSession
from mesh.wire.sampling import to_wire
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span

DIGEST = "d" * 64
PAGES = 14
PAGE_BYTES = 100
LIMITS = AdmissionLimits(
    sessions=5, sessions_per_client=3, kv_bytes=PAGES * PAGE_BYTES, client_share=1.0, idle_seconds=60.0
)
FIXED, BIAS = to_wire(SamplingParams())


FIRST_HALF = Span(0, 4)


def facts(span: Span = FIRST_HALF) -> StageFacts:
    return StageFacts(DIGEST, span, 8, 300, 512, "float32", PAGE_BYTES)


def opening(session: bytes = b"s" * 16, start: int = 0, end: int = 4, capacity: int = 20, fed: int = 8) -> OpenSession:
    return OpenSession(
        session,
        DIGEST,
        start,
        end,
        "prev",
        "next",
        fed,
        fed,
        capacity,
        max(fed, capacity),
        (),
        False,
        "float32",
        FIXED,
        BIAS,
    )


def refusal(table: SessionTable, request: OpenSession, client: str = "alice") -> NotAdmitted:
    before = (len(table), table.pages_used)
    with pytest.raises(NotAdmitted) as caught:
        table.admit(request, client, 0.0)
    assert (len(table), table.pages_used) == before
    return caught.value


def test_what_is_wrong_for_good_and_what_only_now_are_told_apart() -> None:
    table = SessionTable(facts(), LIMITS)
    request = opening()
    wrong = {
        "wrong_model": change(request, digest="e" * 64),
        "wrong_dtype": change(request, wire_dtype="float16"),
        "too_long": change(request, capacity=513),
        "too_large": change(request, capacity=16 * PAGES + 1),
        "bad_request": change(request, capacity=8),
    }
    assert refusal(table, change(request, limit=7)).code == "bad_request"
    for code, changed in wrong.items():
        error = refusal(table, changed)
        assert (error.code, error.retry_after) == (code, 0.0)
        assert error.most == (16 * PAGES if code == "too_large" else 0)
    for start, end in ((0, 5), (4, 8), (3, 3), (3, 1)):
        assert refusal(table, change(request, start=start, end=end)).code == "wrong_blocks"
    for fed, prompt in ((7, 8), (20, 8), (8, 9)):
        assert refusal(table, change(request, fed_tokens=fed, prompt_tokens=prompt)).code == "bad_request"


def test_a_full_table_says_when_to_come_back() -> None:
    table = SessionTable(facts(), LIMITS)
    for number in range(3):
        table.admit(opening(bytes([number]) * 16), "alice", 0.0)
    quota = refusal(table, opening(b"x" * 16))
    assert (quota.code, quota.retry_after) == ("quota", 1.0)
    for number in range(3, 5):
        table.admit(opening(bytes([number]) * 16), "bob", 0.0)
    busy = refusal(table, opening(b"x" * 16), "carol")
    assert (busy.code, busy.retry_after) == ("busy", 1.0)
    assert refusal(table, opening(bytes(16)), "carol").code == "duplicate"


def test_a_session_takes_pages_for_what_it_is_fed_and_one_more_whenever_they_are_full() -> None:
    table = SessionTable(facts(Span(4, 8)), LIMITS)
    session = table.admit(opening(start=4, end=8, capacity=200, fed=33), "alice", 0.0)
    assert (session.pages, table.pages_used) == (3, 3)
    table.arrive(session.id, "prev", 0, 33, 1.0)
    for position in range(33, 48):
        table.arrive(session.id, "prev", position, 1, 1.0)
    assert table.pages_used == 3
    table.arrive(session.id, "prev", 48, 1, 1.0)
    assert (session.pages, table.pages_used) == (4, 4)
    table.arrive(session.id, "prev", 40, 1, 1.0)
    assert table.pages_used == 4, "what was its own stays so"
    table.close(session.id, "alice")
    assert table.pages_used == 0


def test_a_new_session_leaves_a_page_to_those_that_there_are() -> None:
    table = SessionTable(facts(), LIMITS)
    table.admit(opening(b"a" * 16, fed=16 * 11, capacity=16 * 11 + 1), "alice", 0.0)
    refused = refusal(table, opening(b"b" * 16, fed=33, capacity=40), "bob")
    assert refused.code == "busy" and "3 pages and 1 to spare, 3 are free" in str(refused)
    table.admit(opening(b"b" * 16, fed=32, capacity=40), "bob", 0.0)
    assert table.pages_free == 1


def test_pages_that_are_shared_or_cached_can_be_had_though_they_are_counted() -> None:
    table = SessionTable(facts(), LIMITS)
    table.admit(opening(b"a" * 16, fed=16 * 12, capacity=16 * 12 + 1), "alice", 0.0)
    table.admit(opening(b"b" * 16, fed=16 * 12, capacity=16 * 12 + 1), "bob", 0.0, free=13)
    assert table.pages_free == 0


def test_the_first_and_the_last_stage_know_that_they_are() -> None:
    first = SessionTable(facts(Span(0, 4)), LIMITS).admit(opening(), "alice", 0.0)
    assert (first.is_first, first.is_last) == (True, False)
    last = SessionTable(facts(Span(4, 8)), LIMITS).admit(opening(start=4, end=8), "alice", 0.0)
    assert (last.is_first, last.is_last) == (False, True)
    part = SessionTable(facts(Span(0, 8)), LIMITS).admit(opening(start=1, end=7), "alice", 0.0)
    assert (part.is_first, part.is_last) == (False, False)


def test_a_gap_is_refused_and_earlier_positions_replace_later_ones() -> None:
    table = SessionTable(facts(Span(4, 8)), LIMITS)
    session = table.admit(opening(start=4, end=8), "alice", 0.0)
    with pytest.raises(ProtocolViolation, match="0 was next"):
        table.arrive(session.id, "prev", 1, 1, 1.0)
    assert table.arrive(session.id, "prev", 0, 8, 1.0) is session
    with pytest.raises(ProtocolViolation, match="8 was next"):
        table.arrive(session.id, "prev", 9, 1, 2.0)
    assert session.expected == 8
    table.arrive(session.id, "prev", 3, 2, 2.0)
    assert session.expected == 5
    with pytest.raises(ProtocolViolation, match="capacity is 20"):
        table.arrive(session.id, "prev", 5, 16, 3.0)
    table.arrive(session.id, "prev", 5, 15, 3.0)
    assert (session.expected, session.last_active) == (20, 3.0)


def test_only_the_previous_hop_and_the_owner_are_heard() -> None:
    table = SessionTable(facts(), LIMITS)
    session = table.admit(opening(), "alice", 0.0)
    for sender in ("next", "alice", "stranger"):
        with pytest.raises(ProtocolViolation) as caught:
            table.arrive(session.id, sender, 0, 1, 1.0)
        assert caught.value.peer == sender
    with pytest.raises(ProtocolViolation, match="not open"):
        table.prompt(session.id, "prev", 8, 1.0)
    with pytest.raises(ProtocolViolation, match="not open"):
        table.prompt(b"?" * 16, "alice", 8, 1.0)
    assert table.close(session.id, "bob") is None
    assert len(table) == 1
    assert table.arrive(b"?" * 16, "prev", 0, 1, 1.0) is None


def test_a_prompt_comes_once_whole_and_to_the_first_stage() -> None:
    table = SessionTable(facts(), LIMITS)
    session = table.admit(opening(), "alice", 0.0)
    with pytest.raises(ProtocolViolation, match="before the prompt"):
        table.arrive(session.id, "prev", 0, 1, 1.0)
    with pytest.raises(ProtocolViolation, match="announced 8 tokens, 7 came"):
        table.prompt(session.id, "alice", 7, 1.0)
    table.prompt(session.id, "alice", 8, 1.0)
    with pytest.raises(ProtocolViolation, match="second prompt"):
        table.prompt(session.id, "alice", 8, 1.0)
    table.arrive(session.id, "prev", 8, 1, 2.0)
    assert session.expected == 9

    middle = SessionTable(facts(Span(4, 8)), LIMITS)
    middle.admit(opening(start=4, end=8), "alice", 0.0)
    with pytest.raises(ProtocolViolation, match="not the first"):
        middle.prompt(b"s" * 16, "alice", 8, 1.0)


def test_what_a_hop_holds_already_need_not_come_and_no_more_than_that_may_be_left_out() -> None:
    table = SessionTable(facts(), LIMITS)
    session = table.admit(opening(fed=40, capacity=60), "alice", 0.0)
    session.held = 32
    with pytest.raises(ProtocolViolation, match="from position 33, 32 are held"):
        table.prompt(session.id, "alice", 7, 1.0, 33)
    with pytest.raises(ProtocolViolation, match="announced 40 tokens, 39 came"):
        table.prompt(session.id, "alice", 23, 1.0, 16)
    table.prompt(session.id, "alice", 24, 1.0, 16)
    assert session.expected == 40

    later = SessionTable(facts(Span(4, 8)), LIMITS)
    session = later.admit(opening(start=4, end=8, fed=40, capacity=60), "alice", 0.0)
    session.held = 32
    with pytest.raises(ProtocolViolation, match="32 was next"):
        later.arrive(session.id, "prev", 33, 7, 1.0)
    later.arrive(session.id, "prev", 16, 10, 1.0)
    with pytest.raises(ProtocolViolation, match="26 was next"):
        later.arrive(session.id, "prev", 32, 8, 1.0)


def test_what_is_idle_is_found() -> None:
    table = SessionTable(facts(Span(4, 8)), LIMITS)
    old = table.admit(opening(b"o" * 16, 4, 8), "alice", 0.0)
    busy = table.admit(opening(b"b" * 16, 4, 8), "alice", 0.0)
    table.arrive(busy.id, "prev", 0, 1, 50.0)
    assert table.idle(60.0) == []
    assert table.idle(60.1) == [old]


clients = st.sampled_from(("alice", "bob", "carol"))
peers = st.sampled_from(("prev", "next", "mallory"))
ids = st.integers(0, 9).map(lambda number: bytes([number]) * 16)


class Table(RuleBasedStateMachine):
    """Whatever is asked of it in whatever order: limits hold and nothing leaks."""

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.table = SessionTable(facts(Span(0, 6)), LIMITS)
        self.model: dict[bytes, tuple[str, int]] = {}
        self.now = 0.0

    @rule(
        target=sessions, session=ids, client=clients, start=st.integers(0, 7), end=st.integers(0, 8),
        capacity=st.integers(1, 600), fed=st.integers(1, 40), previous=peers,
    )  # fmt: skip
    def open(self, session: bytes, client: str, start: int, end: int, capacity: int, fed: int, previous: str) -> bytes:
        request = change(opening(session, start, end, capacity, fed), previous=previous)
        try:
            entry = self.table.admit(request, client, self.now)
        except NotAdmitted:
            return session
        assert session not in self.model
        assert 0 <= start < end <= 6
        assert fed < capacity <= 16 * PAGES
        self.model[session] = (client, -(-fed // 16))
        assert entry.expected == 0
        return session

    @rule(session=sessions, client=clients)
    def close(self, session: bytes, client: str) -> None:
        closed = self.table.close(session, client)
        owned = session in self.model and self.model[session][0] == client
        assert (closed is not None) == owned
        if owned:
            del self.model[session]

    @rule(session=consumes(sessions))
    def close_by_its_owner(self, session: bytes) -> None:
        if session in self.model:
            client, _ = self.model.pop(session)
            assert self.table.close(session, client) is not None

    @rule(session=sessions, client=clients, count=st.integers(1, 40))
    def prompt(self, session: bytes, client: str, count: int) -> None:
        before = self._state(session)
        try:
            entry = self.table.prompt(session, client, count, self.now)
        except ProtocolViolation as error:
            assert error.peer == client
            assert self._state(session) == before
        else:
            assert (entry.client, entry.expected, before) == (client, count, (0,))

    @rule(session=sessions, sender=peers, start=st.integers(0, 60), count=st.integers(1, 60))
    def arrive(self, session: bytes, sender: str, start: int, count: int) -> None:
        before = self._state(session)
        try:
            entry = self.table.arrive(session, sender, start, count, self.now)
        except ProtocolViolation as error:
            assert error.peer == sender
            assert self._state(session) == before
        else:
            assert (entry is None) == (session not in self.model)
            if entry is not None:
                assert entry.previous == sender
                assert start <= before[0]
                assert entry.expected == start + count <= entry.capacity
                client, pages = self.model[session]
                self.model[session] = client, max(pages, -(-(start + count) // 16))

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for entry in self.table.idle(self.now):
            assert self.now - entry.last_active > LIMITS.idle_seconds

    def _state(self, session: bytes) -> tuple[int, ...]:
        entry: StageSession | None = self.table.get(session)
        return () if entry is None else (entry.expected,)

    @invariant()
    def nothing_leaks(self) -> None:
        assert {entry.id for entry in self.table} == set(self.model)
        assert self.table.pages_used == sum(pages for _, pages in self.model.values())
        assert 0 <= self.table.pages_free <= PAGES
        assert len(self.table) <= LIMITS.sessions
        for client in ("alice", "bob", "carol"):
            assert len(self.table.of_client(client)) <= LIMITS.sessions_per_client


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
