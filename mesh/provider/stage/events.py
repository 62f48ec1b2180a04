"""What can happen to a stage, and what it then has done (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh.payment.credit.customers import Customer
from mesh.provider.stage.ports import Payload, SessionOwner
from mesh.transport.port import PeerId
from mesh.wire.frame import Frame
from mesh.wire.messages import (
    Activations,
    CloseSession,
    ExtendSession,
    Message,
    NextTokens,
    OpenSession,
    Prompt,
)
from shards.engine.sampler import Form
from shards.engine.step import StepOutput

# --- events ---


@dataclass(frozen=True, slots=True)
class Asked:
    """A client asks for something about a session."""

    owner: SessionOwner
    message: OpenSession | Prompt | ExtendSession | CloseSession
    payload: Payload = b""
    form: Form | None = None
    """Of a session whose answer is held to one, at the last hop."""


@dataclass(frozen=True, slots=True)
class OwnerGone:
    """A client's control channel has ended."""

    owner: SessionOwner


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame came over the ring."""

    sender: PeerId
    message: Activations | NextTokens
    payload: Payload = b""


@dataclass(frozen=True, slots=True)
class RingClosed:
    """A neighbour has closed its ring channel to us in order."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerLost:
    """A neighbour cannot be reached, or broke the protocol."""

    peer: PeerId
    reason: str
    code: str = "peer_lost"


@dataclass(frozen=True, slots=True)
class LinkFilled:
    """Much waits to be sent to a neighbour: no more of a prompt is run towards it …"""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class LinkCleared:
    """… until little does."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Computed:
    """The engine has run a pass."""

    outputs: Sequence[StepOutput]


@dataclass(frozen=True, slots=True)
class CustomerPaid:
    """A customer has room for more work."""

    customer: Customer


@dataclass(frozen=True, slots=True)
class CustomerOwes:
    """A customer has not paid in time, or may not be served any more."""

    customer: Customer


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """No session is admitted any more."""


@dataclass(frozen=True, slots=True)
class StageEnded:
    """The stage goes: all sessions end."""

    reason: str


Event = (
    Asked
    | OwnerGone
    | Arrived
    | RingClosed
    | PeerLost
    | LinkFilled
    | LinkCleared
    | Computed
    | CustomerPaid
    | CustomerOwes
    | Ticked
    | Withdrawn
    | StageEnded
)

# --- actions ---


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to a client."""

    owner: SessionOwner
    message: Message


@dataclass(frozen=True, slots=True)
class HandOver:
    """Send a frame to the next hop."""

    peer: PeerId
    frame: Frame


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Open the link to a neighbour: a session has been admitted that will hand over to it."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Stray:
    """Nothing of the frame was for a session with its sender."""

    peer: PeerId


Action = Tell | HandOver | OpenLink | Stray
