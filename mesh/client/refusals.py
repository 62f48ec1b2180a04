"""What a hop says that has no place for a session: another may have one, or the same one later."""

from __future__ import annotations

from mesh.client.session_plan import SessionPlan
from mesh.errors import InvalidRequest, PeerError, Refused
from mesh.wire.messages import SessionRefused

OUR_FAULT = frozenset({"bad_request", "too_long", "payment_required"})
"""Codes with which a hop says that no other would take the session either."""


class HopRefused(Refused, PeerError):
    """A hop had no room; another may. `most`: the capacity that it could have; 0 where that is not what is wrong."""

    def __init__(self, message: str, *, peer: str, retry_after: float, most: int = 0) -> None:
        PeerError.__init__(self, message, peer=peer)
        self.retry_after = retry_after
        self.most = most


class NoForms(HopRefused):
    """A hop cannot hold answers to a form; another may."""


class SessionPreempted(HopRefused):
    """A hop needed the session's memory: nobody is to blame, and it may be opened again."""


def refusal(peer: str, message: SessionRefused, plan: SessionPlan) -> InvalidRequest | HopRefused:
    """What a hop's refusal means: `InvalidRequest` where no other hop would take the session."""
    said = f"{peer} refused: {message.reason}"
    if message.code in OUR_FAULT:
        return InvalidRequest(said)
    if message.code == "bad_form" and plan.constraint is not None:
        return InvalidRequest(f"{plan.constraint.param}: {message.reason}", param=plan.constraint.param)
    if message.code == "no_forms":
        return NoForms(said, peer=peer, retry_after=0.0)
    return HopRefused(said, peer=peer, retry_after=message.retry_after_ms / 1000, most=message.most)
