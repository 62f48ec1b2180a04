"""What the operator can set: how a node joins, how a stage serves; and how it is asked to leave."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.discovery.records import NAME
from mesh.errors import ConfigError
from mesh.node import NodeConfig
from mesh.provider.model_files import ModelFiles
from mesh.provider.planner.machine import check_device
from mesh.provider.readings import Meter
from mesh.provider.stage.admission import AdmissionLimits
from mesh.verification.ledger import KEPT_BYTES
from shards.engine.scheduler import BatchLimits
from shards.model.precision import Precision
from shards.model.span import Span
from shards.shown import shown

if TYPE_CHECKING:
    from mesh.payment.onchain.registration import Ask, PaymentConfig

PREFILL_CHUNK = 256
REBALANCE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """How a stage serves: limits of admission and of a pass, tokens per prompt chunk, torch threads."""

    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    batch: BatchLimits = field(default_factory=BatchLimits)
    prefill_chunk: int = PREFILL_CHUNK
    stranger_requests: tuple[float, float] = (50.0, 500.0)
    """Requests a second, and at once, of a peer that has no session …"""
    client_requests: tuple[float, float] = (1000.0, 2000.0)
    """… and of one that has."""
    channel_seconds: float = 600.0
    """A channel to us ends after so long without a word, unless a session depends on it."""
    threads: int | None = None
    kept_bytes: int = KEPT_BYTES
    """Of rows of recent sessions, for audits."""


async def _approve(what: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """What `mesh join` was asked. `blocks` None chooses automatically, up to `max_blocks` (None: a third).

    Who chooses automatically looks every `rebalance_seconds` (None: never) whether it is needed more elsewhere.
    """

    model: str
    node: NodeConfig
    name: str | None = None
    blocks: Span | None = None
    max_blocks: int | None = None
    rebalance_seconds: float | None = REBALANCE_SECONDS
    start_at: Span | None = None
    """Where it starts that chooses automatically, where its node has chosen for several stages together."""
    device_share: float = 1.0
    """Which part of the device's free memory is for this stage."""
    device: str = "cpu"
    dtype: str = "auto"
    quantize: Precision | None = None
    """What weights are quantised to as they are loaded; None leaves them as they are stored."""
    cache: Path | None = None
    kv_bytes: int = 1 << 30
    threads: int | None = None
    drain_seconds: float = 10.0
    """How long sessions may go on when we leave."""
    payment: PaymentConfig | None = None
    """With which account to be paid; None serves for free."""
    approve: Ask = field(default=_approve)
    """Asked once before anything is staked."""
    meter: Meter = field(default_factory=Meter)
    """Through which our figures can be read."""


class Leaving:
    """Through this a provider is asked to go once its sessions have ended, and asked again to go at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.now = asyncio.Event()
        """Sessions are not waited for."""
        self.serving = False
        self._times = 0

    def ask(self) -> bool:
        """False when whoever wants it to end has to cancel it: it does not serve yet, or is asked a third time.

        The second time it hands its sessions over, and still says goodbye.
        """
        self._times += 1
        if self._times == 1 and self.serving:
            self.asked.set()
            return True
        if self._times == 2:
            self.now.set()
            return True
        return False


def check_name(name: str) -> None:
    """Raises `ConfigError` for a model's name that records cannot carry: nobody would ever see who serves it."""
    if not NAME.match(name):
        raise ConfigError(
            f"{shown(name)} cannot be announced as a model's name (letters, digits and . _ / : @ + -, the first a "
            "letter or a digit, 200 characters at most): give another one with --name"
        )


def check_options(config: JoinConfig, files: ModelFiles) -> None:
    """Raises `ConfigError` where they do not fit the model or the machine."""
    n_blocks = files.spec.n_blocks
    if config.blocks is not None and config.blocks.end > n_blocks:
        raise ConfigError(f"--blocks {config.blocks} is outside the model, which has blocks 0:{n_blocks}")
    if config.start_at is not None and config.start_at.end > n_blocks:
        raise ConfigError(f"--start-at {config.start_at} is outside the model, which has blocks 0:{n_blocks}")
    if not 0 < config.device_share <= 1:
        raise ConfigError(f"--device-share must be above 0 and at most 1, got {config.device_share:g}")
    if config.max_blocks is not None and config.max_blocks < 1:
        raise ConfigError(f"--max-blocks must be at least 1, got {config.max_blocks}")
    check_device(config.device)
