"""The relay's wire: multiaddrs and circuit messages survive a round trip, and strangers' bytes never do harm."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ProtocolViolation
from mesh.identity import Identity
from mesh.wire import circuit, multiaddr
from mesh.wire.circuit import Answer, Connect, Limit, Reserve, Status

PEERS = [Identity.generate().peer_id for _ in range(3)]
peers = st.sampled_from(PEERS)
limits = st.builds(Limit, st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 62) - 1))
ip4s = st.ip_addresses(v=4).map(lambda ip: f"/ip4/{ip}")
ip6s = st.ip_addresses(v=6).map(lambda ip: f"/ip6/{ip}")
names = st.sampled_from(["/dns4/relay.example.org", "/dns/a-b.example"])
ports = st.integers(0, 65535)
addresses = st.builds(lambda host, port: f"{host}/tcp/{port}", ip4s | ip6s | names, ports)
quic = st.builds(lambda host, port: f"{host}/udp/{port}/quic-v1", ip4s, ports)
relayed = st.builds(lambda host, relay: f"{host}/p2p/{relay}/p2p-circuit", addresses, peers)


def unframed(data: bytes) -> bytes:
    size, start = multiaddr.varint(data, 0)
    assert size == len(data) - start
    return data[start:]


@given(addresses | quic | relayed)
def test_a_multiaddr_survives_a_round_trip(maddr: str) -> None:
    assert multiaddr.decode(multiaddr.encode(maddr)) == maddr


@given(relayed, peers)
def test_a_relayed_address_names_its_relay(maddr: str, target: str) -> None:
    assert multiaddr.is_relayed(maddr)
    assert multiaddr.relay_of(maddr) in PEERS
    assert multiaddr.relay_of(f"{maddr}/p2p/{target}") == multiaddr.relay_of(maddr)


def test_an_address_that_is_not_relayed_has_no_relay() -> None:
    maddr = f"/ip4/11.0.0.1/tcp/4001/p2p/{PEERS[0]}"
    assert not multiaddr.is_relayed(maddr)
    assert multiaddr.relay_of(maddr) is None
    assert multiaddr.ip_of(maddr) == ipaddress.ip_address("11.0.0.1")
    assert multiaddr.ip_of("/dns4/example.org/tcp/1") is None


def test_the_bytes_are_those_of_the_specification() -> None:
    assert multiaddr.encode("/ip4/127.0.0.1/tcp/4001").hex() == "047f000001060fa1"
    assert multiaddr.encode("/p2p-circuit").hex() == "a202"


@pytest.mark.parametrize(
    "text", ["", "ip4/1.2.3.4", "/ip4", "/ip4/1.2.3", "/tcp/65536", "/tcp/-1", "/p2p/nobody", "/onion/x", "/dns4/ä"]
)
def test_a_malformed_multiaddr_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        multiaddr.encode(text)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_a_multiaddr_or_refused(data: bytes) -> None:
    try:
        text = multiaddr.decode(data)
    except ValueError:
        return
    assert multiaddr.decode(multiaddr.encode(text)) == text


@given(st.integers(0, (1 << 62) - 1), st.lists(addresses, max_size=4), limits)
def test_a_place_survives_a_round_trip(expires: int, maddrs: list[str], limit: Limit) -> None:
    data = unframed(circuit.reservation(expires, maddrs, limit))
    assert circuit.read_answer(data) == Answer(Status.OK, expires, limit)


@given(st.sampled_from(Status))
def test_a_refusal_survives_a_round_trip(status: Status) -> None:
    assert circuit.read_answer(unframed(circuit.hop_status(status))).status == status


def test_requests_are_read_as_others_write_them() -> None:
    assert circuit.read_hop(unframed(circuit.RESERVE)) == Reserve()
    assert circuit.read_hop(b"") == Reserve()  # protobuf may leave a zero away
    target = multiaddr.peer_to_bytes(PEERS[0])
    peer = bytes((0x0A, len(target))) + target
    assert circuit.read_hop(bytes((8, 1, 0x12, len(peer))) + peer) == Connect(PEERS[0])
    unknown = bytes((0x7A, 2, 1, 2))  # a field that only a later version knows
    assert circuit.read_hop(bytes((8, 1, 0x12, len(peer))) + peer + unknown) == Connect(PEERS[0])
    assert circuit.read_stop_status(bytes((8, 1, 0x20, 100))) == Status.OK


@pytest.mark.parametrize("data", [b"\x08\x02", b"\x08\x01", b"\x08\x01\x12\x00", b"\x08", b"\x08\xff", b"\x0f\x00"])
def test_a_request_that_makes_no_sense_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        circuit.read_hop(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (circuit.read_hop, circuit.read_answer, circuit.read_stop_status):
        try:
            read(data)
        except ProtocolViolation:
            pass


def test_a_message_that_is_too_long_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        circuit.read_hop(b"\x7a\x81\x20" + bytes(4097))
