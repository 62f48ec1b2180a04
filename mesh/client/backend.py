"""The real `Backend`: sessions over the swarm, found in the directory and driven over a transport."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np

from mesh.client.affinity import Return, RouteMemory, worth_returning
from mesh.client.announced import AnnouncedNames
from mesh.client.audits import PAID_SHARE, SHARE, SessionAudits
from mesh.client.backend_config import BackendConfig as BackendConfig
from mesh.client.catalog import Offer, offers, what_is_apart
from mesh.client.generation import MeshGeneration
from mesh.client.hop_link import HopLinks
from mesh.client.introductions import introduce
from mesh.client.outlook import Outlook
from mesh.client.pair_times import PairTimes
from mesh.client.pins import ModelPins
from mesh.client.refusals import HopRefused
from mesh.client.request_checks import check_request
from mesh.client.ring_session import RingSession
from mesh.client.session_plan import SessionPlan
from mesh.client.text_threads import TextThreads
from mesh.client.tokenizer_files import TokenizerFiles
from mesh.client.tokenizers import Tokenizers
from mesh.client.trials import ProviderTrials, Verification
from mesh.client.types import GenerateRequest, ModelInfo
from mesh.discovery.directory import Directory
from mesh.discovery.records import ModelKey, ProviderRecord
from mesh.errors import NoRoute, PeerError, UnknownModel
from mesh.payment.credit.issuer import VoucherIssuer
from mesh.swarm.route import GAP_RETRY_SECONDS, Hop, Latencies, RouteTable, route_seconds
from mesh.swarm.standing import FullPeers, HopTimes, Penalties
from mesh.transport.port import Transport
from mesh.wire.messages import MAX_DRAFTS
from shards.engine.blocks import chain_root
from shards.model.numerics import has_same_bits
from shards.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

SPREAD = 0.05
"""Providers that are this much slower at most are as good as the best: sessions of many clients spread over them."""
MAX_TABLES = 64
ENOUGH_TRIPS = 8
"""An answer must take at least so many trips for us to learn from it what its hand-overs took."""
HOPE_SECONDS = 60.0
"""So long after there was a route, a gap is waited for: records get lost when nodes come and go, and are renewed."""
LISTED_SECONDS = 2.0
"""So long what a list of all models says of one is good for one look at it."""


class SwarmBackend:
    """Use as `async with`. Satisfies `mesh.client.types.Backend`."""

    def __init__(
        self,
        transport: Transport,
        directory: Directory,
        config: BackendConfig | None = None,
        *,
        issuer: Callable[[asyncio.TaskGroup], VoucherIssuer] | None = None,
        pins: ModelPins | None = None,
        verification: Verification | None = None,
    ) -> None:
        """`issuer` makes the one that pays the hops; without it only providers that want no pay serve us.

        With a `verification` providers are routed to and paid once they have shown their work; else nothing is known
        of the work that is paid for.
        `pins`: what names mean to us where no issuer looks them up on a chain; forgotten in the end unless given.
        """
        self._pins = pins or ModelPins()
        self._secret = secrets.token_bytes(16)
        self._make_issuer = issuer
        self.issuer: VoucherIssuer | None = None
        self._transport = transport
        self._directory = directory
        self._config = config or BackendConfig()
        self._tasks = asyncio.TaskGroup()
        self._records: dict[str, ProviderRecord] = {}
        self._links = HopLinks(transport, self._tasks, greet=partial(introduce, lambda: self.issuer, self._records))
        self._outlook = Outlook(self._config.looks, self._tasks, self._ask_directory)
        self.text_threads = TextThreads()
        self._penalised = Penalties(self._config.penalty_seconds)
        self._files = TokenizerFiles(self._links, self._penalised)
        self._tokenizers = Tokenizers(self._files.fetch, self.text_threads)
        self._full = FullPeers()
        self._hop_times = HopTimes()
        self._memory = RouteMemory()
        self._pair_times = PairTimes(
            transport, self._tasks, delay=self._config.pairs_delay, interval=self._config.pairs_seconds
        )
        self._tables: dict[str, tuple[Offer, RouteTable]] = {}
        self._noise = np.random.default_rng()
        self._listed: tuple[float, dict[str, list[ModelKey]]] = (-math.inf, {})
        """When all models were listed last, and their keys by name."""
        self._names = AnnouncedNames()
        self._routed: dict[str, float] = {}
        """When there was a route through a model last, by digest."""
        self._sessions: Counter[str] = Counter()
        self._verification = verification
        self.trials: ProviderTrials | None = None
        """Of the providers that we pay, where there is a `verification`."""
        paid = 0.0 if verification is None else PAID_SHARE
        usual = SHARE if issuer is None else paid
        share = usual if self._config.audit_share is None or not usual else self._config.audit_share
        replayers = None if verification is None else verification.replayers
        self.audits = SessionAudits(transport, self._records, share, replayers=replayers)
        self.on_hop: Callable[[str, bool], None] = lambda peer, served: None
        """Hears of every hop of a request whether it served it to the end."""

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        if self._make_issuer is not None:
            self.issuer = self._make_issuer(self._tasks)
            if self._verification is not None:
                self.trials = ProviderTrials(
                    self._verification, self.issuer, self.audits, self._tasks, self._links, self._table, self._session
                )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.audits.aclose()
        if self.trials is not None:
            self.trials.close()
        self._links.close()
        self._pair_times.close()
        self._outlook.close()
        await self._tasks.__aexit__(kind, error, trace)

    async def models(self) -> Sequence[ModelInfo]:
        """Every model that somebody announces, by name."""
        return [choice[0].info() for choice in await self._listed_by_name() if choice]

    async def listed(self) -> Sequence[Offer]:
        """All that these names mean to us, as it was known not long ago: what the dashboard shows."""
        return [offer for choice in await self._listed_by_name() for offer in choice]

    def opinion(self) -> tuple[Mapping[str, int], Mapping[str, float]]:
        """Our sessions by peer; and, of peers that have failed, how many times slower than they say they count."""
        ours = {peer: sessions for peer, sessions in self._sessions.items() if sessions > 0}
        now = time.monotonic()
        return ours, self._penalised.factors(now) | self.audits.evidence.factors(now)

    async def _listed_by_name(self) -> Sequence[Sequence[Offer]]:
        names = self._note_listed(await self._directory.models())
        found = await asyncio.gather(*(self._outlook.listed(name) for name in names))
        return [self._known(name, choice) for name, choice in zip(names, found, strict=True)]

    async def offers(self, model: str | None = None) -> Sequence[Offer]:
        """Everything that is announced, of one model name or of all: what `mesh status` shows."""
        names = [model] if model else self._note_listed(await self._directory.models())
        found = await asyncio.gather(*(self._outlook.look(name) for name in names))
        return [offer for choice in found for offer in choice]

    async def offer(self, model: str) -> Offer:
        """The providers of a model that belong together. Raises `UnknownModel`, `ModelChanged`."""
        found = await self._outlook.offers(model)
        if self.issuer is not None:
            chosen = found[0] if found else None
        else:
            chosen = await asyncio.to_thread(self._pins.choose, model, found)  # which may write it down
        if chosen is None:
            self._names.check(model)
            raise UnknownModel(
                f"no provider serves a model named {model!r}: see `mesh status` for what there is", param="model"
            )
        return chosen

    def _known(self, model: str, found: Sequence[Offer]) -> Sequence[Offer]:
        """Of the offers of a name those that it means to us; on a chain `issuer.vet` has seen to that."""
        return found if self.issuer is not None else self._pins.known(model, found)

    async def tokenizer(self, model: str) -> Tokenizer:
        """The model's tokenizer, fetched from a provider once and checked against its record."""
        return await self._tokenizers.get(await self.offer(model))

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[MeshGeneration]:
        """Open a session for the request; see `mesh.client.types.Backend`."""
        offer = await self.offer(request.model)
        sample = offer.sample
        resumed_paid = self.issuer is None or request.resumed_paid
        check_request(request, sample, resumed_paid=resumed_paid)
        tokenizer = await self.tokenizer(request.model)
        plan = SessionPlan(
            digest=offer.digest,
            wire_dtype=sample.wire_dtype,
            vocab_size=sample.vocab_size,
            fed=request.prompt,
            # What was paid for nowhere here is paid for as a prompt, whatever a client calls it.
            prompt_tokens=len(request.prompt) + (0 if resumed_paid else len(request.resumed)),
            capacity=len(request.prompt) + request.max_tokens,
            eos=() if request.ignore_eos else tokenizer.eos_token_ids,
            sampling=request.sampling,
            prompt_scores=request.prompt_logprobs,
            window=self._config.window_tokens if self.issuer is not None else None,
            secret=self._secret,
            constraint=request.constraint,
            answer_from=len(request.prompt),
            caller=request.caller,
        )
        counted: list[str] = []
        opened: list[RingSession] = []
        root = chain_root(offer.digest, self._secret.hex(), request.caller)
        known = None if request.prompt_logprobs else self._memory.find(root, request.prompt)

        async def route(excluded: frozenset[str]) -> Sequence[Hop]:
            hops = await self._route(request, offer.digest, excluded, known)
            self._routed[offer.digest] = time.monotonic()
            self._sessions.subtract(counted)
            counted[:] = [hop.peer for hop in hops]
            self._sessions.update(counted)
            return hops

        def session(hops: Sequence[Hop], current: SessionPlan) -> RingSession:
            made = self._session(hops, replace(current, drafts=self._drafts(request, hops)))
            opened.append(made)
            return made

        generating = MeshGeneration(
            request,
            plan,
            tokenizer,
            route,
            session,
            self._blame,
            self._config.patience,
            self._refused,
            hopeful=time.monotonic() - self._routed.get(offer.digest, -math.inf) < HOPE_SECONDS,
        )
        try:
            async with self._outlook.kept(request.model), generating as generation:
                yield generation
                if generation.completion is not None:
                    for hop in generation.hops:
                        self.on_hop(hop.peer, True)
                self._learn(generation, offer)
        finally:
            self._sessions.subtract(counted)
            self.audits.consider(opened)
            if generating.arrived:
                self._memory.remember(root, request.prompt, generating.hops)

    def _session(self, hops: Sequence[Hop], plan: SessionPlan) -> RingSession:
        config = self._config
        return RingSession(
            self._links,
            hops,
            plan,
            admit_seconds=config.admit_seconds,
            deadlines=config.deadlines,
            accrue=self.issuer.accrue if self.issuer is not None else None,
            linger_seconds=config.linger_seconds if self.issuer is not None else 0.0,
        )

    def _drafts(self, request: GenerateRequest, hops: Sequence[Hop]) -> int:
        """Guesses that a trip over these hops may check."""
        match request.speculate:
            case "off":
                return 0
            case "always":
                return MAX_DRAFTS
        records = [self._records.get(hop.peer) for hop in hops]
        same = all(record is not None and has_same_bits(record.numerics) for record in records)
        return MAX_DRAFTS if same else 0

    def _note_listed(self, keys: Sequence[ModelKey]) -> list[str]:
        """The names of a list, which is not read again for each of them: strangers may list hundreds."""
        self._listed = time.monotonic(), {name: [] for name, _ in keys}
        for key in keys:
            self._listed[1][key.name].append(key)
        return sorted(self._listed[1])

    async def _ask_directory(self, name: str) -> list[Offer]:
        at, known = self._listed
        keys: Sequence[ModelKey] = known.pop(name, ()) if time.monotonic() - at < LISTED_SECONDS else ()
        keys = keys or await self._directory.models(name)
        listed = await asyncio.gather(*(self._directory.providers(key) for key in keys))
        records = list(itertools.chain.from_iterable(listed))
        if self.issuer is not None:
            records = await self.issuer.vet(records)
        self._records.update((record.peer, record) for record in records)
        found = offers(name, records)
        if found:
            self._names.note(name)
        return found

    async def _route(
        self, request: GenerateRequest, digest: str, excluded: frozenset[str], known: Return | None
    ) -> Sequence[Hop]:
        """The best route by what we know; where that needs peers that have failed, by what the directory says now.

        Where the hops of a `known` one hold enough of the prompt for that to be the faster way: that one.
        """
        name = request.model
        for fresh in (False, True):
            found = await self._outlook.offers(name, fresh=fresh)
            match = [offer for offer in found if offer.digest == digest]
            if not match:
                continue
            offer = match[0]
            table = self._table(offer)
            now = time.monotonic()
            factors, busy = self._penalised.factors(now) | self.audits.evidence.factors(now), self._full.waits(now)
            untried = frozenset() if self.trials is None else self.trials.untried(offer)
            out = excluded | untried if fresh else excluded | untried | factors.keys()
            if self.trials is not None:
                self.trials.begin(offer)
            noise = SPREAD * self._noise.random(len(offer.records))
            try:
                best = table.choose(excluded=out, busy=busy, loads=self._sessions, factors=factors, noise=noise)
            except NoRoute as error:
                gap = error
                if self.trials is not None and untried and not fresh:
                    await self.trials.settled(offer)
            else:
                if known is None:
                    return best
                seconds = partial(table.seconds, excluded=out, busy=busy, loads=self._sessions, factors=factors)
                back = worth_returning(seconds(known.hops), seconds(best), known.held, request.max_tokens)
                return known.hops if back else best
            if fresh:
                held = self.trials.why_not(offer) if self.trials is not None else ""
                apart = "; ".join(filter(None, (what_is_apart(offer, found), held)))
                raise NoRoute(f"{gap}; {apart}", retry_after=gap.retry_after) if apart else gap
        raise NoRoute(f"nobody serves {name} any more", retry_after=GAP_RETRY_SECONDS)

    def _table(self, offer: Offer) -> RouteTable:
        """The providers of an offer, made ready for routing once per look at the directory."""
        known = self._tables.get(offer.digest)
        if known is not None and known[0] is offer:
            return known[1]
        self._pair_times.refresh([record.peer for record in offer.records], self._sessions.keys())
        told = self._pair_times.between(record.peer for record in offer.records)
        # What we measured ourselves comes before what others say.
        between = told | self._hop_times.between(time.monotonic())
        latencies = Latencies(to_first=self._links.round_trips(), between=between)
        table = RouteTable(offer.sample.n_blocks, offer.views(), latencies)
        if len(self._tables) >= MAX_TABLES:
            self._tables.clear()
        self._tables[offer.digest] = (offer, table)
        return table

    def _learn(self, generation: MeshGeneration, offer: Offer) -> None:
        """What the hand-overs of an undisturbed answer took."""
        done, hops = generation.completion, generation.hops
        if done is None or done.trips < ENOUGH_TRIPS or len(done.route) != len(hops):
            return
        views = {view.peer: replace(view, load=0) for view in offer.views()}
        if any(hop.peer not in views for hop in hops):
            return
        stages = route_seconds(hops, list(views.values()), latencies=Latencies(default=0.0))
        decoding = (done.seconds - done.time_to_first_token) / (done.trips - 1)
        self._hop_times.learn([hop.peer for hop in hops], decoding, stages, time.monotonic())

    def in_use(self) -> frozenset[str]:
        """Peers that serve sessions of ours now."""
        return frozenset(peer for peer, sessions in self._sessions.items() if sessions > 0)

    def _refused(self, refusal: HopRefused) -> None:
        if refusal.peer is not None:
            self._full.refused(refusal.peer, refusal.retry_after, time.monotonic())

    async def reach(self, peers: Sequence[str]) -> None:
        """Connect to providers, so that they can open channels to us although they do not know our address.

        Those that cannot be reached are left out.
        """
        for peer in peers:
            try:
                await self._links.get(peer)
            except PeerError as error:
                logger.info("%s cannot be reached: %s", peer, error)

    def _blame(self, peer: str) -> None:
        self._penalised.blame(peer, time.monotonic())
        self.on_hop(peer, False)
