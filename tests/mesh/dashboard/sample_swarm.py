"""Snapshots for tests of the dashboard: a model of twelve blocks, and providers with made-up ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mesh.client.catalog import Offer
from mesh.dashboard.snapshot import About, Opinion, Probe, RequestRow, Snapshot, snapshot
from mesh.discovery.records import ProviderRecord
from shards.model.span import Span
from tests.mesh.sample_record import sample_record

ABOUT = About(peer="us", version="1")


def record(peer: str, start: int, end: int) -> ProviderRecord:
    """One that serves these blocks."""
    return replace(sample_record(peer), span=Span(start, end))


def seen(
    *records: ProviderRecord,
    probes: Mapping[str, Probe] | None = None,
    requests: Mapping[str, RequestRow] | None = None,
) -> Snapshot:
    """What is shown of a swarm of these providers."""
    offers = [Offer(records[0].model, records[0].digest, records)] if records else []
    return snapshot(ABOUT, offers, probes or {}, Opinion(), requests or {})


def request(tokens: int) -> RequestRow:
    """A request that runs."""
    return RequestRow("tiny/llama", "running", 0, 1, tokens, None, None, ())
