"""Who gets a place and a circuit, who looks as if behind a NAT, and when a relayed peer is tried again."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.transport.relay.local import fixed, reachable_at
from mesh.transport.relay.nat import behind_nat
from mesh.transport.relay.places import Places, RelayLimits
from mesh.transport.relay.punching import FIRST_TRY, LAST_TRY, SECOND_TRY, Punching
from mesh.wire.circuit import Status

LIMITS = RelayLimits(reservations=3, reservations_per_host=2, reservation_seconds=100, circuits=3, circuits_per_peer=2)


def test_places_are_limited_altogether_and_by_host() -> None:
    places = Places(LIMITS)
    assert places.reserve("a", "1.1.1.1", 0.0) is Status.OK
    assert places.reserve("b", "1.1.1.1", 0.0) is Status.OK
    assert places.reserve("c", "1.1.1.1", 0.0) is Status.RESERVATION_REFUSED
    assert places.reserve("c", "2.2.2.2", 0.0) is Status.OK
    assert places.reserve("d", "3.3.3.3", 0.0) is Status.RESERVATION_REFUSED
    assert places.reserve("a", "1.1.1.1", 50.0) is Status.OK  # renewed
    assert places.reserve("d", "3.3.3.3", 101.0) is Status.OK  # b's and c's are over
    assert len(places) == 2


def test_a_circuit_needs_a_place_at_its_end() -> None:
    places = Places(LIMITS)
    places.reserve("b", "1.1.1.1", 0.0)
    assert places.open("a", "b", 1.0) is Status.OK
    assert places.open("b", "a", 1.0) is Status.NO_RESERVATION
    assert places.open("b", "b", 1.0) is Status.NO_RESERVATION
    assert places.open("a", "b", 200.0) is Status.NO_RESERVATION


def test_circuits_are_limited_at_both_ends_and_altogether() -> None:
    places = Places(LIMITS)
    for peer in "xyz":
        places.reserve(peer, peer, 0.0)
    assert places.open("a", "x", 0.0) is Status.OK
    assert places.open("a", "y", 0.0) is Status.OK
    assert places.open("a", "z", 0.0) is Status.RESOURCE_LIMIT_EXCEEDED
    assert places.open("b", "x", 0.0) is Status.OK
    assert places.open("c", "x", 0.0) is Status.RESOURCE_LIMIT_EXCEEDED
    assert places.open("c", "z", 0.0) is Status.RESOURCE_LIMIT_EXCEEDED
    places.close("a", "x")
    assert places.open("c", "z", 0.0) is Status.OK
    assert places.circuits == 3


def test_who_disconnects_loses_its_place() -> None:
    places = Places(LIMITS)
    places.reserve("a", "1", 0.0)
    places.reserve("b", "2", 0.0)
    assert places.keep({"b"}, 1.0) == ["a"]
    assert places.open("b", "a", 1.0) is Status.NO_RESERVATION


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_the_count_of_circuits_is_that_of_those_open(steps: list[tuple[str, str, bool]]) -> None:
    places = Places(LIMITS)
    for peer in "abc":
        places.reserve(peer, peer, 0.0)
    opened: list[tuple[str, str]] = []
    for source, target, opens in steps:
        if opens:
            if places.open(source, target, 0.0) is Status.OK:
                opened.append((source, target))
        elif opened:
            places.close(*opened.pop())
        assert places.circuits == len(opened) <= LIMITS.circuits
        for peer in "abcd":
            assert sum(peer in pair for pair in opened) <= LIMITS.circuits_per_peer


HOME = ("127.0.0.1", "::1", "192.168.1.7", "fe80::1")
ANYWHERE = ("/ip4/0.0.0.0/tcp/0",)
PUBLIC = "/ip4/11.0.0.1/tcp/4001/p2p/X"


@pytest.mark.parametrize(
    ("own", "listening", "announced", "peers", "relays"),
    [
        (HOME, ANYWHERE, (), (PUBLIC, "/ip4/192.168.1.8/tcp/1/p2p/Y"), (PUBLIC,)),
        (HOME, ANYWHERE, (), ("/dns4/relay.example.org/tcp/4001/p2p/X",), ("/dns4/relay.example.org/tcp/4001/p2p/X",)),
        (("100.64.3.2",), ANYWHERE, (), (PUBLIC,), (PUBLIC,)),  # a provider's shared address
        ((*HOME, "11.0.0.9"), ANYWHERE, (), (PUBLIC,), ()),  # we have a public address
        (HOME, ANYWHERE, ("/ip4/11.0.0.9/tcp/31330",), (PUBLIC,), ()),  # a port is forwarded
        (HOME, ("/ip4/127.0.0.1/tcp/0",), (), (PUBLIC,), ()),  # nobody shall come from elsewhere
        (HOME, ANYWHERE, (), ("/ip4/192.168.1.8/tcp/1/p2p/Y",), ()),  # a swarm on our own network
        (HOME, ANYWHERE, (), (), ()),
    ],
)
def test_who_joins_the_public_from_a_private_network_is_behind_a_nat(
    own: tuple[str, ...],
    listening: tuple[str, ...],
    announced: tuple[str, ...],
    peers: tuple[str, ...],
    relays: tuple[str, ...],
) -> None:
    assert behind_nat(own, listening, announced, peers) == relays


def test_a_port_is_kept_and_told_on_every_address_of_ours() -> None:
    (maddr,) = fixed(["/ip4/127.0.0.1/tcp/0"])
    assert maddr.startswith("/ip4/127.0.0.1/tcp/")
    assert not maddr.endswith("/0")
    assert fixed(["/ip4/0.0.0.0/tcp/4001"]) == ("/ip4/0.0.0.0/tcp/4001",)
    assert reachable_at(["/ip4/0.0.0.0/tcp/4001"], HOME) == ("/ip4/127.0.0.1/tcp/4001", "/ip4/192.168.1.7/tcp/4001")
    assert reachable_at(["/ip6/::/tcp/1"], HOME) == ("/ip6/::1/tcp/1",)
    assert reachable_at(["/ip4/10.0.0.1/tcp/9"], HOME) == ("/ip4/10.0.0.1/tcp/9",)


def test_a_relayed_peer_is_tried_again_less_and_less_often_and_never_while_it_is_used() -> None:
    punching = Punching()
    tries = []
    now = 0.0
    while now < 4000:
        if punching.due(["p"], [], now):
            tries.append(now)
        now += 1.0
    gaps = [later - sooner for sooner, later in pairwise(tries)]
    assert tries[0] == FIRST_TRY
    assert gaps[0] == SECOND_TRY
    assert gaps == sorted(gaps)
    assert max(gaps) == LAST_TRY
    assert punching.due(["p"], ["p"], now + 10_000) == []
    assert punching.due(["p"], [], now + 10_000) == ["p"]


def test_a_peer_that_is_no_longer_relayed_is_forgotten() -> None:
    punching = Punching()
    punching.due(["p"], [], 0.0)
    punching.due([], [], 1.0)
    assert punching.due(["p"], [], 10.0) == []
    assert punching.due(["p"], [], 10.0 + FIRST_TRY) == ["p"]
