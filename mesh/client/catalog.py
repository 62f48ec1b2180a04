"""What the records add up to: which models the swarm serves, and who may be combined into a route (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mesh.client.types import ModelInfo
from mesh.discovery.records import ProviderRecord
from mesh.swarm.view import ProviderView, gaps

_MOST_SAID = 3


@dataclass(frozen=True, slots=True)
class Offer:
    """Providers whose records agree on the model to the byte: the only ones that may share a route."""

    name: str
    digest: str
    records: tuple[ProviderRecord, ...]
    """Never empty."""

    @property
    def sample(self) -> ProviderRecord:
        """Any record: they agree on everything that describes the model."""
        return self.records[0]

    def views(self, extra_load: Callable[[str], int] = lambda peer: 0) -> list[ProviderView]:
        """The swarm's view for routing; `extra_load` adds sessions that the records do not know of yet."""
        return [
            record.view(load=max(record.sessions, record.queue_depth, extra_load(record.peer)))
            for record in self.records
        ]

    def info(self) -> ModelInfo:
        """The model as the API lists it."""
        sample = self.sample
        missing = gaps(sample.n_blocks, [view for view in self.views() if view.serving])
        return ModelInfo(
            name=self.name,
            digest=self.digest,
            n_blocks=sample.n_blocks,
            context_length=sample.context_length,
            vocab_size=sample.vocab_size,
            complete=not missing,
            gaps=missing,
        )


def offers(name: str, records: Iterable[ProviderRecord]) -> list[Offer]:
    """The offers of one model name, best first: complete before incomplete, then by number of providers.

    Two records belong together when digest, shape and wire dtype are equal. The digest is of weights and small
    files, so that a stranger who announces the same name with others is not of the same offer.
    """
    groups: dict[object, list[ProviderRecord]] = {}
    for record in records:
        if record.model == name:
            groups.setdefault(_identity(record), []).append(record)
    found = [Offer(name, group[0].digest, tuple(group)) for group in groups.values()]
    return sorted(found, key=lambda offer: (not offer.info().complete, -len(offer.records), offer.digest))


def what_is_apart(offer: Offer, others: Iterable[Offer]) -> str:
    """Why providers that announce what an offer lacks are no help to it, in words; empty where there are none."""
    lacking = offer.info().gaps
    said = []
    for other in others:
        helpful = [
            r for r in other.records if any(r.span.start < gap.end and gap.start < r.span.end for gap in lacking)
        ]
        if other is offer or other.name != offer.name or not helpful:
            continue
        spans = ", ".join(sorted({str(record.span) for record in helpful}))
        if other.digest != offer.digest:
            why = f"of other weights or files under this name (digest {other.digest[:12]}, not {offer.digest[:12]})"
        elif other.sample.wire_dtype != offer.sample.wire_dtype:
            why = f"in {other.sample.wire_dtype}, which cannot go on from {offer.sample.wire_dtype}: use one --dtype"
        else:
            why = "by providers that say other things of the model's shape"
        said.append(f"blocks {spans} are served {why}")
    return "; ".join(said[:_MOST_SAID])


def _identity(record: ProviderRecord) -> object:
    return (
        record.digest,
        record.n_blocks,
        record.context_length,
        record.vocab_size,
        record.wire_dtype,
    )
