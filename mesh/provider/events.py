"""What a provider tells of itself while it joins, serves, moves and leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shards.model.span import Span

if TYPE_CHECKING:
    from mesh.payment.settlement.loop import SettlementEvent


@dataclass(frozen=True, slots=True)
class Joined:
    """We are part of the swarm and can be joined through."""

    peer: str
    maddrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reached:
    """We are behind a NAT, and reached through these relays (peer ids) from now on; none: nobody can reach us."""

    relays: tuple[str, ...]
    maddrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chose:
    """The blocks that this node will serve."""

    model: str
    span: Span
    n_blocks: int


@dataclass(frozen=True, slots=True)
class Serving:
    """The stage is live and announced. `tokens_per_second` is its measured decode speed at batch 1."""

    model: str
    span: Span
    n_blocks: int
    tokens_per_second: float
    dtype: str
    device: str
    quantize: str | None = None
    """What the weights were quantised to; None: nothing."""


@dataclass(frozen=True, slots=True)
class Staked:
    """We are registered, and our stake is on the chain."""

    what: str
    tx: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """Something that the settlement of an epoch did or met."""

    event: SettlementEvent


@dataclass(frozen=True, slots=True)
class Draining:
    """We are leaving: `sessions` run here still."""

    sessions: int


@dataclass(frozen=True, slots=True)
class Drained:
    """No session is left; `handed_over` did not end in time and go on elsewhere."""

    handed_over: int


@dataclass(frozen=True, slots=True)
class Differs:
    """A peer serves another model of our model's name: these files are not as ours are."""

    model: str
    peer: str
    files: tuple[str, ...]


JoinEvent = Joined | Reached | Chose | Serving | Differs | Staked | Settlement | Draining | Drained
