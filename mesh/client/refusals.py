"""What a hop says that has no place for a session: another may have one, or the same one later."""

from __future__ import annotations

from mesh.errors import PeerError, Refused


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
