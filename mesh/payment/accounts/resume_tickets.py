"""Tickets with which a gateway knows again what it served and charged (pure).

An answer that failed may be asked for again, with the tokens that had come; running them once more is free for those
that paid for them here. What a client says of itself proves nothing, so the gateway hands out a ticket with the
failure: who paid, for which model and which tokens, how much, and until when it is good, under a key of the gateway's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chain.primitives import Address, Bytes32

LIFETIME_SECONDS: Final = 600
MAX_TIMES: Final = 3
"""How often what was paid for once is run again for nothing."""
KEY_BYTES: Final = 32
MAX_TEXT: Final = 400
_FIELDS: Final = struct.Struct(">B16s20s32s32s16sQB")
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ResumeTicket:
    """`request`: of the request that failed (16 bytes). `charged` in wei, `expires` as Unix time in seconds."""

    request: bytes
    payer: Address
    model: Bytes32
    prefix: Bytes32
    charged: int
    expires: int
    times: int
    """How often this has been resumed already."""

    def sealed(self, key: bytes) -> str:
        """The ticket as text."""
        charged = self.charged.to_bytes(16, "big")
        body = _FIELDS.pack(
            _VERSION, self.request, self.payer, self.model, self.prefix, charged, self.expires, self.times
        )
        return base64.urlsafe_b64encode(body + _mac(key, body)).decode()


def read_ticket(text: str, key: bytes) -> ResumeTicket | None:
    """The ticket in a text, None unless it was sealed with `key`."""
    try:
        data = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True) if len(text) <= MAX_TEXT else b""
    except (ValueError, binascii.Error):
        return None
    if base64.urlsafe_b64encode(data).decode() != text:  # bits beyond the last byte
        return None
    body, mac = data[: _FIELDS.size], data[_FIELDS.size :]
    if len(body) != _FIELDS.size or not hmac.compare_digest(mac, _mac(key, body)):
        return None
    version, request, payer, model, prefix, charged, expires, times = _FIELDS.unpack(body)
    if version != _VERSION:
        return None
    return ResumeTicket(request, payer, model, prefix, int.from_bytes(charged, "big"), expires, times)


def prefix_hash(prompt: Sequence[int], answered: Sequence[int]) -> Bytes32:
    """What a ticket says of the tokens that were run: the prompt, and those of the answer."""
    state = hashlib.sha256(b"inference mesh: resumed prefix v1\0")
    for tokens in (prompt, answered):
        state.update(struct.pack(f">Q{len(tokens)}q", len(tokens), *tokens))
    return state.digest()


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, b"inference mesh: resume ticket v1\0" + body, "sha256")
