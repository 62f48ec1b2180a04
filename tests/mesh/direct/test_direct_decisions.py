"""The pure parts of the direct path: whom to expect, which way to go, what to advertise, and their messages."""

from __future__ import annotations

from itertools import count

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ProtocolViolation
from mesh.transport.direct.addresses import dialable, hosts_of
from mesh.transport.direct.invitations import Invitations
from mesh.transport.paths import FIRST_RETRY, LAST_RETRY, MAX_PEERS, SLOW_RETRY, Paths
from mesh.wire import direct, pairs
from mesh.wire.frame import Frame

TOKEN = "m" + "0123456789abcdef" * 2


def test_an_invitation_is_found_by_its_token_until_it_ends() -> None:
    invitations = Invitations(seconds=10, limit=100)
    invitation = invitations.invite("alice", b"hers", b"ours", now=100)
    assert invitations.find(invitation.token, now=109.9) == invitation
    assert invitations.find(invitation.token, now=110) is None
    assert invitations.find(None, now=100) is None
    assert invitations.find("m" + "0" * 32, now=100) is None


def test_asking_again_renews_the_token_and_another_certificate_replaces_it() -> None:
    invitations = Invitations(seconds=10, limit=100)
    first = invitations.invite("alice", b"hers", b"ours", now=100)
    again = invitations.invite("alice", b"hers", b"ours", now=105)
    assert (again.token, again.expires) == (first.token, 115)
    other = invitations.invite("alice", b"new", b"ours", now=106)
    assert other.token != first.token
    assert invitations.find(first.token, now=106) is None
    assert invitations.invite("alice", b"new", b"renewed", now=106).token != other.token
    assert len(invitations) == 1


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1), st.floats(0, 5)), max_size=60))
def test_invitations_stay_within_their_limit_and_one_a_peer(asked: list[tuple[int, int, float]]) -> None:
    numbers = count()
    invitations = Invitations(seconds=7, limit=4)
    now = 0.0
    for peer, certificate, pause in asked:
        now += pause
        made = invitations.invite(
            f"peer {peer}", bytes([certificate]), b"", now=now, new_token=lambda: f"token {next(numbers)}"
        )
        assert invitations.find(made.token, now=now) == made
        assert len(invitations) <= 4
        live = list(invitations._by_token.values())
        assert len({invitation.peer for invitation in live}) == len(live)
        assert invitations._token_of == {invitation.peer: invitation.token for invitation in live}


def test_a_direct_path_that_fails_is_tried_again_after_a_while_that_doubles() -> None:
    paths = Paths()
    now = 0.0
    waits = []
    for _ in range(10):
        assert paths.wants_direct("bob", now)
        paths.failed("bob", "no", now)
        pair = paths.pair("bob")
        assert not paths.wants_direct("bob", pair.retry_at - 0.01)
        waits.append(pair.retry_at - now)
        now = pair.retry_at
    assert waits[:3] == [FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY]
    assert waits[-1] == LAST_RETRY
    paths.worked("bob")
    paths.failed("bob", "no", now)
    assert paths.pair("bob").retry_at == now + FIRST_RETRY


def test_only_a_clearly_slower_direct_path_is_left_and_for_a_while() -> None:
    paths = Paths()
    for seconds in (0.030, 0.012, 0.020):  # the best of them counts
        paths.measured("bob", True, seconds)
        paths.measured("bob", False, 0.010)
    assert paths.wants_direct("bob", 0)
    for _ in range(8):
        paths.measured("bob", True, 0.030)
    assert not paths.wants_direct("bob", 0)
    assert not paths.wants_direct("bob", SLOW_RETRY - 1)
    assert paths.wants_direct("bob", SLOW_RETRY)


def test_a_direct_path_is_not_left_for_want_of_measurements() -> None:
    paths = Paths()
    paths.measured("bob", True, 1.0)
    paths.measured("bob", False, 0.001)
    assert paths.wants_direct("bob", 0)
    for _ in range(5):
        paths.measured("carol", True, 1.0)
    assert paths.wants_direct("carol", 0)


def test_strangers_cannot_make_the_book_of_paths_grow() -> None:
    paths = Paths()
    for number in range(MAX_PEERS + 10):
        paths.measured(f"peer {number}", False, 1.0)
    assert paths.known("peer 0") is None
    assert paths.known(f"peer {MAX_PEERS + 9}") is not None
    assert len(paths._pairs) == MAX_PEERS


@pytest.mark.parametrize(
    ("announced", "seen", "hosts"),
    [
        ((), ("/ip4/127.0.0.1/tcp/1/p2p/x", "/ip4/10.0.0.2/tcp/1/p2p/x"), ("10.0.0.2", "127.0.0.1")),
        (("/ip4/203.0.113.9/tcp/1",), ("/ip4/10.0.0.2/tcp/1",), ("203.0.113.9",)),
        (("/dns4/example.org/tcp/1",), ("/ip4/10.0.0.2/tcp/1",), ("10.0.0.2",)),
        ((), ("/ip4/198.51.100.7/tcp/1/p2p/relay/p2p-circuit/p2p/x",), ()),
        ((), ("/ip6/fe80::1/tcp/1", "/ip6/2001:db8::1/tcp/1", "/ip4/0.0.0.0/tcp/1", "/ip4/nonsense"), ("2001:db8::1",)),
    ],
)
def test_what_is_advertised_can_be_dialled(
    announced: tuple[str, ...], seen: tuple[str, ...], hosts: tuple[str, ...]
) -> None:
    assert dialable(announced, seen) == hosts


def test_the_direct_port_listens_where_the_daemon_does() -> None:
    assert hosts_of(("/ip4/0.0.0.0/tcp/31330", "/ip4/0.0.0.0/udp/31330/quic", "/ip6/::/tcp/1")) == ("0.0.0.0", "::")


DIRECT_MESSAGES: list[direct.Message] = [
    direct.Introduce(b"certificate"),
    direct.Introduced(b"certificate", (("192.0.2.1", 1), ("2001:db8::1", 65535)), TOKEN, 600.0),
    direct.Hello("/mesh/ring/1"),
    direct.Accepted(),
    direct.Declined("no"),
]


@pytest.mark.parametrize("message", DIRECT_MESSAGES)
def test_a_message_comes_back_as_it_was(message: direct.Message) -> None:
    assert direct.decode(direct.encode(message)) == message


GOOD = {"t": "introduced", "certificate": b"c", "addresses": [["192.0.2.1", 80]], "token": TOKEN, "seconds": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"t": "nonsense"},
        {"t": None},
        {"certificate": b""},
        {"certificate": bytes(direct.MAX_CERTIFICATE + 1)},
        {"certificate": "text"},
        {"addresses": [["example.org", 80]]},
        {"addresses": [["127.0.0.1", 0]]},
        {"addresses": [["127.0.0.1", 65536]]},
        {"addresses": [["127.0.0.1"]]},
        {"addresses": [["0.0.0.0", 80]]},
        {"addresses": [["224.0.0.1", 80]]},
        {"addresses": [["192.0.2.1", 80]] * (direct.MAX_ADDRESSES + 1)},
        {"addresses": None},
        {"token": TOKEN[:-1]},
        {"token": TOKEN.upper()},
        {"token": "m" + "." * 32},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": 1e9},
        {"more": 1},
    ],
)
def test_an_introduction_that_breaks_the_rules_is_refused(change: dict[str, object]) -> None:
    assert isinstance(direct.decode(Frame(msgpack.packb(GOOD))), direct.Introduced)
    with pytest.raises(ProtocolViolation):
        direct.decode(Frame(msgpack.packb(GOOD | change)))


def test_no_message_of_the_set_up_has_a_payload() -> None:
    with pytest.raises(ProtocolViolation):
        direct.decode(Frame(direct.encode(direct.Accepted()).header, b"x"))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for decode in (direct.decode, pairs.decode):
        with pytest.raises(ProtocolViolation):
            decode(Frame(b"\xc1" + data))
        try:
            decode(Frame(data))
        except ProtocolViolation:
            pass


@given(st.sampled_from(DIRECT_MESSAGES), st.data())
def test_a_changed_message_is_another_message_or_refused(message: direct.Message, data: st.DataObject) -> None:
    header = bytearray(direct.encode(message).header)
    header[data.draw(st.integers(0, len(header) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        changed = direct.decode(Frame(bytes(header)))
    except ProtocolViolation:
        return
    assert changed != message or direct.encode(changed).header != bytes(header)


def test_pairs_come_back_as_they_were_and_no_more_than_there_may_be() -> None:
    some = [pairs.PairState(f"peer {n}", "direct", n, 0.1, None, None) for n in range(3)]
    assert list(pairs.decode(pairs.encode(some))) == some
    many = [pairs.PairState("peer", "relayed", 1, None, 0.2, "why")] * (pairs.MAX_PAIRS + 5)
    assert len(pairs.decode(pairs.encode(many))) == pairs.MAX_PAIRS


@pytest.mark.parametrize(
    "raw",
    [
        {"t": "pairs"},
        {"t": "other", "pairs": []},
        {"t": "pairs", "pairs": [["peer", "teleported", 1, None, None, None]]},
        {"t": "pairs", "pairs": [["peer", "direct", -1, None, None, None]]},
        {"t": "pairs", "pairs": [["peer", "direct", 1, "fast", None, None]]},
        {"t": "pairs", "pairs": [["peer", "direct", 1, None, None, None]] * 257},
        {"t": "pairs", "pairs": [], "more": 1},
    ],
)
def test_pairs_that_break_the_rules_are_refused(raw: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        pairs.decode(Frame(msgpack.packb(raw)))
