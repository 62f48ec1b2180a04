"""Decoders around accounts and names: resume tickets, digests of names, metadata of parties, calls of an owner."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from chain import abi
from chain.errors import BadAnswer
from chain.text import Metadata, is_metadata, is_plain, metadata_hint, read_metadata
from mesh.client.pins import ModelPins
from mesh.errors import ConfigError, ProtocolViolation
from mesh.payment.accounts.resume_tickets import ResumeTicket, read_ticket
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutate import mutate_json
from tests.fuzz.scratch import scratch

KEY = bytes(range(32))
TICKET = ResumeTicket(b"r" * 16, b"p" * 20, b"m" * 32, b"x" * 32, 10**18, 1_900_000_000, 1)
TICKETS = (TICKET, replace(TICKET, charged=0, times=0))
PINS = {"org/llama": "ab" * 32, "tiny": "cd" * 32}
METADATA = ('{"url": "p2p:abc", "name": "ann"}', "{}", '{"url": 3}', '"https://node.example"')


def _ticket(data: bytes) -> ResumeTicket:
    found = read_ticket(data.decode("latin-1"), KEY)
    if found is None:
        raise ProtocolViolation("no ticket of ours")
    return found


def _ticket_wrong(sample: bytes, data: bytes, ticket: ResumeTicket) -> str | None:
    return None if ticket in TICKETS else "a ticket that nobody sealed"


def _pins(data: bytes) -> ModelPins:
    path = scratch() / "models.json"
    path.write_bytes(data)
    return ModelPins(path)


def _pins_wrong(sample: bytes, data: bytes, pins: ModelPins) -> str | None:
    kept = {name: pins.digest_of(name) for name in json.loads(data)}
    fine = all(isinstance(digest, str) and len(bytes.fromhex(digest)) == 32 for digest in kept.values())
    return None if fine else "something that is no digest"


def _metadata(data: bytes) -> Metadata:
    text = data.decode("utf-8", "surrogateescape")
    is_metadata(text), metadata_hint(text)
    return read_metadata(text)


def _metadata_wrong(sample: bytes, data: bytes, found: Metadata) -> str | None:
    shown = [text for text in (found.url, found.name) if text is not None]
    return None if all(is_plain(text) for text in shown) else "a text that cannot be shown"


def _calls() -> list[bytes]:
    escrow = abi.load("Escrow")
    return [escrow.function("pause").encode([]), escrow.function("transferOwnership").encode(["0x" + "11" * 20])]


def _call(data: bytes) -> tuple[str, Any]:
    name, arguments = abi.load("Escrow").read_call(data)
    if not name:
        raise BadAnswer("no call of ours")
    return name, arguments


def _call_wrong(sample: bytes, data: bytes, call: tuple[str, Any]) -> str | None:
    name, arguments = call
    again = abi.load("Escrow").function(name).encode(list(arguments.values()))
    return None if data.startswith(again[:4]) and len(again) <= len(data) else "a call that was not made"


def decoders() -> list[Decoder]:
    """All of this module."""
    return [
        Decoder(
            "resume tickets",
            lambda: [ticket.sealed(KEY).encode() for ticket in TICKETS],
            _ticket,
            (ProtocolViolation,),
            _ticket_wrong,
            ("mesh.payment.accounts.resume_tickets:read_ticket",),
        ),
        Decoder(
            "files of digests",
            lambda: [json.dumps(PINS).encode()],
            _pins,
            (ConfigError,),
            _pins_wrong,
            ("mesh.client.pins:_read",),
            mutate_json,
            weight=0.5,
        ),
        Decoder(
            "metadata of parties",
            lambda: [text.encode() for text in METADATA],
            _metadata,
            (),
            _metadata_wrong,
            ("chain.text:_parsed",),
            mutate_json,
        ),
        Decoder(
            "calls of an owner",
            _calls,
            _call,
            (BadAnswer,),
            _call_wrong,
            ("chain.abi:Artifact.read_call",),
        ),
    ]
