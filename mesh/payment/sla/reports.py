"""Service levels: what a gateway saw of each provider, its signed reports, and when they show a miss (pure).

Uptime is the share of requests and probes that were answered; latency is the 95th percentile (nearest rank) of what
the answers took. A report also says how many of them were requests: the chain counts no miss that rests on probes
alone (`SlaReport`, docs/chain-rules.md, section 8).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from chain import safe_json
from chain.primitives import BPS, key_of
from chain.vouchers import Domain, SlaReport, digest, is_signed_by
from mesh.errors import ProtocolViolation
from shards.shown import shown

VERSION: Final = 2
MAX_SAMPLES: Final = 4096
MAX_PROVIDERS: Final = 10_000
KEPT_EPOCHS: Final = 4
LEAST_OBSERVATIONS: Final = 5
LEAST_REQUESTS: Final = 5
"""Requests that a report must rest on to show a miss; the chain's own number."""
MAX_REPORTS: Final = 4 << 20
"""Bytes of a file of reports."""
MAX_UINT32: Final = 2**32 - 1
MAX_DIGITS: Final = 30
SIGNATURE_BYTES: Final = 65


@dataclass(slots=True)
class _Tally:
    served: int = 0
    failed: int = 0
    requests: int = 0
    stride: int = 1
    skipped: int = 0
    samples: list[float] = field(default_factory=list)

    def sample(self, latency_ms: float) -> None:
        """Keep every `stride`-th sample; when there are too many, every second of them and twice the stride."""
        self.skipped += 1
        if self.skipped < self.stride:
            return
        self.skipped = 0
        self.samples.append(latency_ms)
        if len(self.samples) >= MAX_SAMPLES:
            del self.samples[::2]
            self.stride *= 2


@dataclass(frozen=True, slots=True)
class Measured:
    """One provider in one epoch. `latency_ms` is rounded up; 0 where nothing was timed."""

    uptime_bps: int
    latency_ms: int
    observations: int
    requests: int


class SlaBook:
    """What was seen, by epoch and provider; the last few epochs only."""

    def __init__(self) -> None:
        self._tallies: dict[int, dict[str, _Tally]] = {}

    def observe(
        self, provider: str, epoch: int, served: bool, latency_ms: float | None = None, *, request: bool = False
    ) -> None:
        """A request or probe that was answered, after `latency_ms`, or not. Our own failures are not for this book."""
        epoch_tallies = self._tallies.setdefault(epoch, {})
        for past in [each for each in self._tallies if each < epoch - KEPT_EPOCHS]:
            del self._tallies[past]
        tally = epoch_tallies.get(provider)
        if tally is None:
            if len(epoch_tallies) >= MAX_PROVIDERS:
                return
            tally = epoch_tallies[provider] = _Tally()
        tally.requests = min(MAX_UINT32, tally.requests + request)
        if not served:
            tally.failed += 1
            return
        tally.served += 1
        if latency_ms is not None and math.isfinite(latency_ms) and latency_ms >= 0:
            tally.sample(latency_ms)

    def measured(self, epoch: int) -> dict[str, Measured]:
        """By provider id; who was seen fewer than `LEAST_OBSERVATIONS` times is left out."""
        found = {}
        for provider, tally in sorted(self._tallies.get(epoch, {}).items()):
            seen = tally.served + tally.failed
            if seen < LEAST_OBSERVATIONS:
                continue
            latency = min(MAX_UINT32, math.ceil(percentile(tally.samples, 95)))
            found[provider] = Measured(tally.served * BPS // seen, latency, seen, tally.requests)
        return found

    def signed(
        self,
        gateway: str,
        epoch: int,
        domain: Domain,
        sign: Callable[[bytes], bytes],
        receipts: Mapping[str, tuple[int, bytes]],
    ) -> bytes | None:
        """What was measured in an epoch, as `sign_reports` writes it; None when nothing was."""
        measured = self.measured(epoch)
        return sign_reports(gateway, epoch, measured, domain, sign, receipts) if measured else None


def percentile(samples: Sequence[float], percent: int) -> float:
    """Nearest rank: the smallest sample that `percent` in a hundred do not exceed; 0 for none."""
    if not samples:
        return 0.0
    return sorted(samples)[max(0, -(-len(samples) * percent // 100) - 1)]


@dataclass(frozen=True, slots=True)
class SignedReport:
    """A report with its gateway's signature (65 bytes); `provider` is the id behind the report's key.

    The receipt is the provider's own word that it worked for the gateway in that epoch, without which the chain counts
    no miss: units, and a signature that is not checked here.
    """

    provider: str
    report: SlaReport
    signature: bytes
    receipt_units: int = 0
    receipt_signature: bytes = b""


def sign_reports(
    gateway: str,
    epoch: int,
    measured: Mapping[str, Measured],
    domain: Domain,
    sign: Callable[[bytes], bytes],
    receipts: Mapping[str, tuple[int, bytes]],
) -> bytes:
    """A file of reports. `domain` is Slashing's, `sign` signs a digest of 32 bytes; `receipts` of that epoch: units and
    signature by provider."""
    entries = []
    for provider, each in measured.items():
        report = SlaReport(key_of(gateway), key_of(provider), epoch, each.requests, each.uptime_bps, each.latency_ms)
        signature = sign(digest(domain, report))
        units, receipt = receipts.get(provider, (0, b""))
        entries.append(
            {
                "provider": provider,
                "requests": each.requests,
                "uptime_bps": each.uptime_bps,
                "latency_ms": each.latency_ms,
                "signature": signature.hex(),
                "receipt_units": str(units),
                "receipt": receipt.hex(),
            }
        )
    value = {"version": VERSION, "gateway": gateway, "epoch": epoch, "reports": entries}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def read_reports(body: bytes, *, gateway: str, epoch: int, domain: Domain, signer: bytes) -> list[SignedReport]:
    """The reports in a stranger's file, each signed by `signer` (20 bytes). Raises `ProtocolViolation`."""
    try:
        value = safe_json.parse(body) if len(body) <= MAX_REPORTS else None
    except ValueError as error:
        raise ProtocolViolation(f"the reports are not JSON: {error}") from error
    if not isinstance(value, dict) or value.get("version") != VERSION or not isinstance(value.get("reports"), list):
        raise ProtocolViolation("this is no file of reports")
    if value.get("gateway") != gateway or value.get("epoch") != epoch or len(value["reports"]) > MAX_PROVIDERS:
        raise ProtocolViolation("these are other reports than those that were asked for")
    found = {}
    for entry in value["reports"]:
        report = _read(entry, gateway, epoch, domain, signer)
        found[report.provider] = report
    return list(found.values())


def _read(entry: object, gateway: str, epoch: int, domain: Domain, signer: bytes) -> SignedReport:
    if not isinstance(entry, dict):
        raise ProtocolViolation("a report is not an object")
    provider, requests, uptime, latency, text = (
        entry.get(each) for each in ("provider", "requests", "uptime_bps", "latency_ms", "signature")
    )
    if not isinstance(provider, str) or not 1 <= len(provider.encode("utf-8", "surrogatepass")) <= 64:
        raise ProtocolViolation("a report names no provider")
    units, receipt = entry.get("receipt_units"), entry.get("receipt")
    if not isinstance(text, str) or not isinstance(receipt, str) or len(receipt) > 2 * SIGNATURE_BYTES:
        raise ProtocolViolation(f"the report of {provider!r:.80} has no signature")
    if not isinstance(units, str) or not units.isascii() or not units.isdigit() or len(units) > MAX_DIGITS:
        raise ProtocolViolation(f"the report of {provider!r:.80} names no units")
    try:
        signature, acknowledged = bytes.fromhex(text), bytes.fromhex(receipt)
        report = SlaReport(
            key_of(gateway),
            key_of(provider),
            epoch,
            _integer(requests, MAX_UINT32),
            _integer(uptime, BPS),
            _integer(latency, MAX_UINT32),
        )
    except ValueError as error:
        raise ProtocolViolation(f"the report of {provider!r:.80} does not read: {error}") from error
    if not is_signed_by(digest(domain, report), signature, signer):
        raise ProtocolViolation(f"the report of {provider!r:.80} is not signed by its gateway")
    return SignedReport(provider, report, signature, int(units), acknowledged)


def _integer(value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{shown(value)} is no integer from 0 to {most}")
    return value


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that a provider worked for in an epoch, as the chain has it."""

    gateway: bytes
    """Its key, 32 bytes."""
    units: int
    """Proven for the provider."""
    stake: int
    """Effective, in wei, now."""


def shows_miss(
    reports: Iterable[SignedReport], served: Sequence[Served], *, uptime_bps: int, latency_ms: int, quorum: int
) -> list[SignedReport]:
    """The reports of a miss to enforce a commitment with, in the chain's order; none unless they decide it.

    They must be more than half of `served`, which are all gateways that the provider worked for, both by stake and by
    units that it has acknowledged, and `served` a quorum.
    """
    weights = {each.gateway: each for each in served}
    missed = {
        each.report.gateway: each
        for each in reports
        if each.receipt_units
        and each.report.gateway in weights
        and is_miss(each.report, uptime_bps=uptime_bps, latency_ms=latency_ms)
    }
    stake = sum(weights[key].stake for key in missed)
    units = sum(min(weights[key].units, report.receipt_units) for key, report in missed.items())
    decided = 2 * stake > sum(each.stake for each in served) and 2 * units > sum(each.units for each in served)
    return [missed[key] for key in sorted(missed)] if decided and len(served) >= quorum else []


def is_miss(report: SlaReport, *, uptime_bps: int, latency_ms: int) -> bool:
    """Whether a report rests on requests and shows less than was promised."""
    return report.requests >= LEAST_REQUESTS and (report.uptime_bps < uptime_bps or report.latency_ms > latency_ms)
