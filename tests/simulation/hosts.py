"""The machines of a simulation and what runs on them: providers that are the real `mesh join`, gateways, what is kept.

A host is what outlives a crash: key, account, payment journal, clock. `Machine` is one life of its process.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from random import Random
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chain.primitives import checksummed
from chain.wallet import Account
from mesh.client.backend import BackendConfig, SwarmBackend
from mesh.identity import Identity
from mesh.node import NodeConfig
from mesh.payment.credit.binding import Binding, Role, sign_binding
from mesh.payment.credit.collector import VoucherCollector
from mesh.payment.credit.issuer import VoucherIssuer
from mesh.payment.credit.store import PaymentJournal
from mesh.payment.credit.terms import CreditTerms, ProviderFacts
from mesh.provider.events import Chose, JoinEvent, Serving
from mesh.provider.join import JoinConfig, Leaving, _Provider
from mesh.provider.model_files import ModelFiles
from shards.engine.step import StepOutput
from shards.model.span import Span
from shards.progress import Progress, silent
from tests.mesh.payment.money import DOMAIN, MODEL_ID, MemoryChain
from tests.simulation.board import SimDht, SimDirectory
from tests.simulation.loop import MACHINE, Clock, Machine, VirtualLoop
from tests.simulation.model import NAME, HashModel
from tests.simulation.nature import WALL
from tests.simulation.network import SimNetwork, SimTransport

BINDING_UNTIL = int(WALL) + 86_400


@lru_cache(64)
def identity_of(name: str) -> Identity:
    return Identity(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"peer " + name.encode()).digest()))


@lru_cache(64)
def account_of(name: str) -> Account:
    return Account(hashlib.sha256(b"account " + name.encode()).digest())


@lru_cache(64)
def binding_of(role: Role, name: str) -> bytes:
    identity, account = identity_of(name), account_of(name)
    address = checksummed(DOMAIN.contract)
    binding = Binding(role, name, DOMAIN.chain_id, address, account.address, identity.peer_id, BINDING_UNTIL)
    return sign_binding(binding, identity, account)


@dataclass(slots=True)
class Site:
    """What all hosts of one simulation share."""

    loop: VirtualLoop
    random: Random
    network: SimNetwork
    dht: SimDht
    chain: MemoryChain
    terms: CreditTerms
    files: ModelFiles
    report: Callable[..., None]
    """Takes what has happened, for the trace."""


@dataclass
class Host:
    """What a machine keeps over its crashes."""

    site: Site
    name: str
    clock: Clock
    journal: PaymentJournal = field(default_factory=lambda: PaymentJournal(None))
    machine: Machine | None = None
    task: asyncio.Task[None] | None = None
    lives: int = 0
    killed: int = 0

    @property
    def peer(self) -> str:
        return identity_of(self.name).peer_id

    @property
    def is_up(self) -> bool:
        return self.machine is not None and self.machine.alive

    def boot(self) -> Machine:
        """Start a new life."""
        self.lives += 1
        self.machine = Machine(f"{self.name}#{self.lives}", self.site.loop, self.site.random, self.clock)
        self.site.network.dark.discard(self.peer)
        return self.machine

    def kill(self, *, lag: float, dark: bool) -> None:
        """As `kill -9`; or as pulling the plug, when nobody is told that the connections are gone."""
        machine = self.machine
        if machine is None or not machine.alive:
            return
        self.killed += 1
        transport = self.site.network.members.get(self.peer)
        machine.kill(self.site.random)
        if transport is not None:
            self.site.network.leave(transport, lag=lag)
        if dark:
            self.site.network.dark.add(self.peer)

    async def ended(self) -> None:
        """Wait until the process has gone by itself, or its ghost has."""
        if self.task is not None:
            await asyncio.wait({self.task})


class _Registration:
    """What a provider needs of its place on the chain."""

    def __init__(self, host: ProviderHost) -> None:
        self._host = host
        self.view = self

    def binding(self) -> bytes:
        return binding_of("provider", self._host.name)

    def settlement(self, *_: object) -> _Registration:
        return self

    async def run(self) -> NoReturn:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    def collector(self, blocks: int) -> VoucherCollector:
        host = self._host
        return VoucherCollector(
            provider=host.name,
            model_id=MODEL_ID,
            blocks=blocks,
            identity=identity_of(host.name),
            account=account_of(host.name),
            journal=host.journal,
            chain=host.site.chain,
            terms=host.site.terms,
        )


class _Node:
    """What `mesh join` needs of a node."""

    maddrs = ()

    def __init__(self, host: Host, machine: Machine) -> None:
        self.peer_id = host.peer
        self.transport = SimTransport(host.peer, host.site.network, machine)
        self.directory = SimDirectory(identity_of(host.name), host.site.dht)


class SimProvider(_Provider):
    """The real provider; only loading weights and measuring them is simulated."""

    def __init__(self, host: ProviderHost, node: _Node) -> None:
        config = JoinConfig(
            model=NAME,
            node=NodeConfig(identity_of(host.name), initial_peers=("somebody",)),
            max_blocks=host.offered,
            kv_bytes=host.kv_bytes,
            drain_seconds=host.drain_seconds,
        )
        super().__init__(config, node, host.site.files, "float32", _Registration(host))  # type: ignore[arg-type]
        self.host = host
        self.models: list[HashModel] = []

    def _load(self, span: Span, progress: Progress) -> HashModel:
        machine = MACHINE.get()
        assert machine is not None
        machine.work(self.host.load_seconds * len(span))
        self._memory = min(self.host.memory, self._files.spec.n_blocks)
        model = HashModel(self._files.spec, span, self.host.block_rate)
        self.models.append(model)
        return model

    async def _fetch(self, span: Span) -> None:
        await asyncio.sleep(self.host.load_seconds)


@dataclass
class ProviderHost(Host):
    """A provider; `memory` in blocks, `offered` what its operator said of them (None: nothing, so it takes a third)."""

    memory: int = 4
    offered: int | None = None
    block_rate: float = 100.0
    load_seconds: float = 0.3
    kv_bytes: int = 1 << 20
    drain_seconds: float = 5.0
    retired: bool = False
    """It does not come back."""
    provider: SimProvider | None = None
    leaving: Leaving | None = None
    span: Span | None = None
    """The blocks that it serves now, or has just left; None while it has none."""
    moved: Callable[[ProviderHost, Span, Span], None] = lambda host, old, new: None
    went: Callable[[ProviderHost, Span], None] = lambda host, old: None
    observe: Callable[[ProviderHost, Sequence[StepOutput]], None] = lambda host, outcomes: None

    def start(self) -> None:
        machine = self.boot()
        machine.observe = partial(self.observe, self)
        self.leaving = Leaving()
        self.site.chain.providers[self.name] = ProviderFacts(
            account_of(self.name).address, MODEL_ID, bytes.fromhex(self.site.files.digest), NAME
        )
        self.task = machine.spawn(self._run(machine, self.leaving), self.name)

    async def _run(self, machine: Machine, leaving: Leaving) -> None:
        node = _Node(self, machine)
        async with node.transport:
            provider = SimProvider(self, node)
            if machine.alive:
                self.provider = provider
            try:
                await provider.run_until(leaving, lambda event: self._hear(machine, event), silent)
            finally:
                await provider.withdraw()
        if machine.alive:
            machine.end()
            if self.span is not None:
                self.went(self, self.span)
            self.span = None

    def _hear(self, machine: Machine, event: JoinEvent) -> None:
        if not machine.alive:
            return
        self.site.report("provider", self.name, event)
        match event:
            case Chose(span=new):
                old, self.span = self.span, None
                if old is not None:
                    self.moved(self, old, new)
            case Serving(span=span):
                self.span = span
            case _:
                pass

    def kill(self, *, lag: float, dark: bool) -> None:
        super().kill(lag=lag, dark=dark)
        old, self.span = self.span, None
        if old is not None:
            self.went(self, old)

    @property
    def room(self) -> int:
        """Blocks that the swarm may ask it to take, whatever it has seen."""
        n_blocks = self.site.files.spec.n_blocks
        return min(self.memory, n_blocks) if self.offered is not None else -(-n_blocks // 3)

    @property
    def serves(self) -> Span | None:
        return self.span if self.is_up else None


@dataclass
class GatewayHost(Host):
    """A gateway: a real client that pays."""

    config: BackendConfig = field(default_factory=BackendConfig)
    backend: SwarmBackend | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        machine = self.boot()
        self.site.chain.gateways[self.name] = account_of(self.name).address
        self.task = machine.spawn(self._run(machine), self.name)

    def kill(self, *, lag: float, dark: bool) -> None:
        self.ready.clear()
        super().kill(lag=lag, dark=dark)

    async def _run(self, machine: Machine) -> None:
        site, name = self.site, self.name
        transport = SimTransport(self.peer, site.network, machine)
        directory = SimDirectory(identity_of(name), site.dht)

        def issuer(tasks: asyncio.TaskGroup) -> VoucherIssuer:
            return VoucherIssuer(
                gateway=name,
                binding=lambda: binding_of("gateway", name),
                account=account_of(name),
                journal=self.journal,
                chain=site.chain,
                tasks=tasks,
            )

        async with transport, SwarmBackend(transport, directory, self.config, issuer=issuer) as backend:
            self.backend = backend
            self.ready.set()
            await asyncio.get_running_loop().create_future()
