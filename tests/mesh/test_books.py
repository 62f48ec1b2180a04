"""The book that keeps each peer's newest record, and what one look takes into it of very many."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery import books
from mesh.discovery.books import RecordBook, RecordBooks
from mesh.discovery.places import DRAW_SECONDS, Draw
from mesh.discovery.records import ProviderRecord, decode_record, encode_record, provider_key
from mesh.errors import BadRecord
from mesh.identity import Identity
from tests.mesh.sample_record import NOW, sample_record

ME = Identity.generate()
RECORD = sample_record(ME.peer_id)
KEY = provider_key(RECORD.model_key)


def test_the_book_keeps_the_newest_record_of_a_peer() -> None:
    book = RecordBook[ProviderRecord]()
    newer = replace(RECORD, sequence=8, expires=NOW + 40, state="draining")

    assert book.offer(RECORD, now=NOW)
    assert book.offer(RECORD, now=NOW)
    assert book.offer(newer, now=NOW)
    assert not book.offer(RECORD, now=NOW)
    assert not book.offer(replace(newer, sessions=99), now=NOW)
    assert book.records(now=NOW) == (newer,)


def test_the_book_forgets_what_has_expired_and_hides_who_withdrew() -> None:
    book = RecordBook[ProviderRecord]()
    other = replace(RECORD, peer=Identity.generate().peer_id, expires=NOW + 60)
    book.offer(RECORD, now=NOW)
    book.offer(other, now=NOW)

    assert book.records(now=NOW + 30) == (other,)
    assert book.expire(now=NOW + 30) == (RECORD,)
    assert book.offer(replace(other, state="gone", sequence=9), now=NOW + 31)
    assert book.records(now=NOW + 31) == ()
    assert not book.offer(other, now=NOW + 32)
    assert len(book) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(1, 50)), max_size=30))
def test_the_book_never_goes_back(offers: list[tuple[str, int, int]]) -> None:
    book = RecordBook[ProviderRecord]()
    for number, (peer, sequence, life) in enumerate(offers):
        before = {r.peer: r.sequence for r in book.records(now=NOW)}
        book.offer(replace(RECORD, peer=peer, sequence=sequence, expires=NOW + life, sessions=number), now=NOW)
        after = {r.peer: r.sequence for r in book.records(now=NOW)}
        assert all(after[peer] >= before[peer] for peer in before)


def of(peer: str, *, sequence: int = 7, expires: float = NOW + 60) -> ProviderRecord:
    return replace(RECORD, peer=peer, sequence=sequence, expires=expires)


def test_a_full_book_keeps_those_it_knew_first_and_stays_within_its_bounds() -> None:
    book = RecordBook[ProviderRecord](capacity=20)
    for number in range(10):
        assert book.offer(of(f"first-{number}"), now=NOW)
    for turn in range(1, 6):
        now = NOW + turn * DRAW_SECONDS
        for number in range(500):
            book.offer(of(f"flood-{number}", sequence=turn), now=now)
        assert len(book) == 20
        assert {f"first-{number}" for number in range(10)} <= {record.peer for record in book.records(now=now)}
        assert book.offer(of("first-0", sequence=7 + turn), now=now)


def test_of_too_many_records_those_known_first_are_returned_and_every_newcomer_soon() -> None:
    book = RecordBook[ProviderRecord](capacity=1000)
    draw = Draw()
    for number in range(10):
        book.offer(of(f"first-{number}"), now=NOW)
    for number in range(300):
        book.offer(of(f"later-{number}"), now=NOW + 1)
    shown: Counter[str] = Counter()
    for look in range(30):
        some = book.some(20, draw, now=NOW + 2 + look)
        assert len(some) == 20
        assert list(some) == sorted(some, key=lambda record: record.peer)
        shown.update(record.peer for record in some)
    assert all(shown[f"first-{number}"] == 30 for number in range(10))
    assert all(shown[f"later-{number}"] == 1 for number in range(300)), "each once before any comes again"


def test_where_they_all_fit_all_are_returned() -> None:
    book = RecordBook[ProviderRecord]()
    for number in range(20):
        book.offer(of(f"peer-{number}"), now=NOW)
    assert book.some(20, Draw(), now=NOW) == book.records(now=NOW)


class Counting:
    """Decodes like `decode_record`, counting how often; what it is told to believe costs no signature."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, data: bytes, *, peer: str, key: bytes, now: float) -> ProviderRecord:
        self.calls += 1
        if data == b"forged":
            raise BadRecord("forged", peer=peer)
        return of(peer, sequence=int(data), expires=NOW + 1e6)


def test_one_look_checks_a_bounded_number_of_strangers_chosen_fairly() -> None:
    decode = Counting()
    seen = 0
    for look in range(40):
        heard = RecordBooks(decode, 1)
        flood = [(f"flood-{number}", b"1") for number in range(4000)]
        entries = Random(look).sample([*flood, ("honest", b"1")], 4001)
        before = decode.calls
        held, _ = heard.hear(KEY, entries, now=NOW)
        assert decode.calls - before == books.MOST_STRANGERS
        seen += "honest" in dict(held)
    assert 2 <= seen <= 20, "a quarter of the looks, in the mean"


def test_what_is_held_already_costs_nothing_and_is_not_crowded_out() -> None:
    decode = Counting()
    heard = RecordBooks(decode, 1)
    known = [(f"known-{number}", b"1") for number in range(800)]
    heard.hear(KEY, known, now=NOW)
    before = decode.calls
    held, book = heard.hear(KEY, [*((f"flood-{n}", b"forged") for n in range(5000)), *known], now=NOW + 1)
    assert decode.calls - before == books.MOST_STRANGERS
    assert set(known) <= set(held)
    assert len(book.records(now=NOW + 1)) == 800


def test_the_same_entry_of_several_nodes_is_checked_once() -> None:
    decode = Counting()
    RecordBooks(decode, 1).hear(KEY, [("peer", b"1")] * 5, now=NOW)
    assert decode.calls == 1


def test_a_record_that_lives_longer_than_may_be_is_dropped() -> None:
    now = time.time()
    record = replace(RECORD, expires=now + 300)
    entry = (ME.peer_id, encode_record(record, ME))
    assert RecordBooks(decode_record).hear(KEY, [entry], now=now)[0] == (entry,)
    assert RecordBooks(decode_record, longest=120.0).hear(KEY, [entry], now=now)[0] == ()
