"""What the dashboard shows: gaps, silence, and no more of strangers than there should be; and how changes are told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.client.catalog import Offer
from mesh.dashboard import snapshot as shown
from mesh.dashboard.delta import apply, delta, encode, plain
from mesh.dashboard.snapshot import Opinion, Probe, Snapshot, snapshot
from mesh.wire.pairs import PairState
from tests.mesh.dashboard.sample_swarm import ABOUT, record, request, seen

ALL = (record("a", 0, 6), record("b", 6, 12))


def test_a_model_is_complete_while_all_of_its_providers_answer() -> None:
    (model,) = seen(*ALL, probes={"a": Probe(True, 12.34)}).models.values()
    assert (model.complete, model.gaps, model.replicas, model.silent) == (True, (), ((12, 1),), 0)


def test_the_blocks_of_a_provider_that_does_not_answer_are_a_gap() -> None:
    state = seen(*ALL, probes={"a": Probe(True, 12.34), "b": Probe(False)})
    (model,) = state.models.values()
    assert (model.complete, model.gaps, model.silent, model.rate) == (False, ((6, 12),), 1, 0.0)
    assert [(row.peer, row.reachable, row.ping_ms) for row in state.providers.values()] == [
        ("a", True, 12.3),
        ("b", False, None),
    ]


def test_one_that_was_not_asked_yet_is_neither_there_nor_gone() -> None:
    assert [row.reachable for row in seen(*ALL).providers.values()] == [None, None]


def test_pairs_are_told_of_providers_that_are_shown_and_of_nobody_else() -> None:
    pairs = tuple(PairState(peer, "direct", 1, 0.0123456, None, None) for peer in ("a", "b", "stranger"))
    state = seen(*ALL, probes={"a": Probe(True, 1.0, pairs), "unlisted": Probe(True, 1.0, pairs)})
    assert [(key, row.way, row.ms) for key, row in state.pairs.items()] == [("a>b", "direct", 12.3)]
    assert {row.peer: row.way for row in state.providers.values()} == {"a": None, "b": "direct"}


def test_what_a_stranger_calls_a_problem_is_short_and_printable() -> None:
    pair = PairState("b", "daemon", 0, None, None, "\x1b[31m" + "x" * 150)
    (row,) = seen(*ALL, probes={"a": Probe(True, 1.0, (pair,))}).pairs.values()
    assert row.problem is not None
    assert row.problem.isprintable()
    assert len(row.problem) == 120


@pytest.mark.parametrize(
    ("limit", "table"), [("MAX_PROVIDERS", "providers"), ("MAX_PAIRS", "pairs"), ("MAX_PAIRS_OF_ONE", "pairs")]
)
def test_a_crowd_is_cut_off(monkeypatch: pytest.MonkeyPatch, limit: str, table: str) -> None:
    crowd = [record(f"p{number}", 0, 12) for number in range(4)]
    pairs = tuple(PairState(each.peer, "direct", 1, None, None, None) for each in crowd)
    monkeypatch.setattr(shown, limit, 2)
    state = seen(*crowd, probes={"p0": Probe(True, 1.0, pairs)})
    assert len(getattr(state, table)) <= 2
    assert state.about.left_out == (2 if limit == "MAX_PROVIDERS" else 0)


def test_many_models_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "MAX_MODELS", 2)
    offers = [Offer(f"m{number}", ALL[0].digest, ALL) for number in range(5)]
    assert len(snapshot(ABOUT, offers, {}, Opinion(), {}).models) == 2


def test_the_newest_requests_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "MAX_REQUESTS", 2)
    assert list(seen(requests={f"r{number}": request(number) for number in range(4)}).requests) == ["r2", "r3"]


def test_a_change_is_told_by_the_columns_that_differ() -> None:
    old, new = seen(*ALL), seen(replace(ALL[0], queue_depth=7), ALL[1])
    (key,) = [key for key in new.providers if key.startswith("a/")]
    assert delta(old, new) == {"providers": {"set": {key: {"queue": 7}}}}
    assert delta(new, new) == {}


_records = st.builds(
    lambda peer, start, length, queue, sessions: replace(
        record(peer, start, min(12, start + length)), queue_depth=queue, sessions=sessions
    ),
    st.sampled_from("abcdef"),
    st.integers(0, 11),
    st.integers(1, 12),
    st.integers(0, 3),
    st.integers(0, 3),
)
_probes = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([Probe(True, 5.0), Probe(False)]))
_requests = st.dictionaries(st.sampled_from("xyz"), st.integers(0, 3).map(request))
_states = st.builds(
    lambda records, probes, requests: seen(*records, probes=probes, requests=requests),
    st.lists(_records, unique_by=lambda record: record.peer),
    _probes,
    _requests,
)


@given(_states, _states)
def test_a_snapshot_with_its_change_is_the_next_snapshot(old: Snapshot, new: Snapshot) -> None:
    assert apply(plain(old), delta(old, new)) == plain(new)
    # … and so it is on the wire.
    sent = json.loads(encode(plain(old))), json.loads(encode(delta(old, new)))
    assert apply(*sent) == json.loads(encode(plain(new)))
