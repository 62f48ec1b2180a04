"""What the dashboard shows, as tables of small rows: made from offers, probes and requests (pure).

Everything here is capped in number; names, words and peer ids have passed the checks of `mesh.discovery.records`, which
leave no characters that mean anything to HTML or to a terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final, Literal

from mesh.client.catalog import Offer
from mesh.discovery.records import ProviderRecord, State
from mesh.swarm.view import replicas_per_block, runs, throughput_per_block
from mesh.wire.pairs import PairState, Way
from shards.model.span import Span

MAX_MODELS: Final = 256
MAX_PROVIDERS: Final = 4096
"""Of all models together."""
MAX_PAIRS: Final = 2048
MAX_PAIRS_OF_ONE: Final = 64
MAX_REQUESTS: Final = 100
MAX_HOPS: Final = 64

RequestStatus = Literal["running", "done", "failed", "cancelled"]
Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class About:
    """Where the page comes from, and what it may show."""

    peer: str
    version: str
    chat: bool = False
    """There is a /v1 beside it to talk to."""
    needs_key: bool = False
    """That /v1 wants an API key."""
    requests: bool = False
    """The viewer sees this gateway's requests."""
    running: int = 0
    max_concurrent: int = 0
    problem: str | None = None
    """Why the swarm could not be looked at."""
    left_out: int = 0
    """Providers that are not in the snapshot because there are too many."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model, as the providers that agree on its digest serve it."""

    name: str
    digest: str
    blocks: int
    context: int
    complete: bool
    gaps: tuple[tuple[int, int], ...]
    replicas: tuple[tuple[int, int], ...]
    """Run lengths: so many blocks in a row have so many providers, as (blocks, providers)."""
    rate: float
    """Tokens per second through its slowest block."""
    providers: int
    silent: int
    """Of them, those that do not answer us: their blocks count as served by nobody."""


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """One provider's record, and how we found it."""

    peer: str
    model: str
    """The key of its row in `models`."""
    start: int
    end: int
    state: State
    rate: float
    """Tokens per second of its whole span."""
    sessions: int
    queue: int
    cache_free: int
    """Tokens that its cache has room for."""
    numerics: str
    version: str
    paid: bool
    ours: int = 0
    """Sessions of this gateway on it."""
    reachable: bool | None = None
    """Whether it answers us; None before it was asked."""
    ping_ms: float | None = None
    """From the question to its answer, over a new channel."""
    way: Way | None = None
    """How most of the others reach it, as they say."""
    trouble: float = 1.0
    """How many times slower than it says this gateway takes it for, because it has failed."""


@dataclass(frozen=True, slots=True)
class PairRow:
    """How a provider reaches another, as it says itself."""

    source: str
    target: str
    way: Way
    ms: float | None
    channels: int
    relay: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request of this gateway: never what was asked, answered, or by whom."""

    model: str
    status: RequestStatus
    created: int
    sessions: int
    tokens: int
    first_token_ms: float | None
    rate: float | None
    """Tokens per second after the first one, of all its sessions together."""
    route: tuple[tuple[str, int, int], ...]
    """Peer, first block, block after the last."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a provider answered when it was asked for its pairs; `pairs` is empty for one that did not."""

    reachable: bool
    ping_ms: float | None = None
    pairs: tuple[PairState, ...] = ()


@dataclass(frozen=True, slots=True)
class Opinion:
    """What this node thinks of peers by its own use of them."""

    ours: Mapping[str, int] = field(default_factory=dict)
    trouble: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it; rows by keys that stay the same while the thing lasts."""

    about: About
    models: Mapping[str, ModelRow] = field(default_factory=dict)
    providers: Mapping[str, ProviderRow] = field(default_factory=dict)
    pairs: Mapping[str, PairRow] = field(default_factory=dict)
    requests: Mapping[str, RequestRow] = field(default_factory=dict)


def snapshot(
    about: About,
    offers: Sequence[Offer],
    probes: Mapping[str, Probe],
    opinion: Opinion,
    requests: Mapping[str, RequestRow],
) -> Snapshot:
    """One state of the swarm and of this node."""
    silent = frozenset(peer for peer, probe in probes.items() if not probe.reachable)
    models = {_model_key(offer): _model_row(offer, silent) for offer in offers[:MAX_MODELS]}
    found = [(offer, record) for offer in offers[:MAX_MODELS] for record in offer.records]
    pairs = _pair_rows({record.peer for _, record in found[:MAX_PROVIDERS]}, probes)
    ways = _ways(pairs.values())
    providers = {
        f"{record.peer}/{offer.digest[:12]}": replace(
            _provider_row(_model_key(offer), record, probes, opinion), way=ways.get(record.peer)
        )
        for offer, record in found[:MAX_PROVIDERS]
    }
    left_out = max(0, len(found) - MAX_PROVIDERS)
    return Snapshot(
        about=replace(about, left_out=left_out) if left_out else about,
        models=models,
        providers=providers,
        pairs=pairs,
        requests=dict(list(requests.items())[-MAX_REQUESTS:]),
    )


def rounded(value: float) -> float:
    """Three significant figures: a change that nobody could see is none."""
    return float(f"{value:.3g}")


def _model_key(offer: Offer) -> str:
    return f"{offer.name}@{offer.digest[:12]}"


def _model_row(offer: Offer, silent: frozenset[str]) -> ModelRow:
    info = offer.info()
    serving = [view for view in offer.views() if view.serving and view.peer not in silent]
    counts = replicas_per_block(info.n_blocks, serving)
    missing = runs([count == 0 for count in counts])
    return ModelRow(
        name=info.name,
        digest=info.digest,
        blocks=info.n_blocks,
        context=info.context_length,
        complete=not missing,
        gaps=tuple((gap.start, gap.end) for gap in missing),
        replicas=tuple((len(list(run)), count) for count, run in groupby(counts)),
        rate=rounded(min(throughput_per_block(info.n_blocks, serving))),
        providers=len(offer.records),
        silent=sum(record.peer in silent for record in offer.records),
    )


def _provider_row(model: str, record: ProviderRecord, probes: Mapping[str, Probe], opinion: Opinion) -> ProviderRow:
    probe = probes.get(record.peer)
    return ProviderRow(
        peer=record.peer,
        model=model,
        start=record.span.start,
        end=record.span.end,
        state=record.state,
        rate=rounded(record.view().tokens_per_second),
        sessions=record.sessions,
        queue=record.queue_depth,
        cache_free=record.kv_free_tokens,
        numerics=record.numerics,
        version=record.version,
        paid=bool(record.account),
        ours=opinion.ours.get(record.peer, 0),
        reachable=None if probe is None else probe.reachable,
        ping_ms=None if probe is None or probe.ping_ms is None else rounded(probe.ping_ms),
        trouble=rounded(opinion.trouble.get(record.peer, 1.0)),
    )


def _pair_rows(known: set[str], probes: Mapping[str, Probe]) -> dict[str, PairRow]:
    """What those that are shown say of each other; a peer that names strangers is not believed that they exist."""
    rows: dict[str, PairRow] = {}
    for source in sorted(probes.keys() & known):
        told = [pair for pair in probes[source].pairs if pair.peer in known and pair.peer != source]
        for pair in told[:MAX_PAIRS_OF_ONE]:
            if len(rows) >= MAX_PAIRS:
                return rows
            rows[f"{source}>{pair.peer}"] = _pair_row(source, pair)
    return rows


def _ways(pairs: Iterable[PairRow]) -> dict[str, Way]:
    told: dict[str, Counter[Way]] = {}
    for pair in pairs:
        told.setdefault(pair.target, Counter())[pair.way] += 1
    return {peer: max(ways, key=lambda way: (ways[way], way)) for peer, ways in told.items()}


def _pair_row(source: str, pair: PairState) -> PairRow:
    seconds = pair.direct_round_trip if pair.way == "direct" else pair.daemon_round_trip
    return PairRow(
        source=source,
        target=pair.peer,
        way=pair.way,
        ms=None if seconds is None else rounded(seconds * 1000),
        channels=pair.channels,
        relay=pair.relay,
        problem=_shown(pair.problem),
    )


def _shown(text: str | None) -> str | None:
    """A stranger's words: printable, and not many."""
    if text is None:
        return None
    return "".join(each if each.isprintable() else "�" for each in text[:120])


def route_of(hops: Iterable[tuple[str, Span]]) -> tuple[tuple[str, int, int], ...]:
    """The hops of a request as its row has them."""
    return tuple((peer, span.start, span.end) for peer, span in hops)[:MAX_HOPS]
