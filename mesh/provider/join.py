"""`mesh join` from start to end: find the swarm, choose blocks, load them, serve, announce, leave."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mesh.discovery.records import FileDigest, ModelKey, ProviderRecord, State
from mesh.errors import MeshError
from mesh.node import Node
from mesh.provider.announcer import Announcer, committed_and_claims
from mesh.provider.config import REBALANCE_SECONDS, JoinConfig, Leaving, ServiceConfig, check_name, check_options
from mesh.provider.events import Chose, Drained, Draining, Joined, JoinEvent, Reached, Serving, Settlement, Staked
from mesh.provider.model_files import ModelFiles, model_name, read_model_files
from mesh.provider.namesakes import tell_of_namesakes
from mesh.provider.placement.rebalancer import Rebalancer
from mesh.provider.planner.machine import free_bytes, measure, stoppable, taken_bytes
from mesh.provider.readings import Reading
from mesh.provider.stage.admission import AdmissionLimits
from mesh.provider.stage.restartable import RestartableTransport
from mesh.provider.stage.server import StageService
from mesh.provider.uplink import Uplink
from mesh.swarm.placement import DEFAULT_STAGES, Claim, default_max_blocks, settle
from mesh.swarm.view import ProviderView
from mesh.version import VERSION
from mesh.wire.multiaddr import on_one_machine
from shards.checkpoint.manifest import MANIFEST_NAME
from shards.checkpoint.opening import open_checkpoint
from shards.checkpoint.source import resolve
from shards.model.loading import check_quantisable, check_servable, choose_dtype, load_stage
from shards.model.paging import PAGE
from shards.model.span import Span
from shards.model.stage import StageModel
from shards.progress import Progress, silent

if TYPE_CHECKING:
    from mesh.payment.onchain.registration import ChainRegistration

logger = logging.getLogger(__name__)

CLAIM_SECONDS = 1.0
CLAIM_ROUNDS = 20
STEADY_ROUNDS = 2
UNKNOWN_RATE = 1.0
MEMORY_FRACTION = 0.5
"""Of the free memory, what a node takes more blocks into."""


async def join(
    config: JoinConfig,
    tell: Callable[[JoinEvent], None],
    progress: Progress = silent,
    leaving: Leaving | None = None,
) -> None:
    """Serve until cancelled, then withdraw the record. Raises `MeshError` or `ShardError`.

    Asked by `leaving`, we admit no session any more, those that run have `drain_seconds` to end, and then we go.
    """
    folder = await stoppable(lambda report: resolve(config.model, cache=config.cache, progress=report), progress)
    name = config.name or model_name(config.model, folder, config.quantize)
    check_name(name)
    files = await stoppable(lambda report: read_model_files(name, folder, config.quantize, progress=report), progress)
    check_options(config, files)
    await asyncio.to_thread(check_servable, folder, files.spec, _here(config, files.spec.n_blocks))
    device = torch.device(config.device)
    dtype = choose_dtype(config.dtype, device, files.spec.dtype)
    if config.quantize is not None:
        await asyncio.to_thread(check_quantisable, files.spec, device, dtype, folder)
    async with AsyncExitStack() as stack:
        registration = None
        if config.payment is not None:
            # Needed only here: a provider that serves for free needs nothing of the chain.
            from mesh.payment.onchain.registration import provider_registration

            registration = await stack.enter_async_context(
                provider_registration(
                    config.payment,
                    config.node.identity,
                    digest=files.digest,
                    name=files.name,
                    ask=config.approve,
                    tell=lambda what, tx: tell(Staked(what, tx)),
                )
            )
        node = await stack.enter_async_context(Node(config.node))
        tell(Joined(node.peer_id, node.maddrs))
        async with asyncio.TaskGroup() as tasks:
            watchers = [tasks.create_task(node.watch())]
            if config.node.relays:
                tell(Reached(node.relays, node.maddrs))
                watchers.append(tasks.create_task(node.watch_relays(lambda now: tell(Reached(now, node.maddrs)))))
            provider = _Provider(config, node, files, str(dtype).removeprefix("torch."), registration)
            config.meter.read = provider.reading
            try:
                await provider.run_until(leaving or Leaving(), tell, progress)
            finally:
                # Also when loading fails or is broken off: nobody shall wait for blocks that will not come.
                await provider.withdraw()
                for watcher in watchers:
                    watcher.cancel()


def _here(config: JoinConfig, n_blocks: int) -> Span | None:
    """The blocks whose weights must be here already, as nobody fetches them: those of a folder that we may serve."""
    if not Path(config.model).expanduser().is_dir():
        return None
    return config.blocks or config.start_at or Span(0, n_blocks)


class _Provider:
    """The state of one joining or serving provider."""

    def __init__(
        self, config: JoinConfig, node: Node, files: ModelFiles, dtype: str, registration: ChainRegistration | None
    ) -> None:
        self._registration = registration
        self._config = config
        self._node = node
        self._announcer = Announcer(node.directory)
        self._files = files
        self._dtype = dtype
        weights = f"/{config.quantize}" if config.quantize is not None else ""
        self._numerics = f"{dtype}/{config.device.partition(':')[0]}{weights}"
        self._rate = UNKNOWN_RATE
        self._uplink = Uplink(node.transport, files.spec.hidden_size * getattr(torch, dtype).itemsize, self._others)
        self._threads = config.threads
        self._doors = RestartableTransport(node.transport)
        started = len(config.start_at) if config.start_at is not None else 0
        self._share = config.max_blocks or max(default_max_blocks(files.spec.n_blocks), started)
        self._memory = 0
        """Blocks that we have memory for, if we may move: 0 stays."""
        self._has_served = asyncio.Event()
        self._mover = Rebalancer(
            files.spec.n_blocks,
            share=self._share,
            interval=config.rebalance_seconds or REBALANCE_SECONDS,
            transport=node.transport,
            look=self._everybody,
            announce=lambda: self._announcer.announce(self._current_record()),
            fetch=self._fetch,
        )
        self._serving: tuple[StageService, Span] | None = None
        """What we serve now."""
        self._leaving = Leaving()

    async def withdraw(self) -> None:
        """Take our record back, as far as the directory can be reached."""
        await self._announcer.withdraw()

    async def run_until(self, leaving: Leaving, tell: Callable[[JoinEvent], None], progress: Progress) -> None:
        """Run, and drain when we are asked to leave."""
        self._leaving = leaving
        running = asyncio.create_task(self.run(tell, progress))
        asked = asyncio.create_task(leaving.asked.wait())
        try:
            await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await self._drain(tell)
        finally:
            asked.cancel()
            running.cancel()
            await asyncio.wait({running})
        if not running.cancelled():
            running.result()

    async def _drain(self, tell: Callable[[JoinEvent], None]) -> None:
        if self._serving is None:
            return
        service, span = self._serving
        if not len(service.table):  # nobody has to hear of it before the record is withdrawn
            await service.drain(self._config.drain_seconds, self._leaving.now)
            return
        tell(Draining(len(service.table)))
        service.withdraw()  # as the record says already
        announcing = asyncio.create_task(self._announcer.try_announce(self._serving_record(service, span)))
        try:
            handed_over = await service.drain(self._config.drain_seconds, self._leaving.now)
        finally:
            announcing.cancel()
        tell(Drained(handed_over))

    async def run(self, tell: Callable[[JoinEvent], None], progress: Progress) -> None:
        """Choose, load and serve, and do so again wherever we are needed more."""
        span = await self._choose()
        async with asyncio.TaskGroup() as tasks:
            if self._registration is not None:
                tasks.create_task(self._settle(self._registration, tell))
            tasks.create_task(self._tell_of_namesakes(tell))
            while True:
                tell(Chose(self._files.name, span, self._files.spec.n_blocks))
                # The stage is handed over, so that nobody holds it any more when another takes its place.
                span = await self._serve(await self._prepare(span, progress), span, tell)
                await self._doors.shut()
                gc.collect()

    async def _tell_of_namesakes(self, tell: Callable[[JoinEvent], None]) -> None:
        await self._has_served.wait()
        await tell_of_namesakes(self._files, self._node.directory, self._node.transport, tell)

    async def _settle(self, registration: ChainRegistration, tell: Callable[[JoinEvent], None]) -> None:
        """Look after the money, from the first time we serve on and whatever blocks we serve later."""
        await self._has_served.wait()
        settlement = registration.settlement(self._node.transport, lambda event: tell(Settlement(event)))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(registration.view.run())
            tasks.create_task(settlement.run())

    async def _prepare(self, span: Span, progress: Progress) -> StageModel:
        async with asyncio.TaskGroup() as tasks:
            keeper = tasks.create_task(self._announcer.keep(lambda: self._record(span, "loading")))
            model = await stoppable(lambda report: self._load(span, report), progress)
            self._numerics = model.numerics
            self._threads, self._rate = await asyncio.to_thread(measure, model, self._config.threads)
            keeper.cancel()
        return model

    async def _serve(self, model: StageModel, span: Span, tell: Callable[[JoinEvent], None]) -> Span:
        """Serve until we are needed more elsewhere; returns where."""
        files = self._files
        service = StageService(
            model,
            digest=files.digest,
            transport=self._doors,
            files=files.contents,
            wire_dtype=self._dtype,
            config=ServiceConfig(admission=AdmissionLimits(kv_bytes=self._config.kv_bytes), threads=self._threads),
            collector=self._registration.collector(len(span)) if self._registration is not None else None,
            identity=self._config.node.identity,
        )
        ready = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(service.run(ready.set))
            await ready.wait()
            self._has_served.set()
            self._serving = service, span
            await self._announcer.try_announce(self._current_record())
            config, rate = self._config, self._rate / len(span)
            blocks = files.spec.n_blocks
            tell(Serving(files.name, span, blocks, rate, self._dtype, config.device, config.quantize))
            self._leaving.serving = True
            keeper = tasks.create_task(self._announcer.keep(self._current_record))
            measuring = tasks.create_task(self._uplink.keep())
            if not self._memory:
                await asyncio.get_running_loop().create_future()  # we stay
            target = await self._mover.needed_elsewhere(span, lambda: len(service.table))
            if self._leaving.asked.is_set():
                await asyncio.get_running_loop().create_future()  # we go altogether
            self._leaving.serving = False
            await service.drain(0.0)  # whose time is over goes on elsewhere
            keeper.cancel()
            measuring.cancel()
            serving.cancel()
        self._serving = self._mover.going = None
        return target

    @property
    def _capacity(self) -> int:
        """Blocks that we may be asked to take: our share, and after a loss as many as we have memory for."""
        return self._memory if self._mover.was_complete else min(self._memory, self._share)

    async def _everybody(self, span: Span) -> list[ProviderView]:
        """The swarm with ourselves as we serve now, and with those that have only claimed."""
        committed, claims = await self._look()
        claimed = [ProviderView(claim.peer, claim.span, UNKNOWN_RATE, serving=False) for claim in claims]
        mine = ProviderView(
            self._node.peer_id,
            span,
            self._rate,
            max_blocks=self._capacity,
            link_rate=self._uplink.rate or math.inf,
        )
        return [*committed, *claimed, mine]

    async def _fetch(self, span: Span) -> None:
        """Have what `span` needs on disk."""
        config = self._config
        await stoppable(lambda report: resolve(config.model, span=span, cache=config.cache, progress=report), silent)

    def _current_record(self) -> ProviderRecord:
        """While we are moving we take no new sessions, and others see where we go."""
        going = self._mover.going
        if self._serving is None or (going is not None and not self._leaving.asked.is_set()):
            return self._record(going or Span(0, 1), "loading")
        return self._serving_record(*self._serving)

    def reading(self) -> Reading:
        """Ourselves as we are now."""
        engine = self._serving[0].engine if self._serving is not None else None
        done = (0, 0.0) if engine is None else (engine.tokens_done, engine.busy_seconds)
        return Reading(self._current_record(), *done)

    async def _choose(self) -> Span:
        """Claim a span, wait until the claim is steady among those who join at the same time."""
        if self._config.blocks is not None:
            return self._config.blocks
        if self._config.start_at is not None:
            await self._announcer.try_announce(self._record(self._config.start_at, "loading"))
            return self._config.start_at
        n_blocks = self._files.spec.n_blocks
        # A share that nobody asked for is an even one; what an operator offers is used whole.
        offered = self._config.max_blocks is not None
        stages = 1 if offered else DEFAULT_STAGES
        claimed: Span | None = None
        steady = 0
        for round_ in range(CLAIM_ROUNDS):
            try:
                committed, claims = await self._look()
            except MeshError as error:
                if round_ == CLAIM_ROUNDS - 1:
                    raise
                logger.warning("the directory does not answer, asking again: %s", error)
                await asyncio.sleep(CLAIM_SECONDS)
                continue
            span = settle(n_blocks, committed, claims, self._node.peer_id, self._share, stages=stages, fill=offered)
            steady = steady + 1 if span == claimed else 0
            if steady >= STEADY_ROUNDS or not self._config.node.initial_peers:
                break  # who starts a swarm has nobody to agree with: others join through it, and see what it has
            if span != claimed:
                logger.info("claiming blocks %s", span)
            claimed = span
            await self._announcer.try_announce(self._record(span, "joining"))
            await asyncio.sleep(CLAIM_SECONDS)
        await self._announcer.try_announce(self._record(span, "loading"))
        return span

    async def _records(self) -> Sequence[ProviderRecord]:
        """Everybody's of our model."""
        return await self._node.directory.providers(ModelKey(self._files.name, self._files.digest))

    async def _look(self) -> tuple[list[ProviderView], list[Claim]]:
        """The others of our model: those who serve or load, and those who still choose."""
        return committed_and_claims(await self._records(), without={self._node.peer_id})

    async def _others(self) -> list[str]:
        """Who else serves our model elsewhere than on this machine; nobody where the directory cannot be asked."""
        try:
            records = await self._records()
        except MeshError as error:
            logger.debug("nobody to measure the link with: %s", error)
            return []
        serving = [record for record in records if record.state == "serving" and record.peer != self._node.peer_id]
        return [record.peer for record in serving if not on_one_machine(self._node.maddrs, record.maddrs)]

    def _load(self, span: Span, progress: Progress) -> StageModel:
        config = self._config
        folder = resolve(config.model, span=span, cache=config.cache, progress=progress)
        checkpoint = open_checkpoint(folder, span=span, precision=config.quantize, progress=progress)
        model = load_stage(checkpoint, span, device=config.device, dtype=self._dtype, progress=progress)
        if config.blocks is None and config.rebalance_seconds is not None:
            free = free_bytes(config.device) * config.device_share
            taken = taken_bytes(checkpoint, span, model, config.device, quantized=config.quantize is not None)
            each = taken / len(span)
            self._memory = config.max_blocks or len(span) + int(MEMORY_FRACTION * free / each)
            self._memory = min(self._memory, self._files.spec.n_blocks)
        return model

    def _record(self, span: Span, state: State) -> ProviderRecord:
        spec = self._files.spec
        return ProviderRecord(
            peer=self._node.peer_id,
            model=self._files.name,
            digest=self._files.digest,
            n_blocks=spec.n_blocks,
            span=span,
            state=state,
            throughput=self._rate,
            link_rate=self._uplink.rate,
            max_blocks=self._capacity,
            context_length=spec.context_length,
            vocab_size=spec.vocab_size,
            maddrs=self._node.maddrs[:16],
            numerics=self._numerics,
            wire_dtype=self._dtype,
            version=VERSION,
            files={MANIFEST_NAME: FileDigest(self._files.manifest.sha256, self._files.manifest.size)},
            account=self._registration.binding() if self._registration is not None else b"",
        )

    def _serving_record(self, service: StageService, span: Span) -> ProviderRecord:
        engine = service.engine
        return replace(
            self._record(span, "draining" if service.draining else "serving"),
            queue_depth=0 if engine is None else engine.queued,
            kv_free_tokens=PAGE * (service.table.pages_free if engine is None else engine.free_pages),
            sessions=len(service.table),
        )
