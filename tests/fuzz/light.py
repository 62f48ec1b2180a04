"""Decoders of what a node hears without a daemon of its own: yamux, multistream-select, relays, records handed out."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from mesh.cli.identities import ROLES, read_holder
from mesh.errors import PeerUnreachable, ProtocolViolation
from mesh.provider.planner.capacity import model_bytes
from mesh.transport.libp2p import circuit, negotiation, yamux_frames
from mesh.wire import circuit as relaying
from mesh.wire import multiaddr, records
from mesh.wire.records import AskRecords, Busy, Records, SignedRecord, pack_records, unpack_records
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.fuzz.peers import ME, OTHER
from tests.fuzz.scratch import scratch
from tests.fuzz.wire import codec_decoder, sound
from tests.mesh.libp2p.relay_messages import circuit_messages

SERVED = ("/mesh/ring/1", "/mesh/control/1")
ENTRIES = (SignedRecord(ME.peer_id, b"r" * 300), SignedRecord(OTHER.peer_id, b"s" * 70))


class _Heard:
    """A stream on which these bytes come, and then its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.said = b""

    async def read(self, n: int) -> bytes:
        piece = self._data[self._at : self._at + n]
        self._at += n
        if len(piece) < n:
            raise EOFError("the stream ended")
        return piece

    async def write(self, data: bytes) -> None:
        self.said += data


def _done(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    finally:
        coroutine.close()
    raise RuntimeError("it waits for something")


def _lines(*texts: str) -> bytes:
    return b"".join(negotiation._line(text) for text in texts)


def _yamux(data: bytes) -> yamux_frames.Header:
    return yamux_frames.decode(data[:12].ljust(12, b"\0"))


def _yamux_wrong(sample: bytes, data: bytes, header: yamux_frames.Header) -> str | None:
    again = yamux_frames.encode(header.kind, header.flags, header.stream, header.length)
    return None if again == data[:12].ljust(12, b"\0") else "another frame when it is encoded again"


def _answers() -> list[bytes]:
    hop, status = circuit_messages().HopMessage, circuit_messages().Status
    found = []
    for each in (status.OK, status.NO_RESERVATION):
        message = hop(type=hop.STATUS, status=each).SerializeToString()
        found.append(bytes((len(message),)) + message)
    return found[:1]


def _unpacked(data: bytes) -> Sequence[SignedRecord]:
    return unpack_records(len(ENTRIES), data)


def _index(data: bytes) -> int:
    (scratch() / "model.safetensors.index.json").write_bytes(data)
    spec = SimpleNamespace(n_blocks=4, hidden_size=64, vocab_size=300, dtype="float32", raw={})
    return model_bytes(Path(scratch()), SimpleNamespace(spec=spec))  # type: ignore[arg-type]


def _mutate_line(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return mutate_bytes(data, rng, others)[:4096]


ADDRESSES = (
    f"/ip4/10.0.0.1/tcp/31330/p2p/{ME.peer_id}",
    f"/ip6/2001:db8::1/udp/4001/quic-v1/p2p/{ME.peer_id}/p2p-circuit/p2p/{OTHER.peer_id}",
    "/dns4/example.org/tcp/443/ws",
)


def _requests() -> list[bytes]:
    reserve = relaying._number(1, relaying._RESERVE)
    peer = relaying._part(1, multiaddr.peer_to_bytes(OTHER.peer_id))
    return [reserve, relaying._number(1, relaying._CONNECT) + relaying._part(2, peer)]


def _target_answers() -> list[bytes]:
    return [relaying._number(1, relaying._STOP_STATUS) + relaying._number(4, relaying.Status.OK)]


def decoders() -> list[Decoder]:
    """All of this module."""
    refused = (ProtocolViolation, PeerUnreachable, EOFError)
    return [
        codec_decoder(
            "records",
            records,
            (AskRecords("providers", "m", "ab" * 32), AskRecords("peers", "", "", ("p" * 52,)), Records(2), Busy(1.5)),
            (),
        ),
        Decoder(
            "records handed out",
            lambda: [pack_records(ENTRIES)[1]],
            _unpacked,
            (ProtocolViolation,),
            lambda sample, data, found: None if pack_records(found) == (len(found), data) else "other records",
            ("mesh.wire.records:unpack_records",),
        ),
        Decoder(
            "yamux frames",
            lambda: [
                yamux_frames.encode(yamux_frames.Kind.DATA, yamux_frames.Flag.SYN, 3, 1000),
                bytes([0, 2]) + bytes(10),
            ],
            _yamux,
            (ProtocolViolation,),
            _yamux_wrong,
            ("mesh.transport.libp2p.yamux_frames:decode",),
        ),
        Decoder(
            "multistream greetings",
            lambda: [_lines(negotiation.VERSION, "/other/1", SERVED[0]), _lines(negotiation.VERSION, SERVED[1])],
            lambda data: _done(negotiation.respond(_Heard(data), SERVED)),
            refused,
            lambda sample, data, chosen: None if chosen in SERVED else "a protocol that is not served",
            ("mesh.transport.libp2p.negotiation:respond", "mesh.transport.libp2p.negotiation:_read_line"),
            _mutate_line,
        ),
        Decoder(
            "multistream answers",
            lambda: [_lines(negotiation.VERSION, SERVED[0])],
            lambda data: _done(negotiation.propose(_Heard(data), SERVED[0])),
            refused,
            lambda sample, data, nothing: None if data.startswith(sample) else "an agreement that is none",
            ("mesh.transport.libp2p.negotiation:propose",),
            _mutate_line,
        ),
        Decoder(
            "answers of relays",
            _answers,
            lambda data: _done(circuit.connect(_Heard(data), OTHER.peer_id)),
            refused,
            lambda sample, data, nothing: None,
            ("mesh.transport.libp2p.circuit:connect", "mesh.transport.relay.reading:read_message"),
            _mutate_line,
        ),
        Decoder(
            "addresses in bytes",
            lambda: [multiaddr.encode(each) for each in ADDRESSES],
            multiaddr.decode,
            (ValueError,),
            lambda sample, data, text: None if multiaddr.decode(multiaddr.encode(text)) == text else "another address",
            ("mesh.wire.multiaddr:decode", "mesh.wire.multiaddr:varint"),
        ),
        Decoder(
            "addresses as text",
            lambda: [each.encode() for each in ADDRESSES],
            lambda data: multiaddr.encode(data.decode("utf-8", "surrogateescape")),
            (ValueError,),
            lambda sample, data, packed: (
                None if multiaddr.encode(multiaddr.decode(packed)) == packed else "another one"
            ),
            ("mesh.wire.multiaddr:encode",),
        ),
        Decoder(
            "requests to a relay",
            _requests,
            lambda data: relaying.read_hop(data),
            (ProtocolViolation,),
            lambda sample, data, asked: sound(asked),
            ("mesh.wire.circuit:read_hop",),
        ),
        Decoder(
            "places at a relay",
            lambda: [relaying.reservation(1_800_000_000, ADDRESSES[:2], relaying.Limit(120, 1 << 20))[2:]],
            relaying.read_answer,
            (ProtocolViolation,),
            lambda sample, data, answer: sound(answer),
            ("mesh.wire.circuit:read_answer",),
        ),
        Decoder(
            "answers of a relay's target",
            _target_answers,
            relaying.read_stop_status,
            (ProtocolViolation,),
            lambda sample, data, status: None if 0 <= status < 1 << 64 else f"a status of {status}",
            ("mesh.wire.circuit:read_stop_status",),
        ),
        Decoder(
            "size in an index",
            lambda: [json.dumps({"metadata": {"total_size": 12345}, "weight_map": {}}).encode()],
            _index,
            (),
            lambda sample, data, size: None if type(size) is int and size > 0 else f"a size of {size!r}",
            ("mesh.provider.planner.capacity:model_bytes",),
            mutate_json,
        ),
        Decoder(
            "who has a key",
            lambda: [
                json.dumps({"role": "provider", "pid": 7, "parent": 1, "place": "a b", "leaving": False}).encode(),
            ],
            lambda data: read_holder(Path("key"), data),
            (),
            lambda sample, data, found: (
                None if found is None or (found.role in ROLES and 0 < found.pid < 1 << 31) else f"a holder like {found}"
            ),
            ("mesh.cli.identities:read_holder",),
            mutate_json,
        ),
    ]
