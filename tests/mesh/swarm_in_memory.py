"""A whole swarm in one process and on one event loop: providers, directory and client, over the in-memory transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from chain.wallet import Account
from mesh.client.affinity import RouteMemory
from mesh.client.backend import BackendConfig, SwarmBackend
from mesh.client.generation import MeshGeneration
from mesh.client.trial_book import TrialBook
from mesh.client.trials import Verification
from mesh.client.types import Completion, GenerateRequest, TokenLogprob
from mesh.discovery.directory import MemoryBoard, MemoryDirectory
from mesh.discovery.records import FileDigest, ProviderRecord
from mesh.identity import Identity
from mesh.payment.credit.store import PaymentJournal
from mesh.provider.config import ServiceConfig
from mesh.provider.model_files import ModelFiles, read_model_files
from mesh.provider.stage.server import StageService
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.verification.local_blocks import LocalBlocks
from shards.checkpoint.folder import Checkpoint
from shards.checkpoint.manifest import MANIFEST_NAME
from shards.model.loading import load_stage
from shards.model.span import Span
from tests.mesh.payment.money import Money

MODEL = "tiny"
WIRE_DTYPE = "float32"


async def until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait for something that announces itself by no event. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@dataclass(slots=True)
class Provider:
    """A live provider of the swarm."""

    identity: Identity
    span: Span
    service: StageService
    transport: MemoryTransport
    directory: MemoryDirectory
    task: asyncio.Task[None]
    account: Account | None = None
    journal: PaymentJournal | None = None

    @property
    def peer(self) -> str:
        return self.identity.peer_id

    async def vanish(self) -> None:
        """As if its process was killed: every channel breaks, its record stays."""
        await self.transport.__aexit__(None, None, None)
        await self.stop()

    async def stop(self) -> None:
        """End the service as its operator would."""
        self.task.cancel()
        await asyncio.wait({self.task})

    @property
    def empty(self) -> bool:
        """True when no session is left, and nothing that belonged to one."""
        service = self.service
        held = 0 if service.engine is None else service.engine.pages - service.engine.free_pages
        return not (len(service.table) or service.table.pages_used or held)


@dataclass(slots=True)
class Answer:
    """What a generation gave, put together."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    completion: Completion


@dataclass(slots=True)
class MemorySwarm:
    """The swarm, a client to it, and the means to make it larger or to attack it."""

    files: ModelFiles
    checkpoint: Checkpoint
    stack: AsyncExitStack
    config: ServiceConfig
    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    board: MemoryBoard = field(default_factory=MemoryBoard)
    providers: list[Provider] = field(default_factory=list)
    money: Money | None = None
    verification: Verification | None = None
    """Of gateways, which pay."""
    backend: SwarmBackend = field(init=False)

    @property
    def services(self) -> list[StageService]:
        return [provider.service for provider in self.providers]

    @property
    def empty(self) -> bool:
        """True when no provider has a session left."""
        return all(provider.empty for provider in self.providers)

    async def add(
        self,
        span: Span,
        *,
        throughput: float = 100.0,
        config: ServiceConfig | None = None,
        identity: Identity | None = None,
    ) -> Provider:
        """Start one more provider and announce it."""
        identity = identity or Identity.generate()
        transport = await self.transport(identity.peer_id)
        directory = MemoryDirectory(identity, self.board)
        paid = None
        if self.money is not None:
            paid = self.money.provider(identity, f"provider-{len(self.providers)}", self.files.digest, len(span))
        service = StageService(
            load_stage(self.checkpoint, span),
            digest=self.files.digest,
            transport=transport,
            files=self.files.contents,
            wire_dtype=WIRE_DTYPE,
            config=config or self.config,
            collector=paid.collector if paid is not None else None,
            identity=identity,
        )
        ready = asyncio.Event()
        task = asyncio.create_task(service.run(ready.set))
        provider = Provider(identity, span, service, transport, directory, task)
        self.stack.push_async_callback(_stop, provider)
        await ready.wait()
        record = self.record(identity.peer_id, span, throughput)
        if paid is not None:
            record = replace(record, account=paid.binding)
            provider.account, provider.journal = paid.account, paid.journal
        await directory.announce(record)
        self.providers.append(provider)
        return provider

    async def restart(self, provider: Provider) -> Provider:
        """Kill a provider that is served for free, and start it again under its name."""
        await provider.vanish()
        self.providers.remove(provider)
        return await self.add(provider.span, identity=provider.identity)

    async def announce(self, identity: Identity, span: Span, *, throughput: float = 1e6) -> None:
        """Announce a provider that the test plays itself; it looks fast, and the client forgets where its chats are, so
        that it is chosen."""
        self.backend._memory = RouteMemory()
        directory = MemoryDirectory(identity, self.board)
        await directory.announce(self.record(identity.peer_id, span, throughput))

    def record(self, peer: str, span: Span, throughput: float) -> ProviderRecord:
        spec = self.files.spec
        return ProviderRecord(
            peer=peer,
            model=MODEL,
            digest=self.files.digest,
            n_blocks=spec.n_blocks,
            span=span,
            state="serving",
            context_length=spec.context_length,
            vocab_size=spec.vocab_size,
            throughput=throughput,
            wire_dtype=WIRE_DTYPE,
            files={MANIFEST_NAME: FileDigest(self.files.manifest.sha256, self.files.manifest.size)},
        )

    async def transport(self, peer: str) -> MemoryTransport:
        """One more member of the network: a hostile one, or another client."""
        return await self.stack.enter_async_context(MemoryTransport(peer, self.network))

    async def client(self, config: BackendConfig | None = None, *, gateway: str | None = None) -> SwarmBackend:
        """One more client; one that pays, as the gateway of this id."""
        identity = Identity.generate()
        transport = await self.transport(identity.peer_id)
        directory = MemoryDirectory(identity, self.board)
        issuer = verification = None
        if gateway is not None and self.money is not None:
            issuer, verification = self.money.gateway(identity, gateway), self.verification
        backend = SwarmBackend(transport, directory, config, issuer=issuer, verification=verification)
        return await self.stack.enter_async_context(backend)

    async def generate(self, request: GenerateRequest, *, backend: SwarmBackend | None = None) -> Answer:
        """Run a generation to its end."""
        async with (backend or self.backend).generate(request) as generation:
            return await collect(generation)


async def collect(generation: MeshGeneration) -> Answer:
    """Read a generation to its end."""
    text = ""
    tokens: list[int] = []
    logprobs: list[TokenLogprob] = []
    async for delta in generation:
        text += delta.text
        tokens += delta.tokens
        logprobs += delta.logprobs
    assert generation.completion is not None
    return Answer(text, tuple(tokens), tuple(logprobs), generation.completion)


@asynccontextmanager
async def memory_swarm(
    folder: Path,
    spans: Sequence[Span],
    *,
    config: ServiceConfig | None = None,
    backend: BackendConfig | None = None,
    money: Money | None = None,
    unverified: bool = False,
) -> AsyncIterator[MemorySwarm]:
    """A swarm that serves the checkpoint in `folder` under the name `MODEL`, one provider per span.

    With `money` the providers want to be paid, and the client is the gateway «gateway»; `unverified`: it pays for work
    of which it knows nothing, so that it makes no sessions of its own.
    """
    config = config or ServiceConfig(prefill_chunk=8)
    async with AsyncExitStack() as stack:
        files = read_model_files(MODEL, folder)
        verification = None
        if money is not None and not unverified:
            book = stack.enter_context(TrialBook())
            verification = Verification(book, {files.digest: LocalBlocks(folder)})
        swarm = MemorySwarm(
            files=files,
            checkpoint=Checkpoint.open(folder),
            stack=stack,
            config=replace(config, threads=1),
            money=money,
            verification=verification,
        )
        for span in spans:
            await swarm.add(span)
        swarm.backend = await swarm.client(backend, gateway="gateway" if money is not None else None)
        yield swarm


async def _stop(provider: Provider) -> None:
    await provider.stop()
    if not provider.task.cancelled():
        provider.task.result()
