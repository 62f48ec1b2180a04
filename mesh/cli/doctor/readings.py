"""What `mesh doctor` reads before it judges: plain values, so that judging them needs no machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mesh.wire.knock import KnockAnswer


@dataclass(frozen=True, slots=True)
class Disk:
    """Where files of one purpose go. `free` and `total` are bytes; None where they cannot be read."""

    purpose: Literal["state", "models"]
    folder: str
    free: int | None
    total: int | None
    problem: str | None = None
    """Why nothing can be written there."""


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes; `swapped_in` in bytes a second, while we looked."""

    total: int
    available: int
    swap_total: int
    swap_used: int
    swapped_in: float


@dataclass(frozen=True, slots=True)
class Device:
    """What computes, as torch names it. `bandwidth` in bytes a second: how fast weights are read."""

    name: str
    what: str
    free: int
    bandwidth: float | None


@dataclass(frozen=True, slots=True)
class Cards:
    """The graphics cards on the bus, and what stands between them and us."""

    found: tuple[str, ...] = ()
    """By vendor: NVIDIA or AMD."""
    driver: Mapping[str, str] = field(default_factory=dict)
    """The version of each vendor's driver that is loaded."""
    usable: int = 0
    """Devices that torch sees."""
    built_for: str | None = None
    """What this torch is built for: CUDA 12.8, ROCm 6.4; None: CPUs alone."""


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine by itself."""

    disks: tuple[Disk, ...]
    memory: Memory
    devices: tuple[Device, ...]
    cards: Cards
    compiler: str | None
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Network:
    """What the nodes that were named tell of us. `problem`: why we could not join; if `clocks` are there, for them."""

    problem: str | None = None
    clocks: Mapping[str, float] = field(default_factory=dict)
    """By peer id, seconds that its clock is ahead of ours."""
    announced: tuple[str, ...] = ()
    """Where we say that we can be dialled."""
    answers: Mapping[str, KnockAnswer] = field(default_factory=dict)
    """By peer id, what came of its dialling there."""
    relays: tuple[str, ...] = ()
    """Through which we are reached."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """By peer id, the release that a provider runs."""


@dataclass(frozen=True, slots=True)
class ChainReading:
    """What the node behind --rpc says. `problem`: why it says nothing; `no_deployment`: why there is no file."""

    url: str
    problem: str | None = None
    no_deployment: str | None = None
    chain_id: int | None = None
    expected_id: int | None = None
    has_contracts: bool | None = None
    """Whether it has the block that the deployment file names."""
    head: int = 0
    behind: int | None = None
    """Blocks that the node says it has still to fetch."""
    head_age: float = 0.0
    """Seconds since its last block, by this machine's clock."""
    on_demand: bool = False
    """A development chain that makes a block when there is something to put in it."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Everything. What was not asked for is None."""

    machine: Machine
    network: Network | None = None
    chain: ChainReading | None = None
