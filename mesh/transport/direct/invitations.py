"""Whom a node expects on its direct port: tokens, and the one certificate that each of them admits (pure)."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

PeerId = str


@dataclass(frozen=True, slots=True)
class Invitation:
    """Who dials with this token may only be `peer`, and only with this certificate."""

    token: str
    peer: PeerId
    certificate: bytes
    own: bytes
    """The certificate (DER) that we showed this peer, and will show it again when it dials."""
    expires: float


class Invitations:
    """At most one invitation per peer and `limit` in all; the one that was renewed longest ago makes room."""

    def __init__(self, *, seconds: float, limit: int) -> None:
        self.seconds = seconds
        self._limit = limit
        self._by_token: OrderedDict[str, Invitation] = OrderedDict()
        self._token_of: dict[PeerId, str] = {}

    def __len__(self) -> int:
        return len(self._by_token)

    def invite(
        self,
        peer: PeerId,
        certificate: bytes,
        own: bytes,
        *,
        now: float,
        new_token: Callable[[], str] = lambda: "m" + secrets.token_hex(16),
    ) -> Invitation:
        """A new invitation, or the peer's old one renewed where neither certificate has changed."""
        old = self._by_token.get(self._token_of.get(peer, ""))
        same = old is not None and (old.certificate, old.own) == (certificate, own)
        token = old.token if old is not None and same else new_token()
        if old is not None:
            self._drop(old)
        for invitation in list(self._by_token.values()):  # the oldest come first
            if invitation.expires > now and len(self._by_token) < self._limit:
                break
            self._drop(invitation)
        invitation = Invitation(token, peer, certificate, own, now + self.seconds)
        self._by_token[token] = invitation
        self._token_of[peer] = token
        return invitation

    def find(self, token: str | None, *, now: float) -> Invitation | None:
        """The invitation of a token that still holds."""
        invitation = self._by_token.get(token) if token is not None else None
        return invitation if invitation is not None and invitation.expires > now else None

    def _drop(self, invitation: Invitation) -> None:
        del self._by_token[invitation.token]
        if self._token_of.get(invitation.peer) == invitation.token:
            del self._token_of[invitation.peer]
