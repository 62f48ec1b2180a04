"""What must hold of providers and gateways: at any moment, and at rest, when nothing may be left of any session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from mesh.swarm.view import ProviderView, gaps
from shards.model.span import Span
from tests.simulation.hosts import GatewayHost, ProviderHost


class Invariants:
    """Checks of the machines that are up. `broken` is told what does not hold."""

    def __init__(
        self,
        n_blocks: int,
        providers: Sequence[ProviderHost],
        gateways: Sequence[GatewayHost],
        broken: Callable[[str], None],
    ) -> None:
        self.n_blocks = n_blocks
        self.checks: Counter[str] = Counter()
        self._providers = providers
        self._gateways = gateways
        self._broken = broken

    @property
    def served(self) -> list[Span]:
        return [span for host in self._providers if (span := host.serves) is not None]

    @property
    def gaps(self) -> tuple[Span, ...]:
        """What nobody serves now, in truth."""
        return gaps(self.n_blocks, [ProviderView("", span, 1.0) for span in self.served])

    @property
    def coverable(self) -> bool:
        """Whether the machines that are up may be asked to take all blocks together."""
        return sum(host.room for host in self._providers if host.is_up) >= self.n_blocks

    def always(self) -> None:
        """What must hold at every moment."""
        for host in self._providers:
            service = self._service(host)
            if service is None:
                continue
            table = service.table
            self.checks["memory is accounted for"] += 1
            entries = list(table)
            if table.pages_used != sum(entry.pages for entry in entries):
                self._broken(f"{host.name} counts {table.pages_used} pages, its sessions have others")
            engine = service.engine
            if engine is not None and not 0 <= engine.free_pages <= engine.pages:
                self._broken(f"{host.name} has {engine.free_pages} of {engine.pages} pages free")

    def at_rest(self) -> list[str]:
        """What is left over although no session runs: nothing, a little after the last one."""
        left: list[str] = []
        for host in self._providers:
            service = self._service(host)
            if service is None:
                if host.is_up:
                    left.append(f"{host.name} is up and serves nothing")
                continue
            left += [f"{host.name}: session {entry.id.hex()[:8]} is open" for entry in service.table]
            if service.core.congested:
                left.append(f"{host.name}: work waits for the engine's queue")
            if service.engine is not None and service.engine.queued:
                left.append(f"{host.name}: {service.engine.queued} pieces of work wait")
            gate = service.payment_gate
            if gate is not None:
                if service.core.credit.waiting or gate._working:
                    left.append(f"{host.name}: the payment gate waits for somebody")
                for customer in gate._collector._customers.values():
                    if customer.line.running:
                        left.append(f"{host.name}: {customer.line.running} units count as running")
        for gateway in self._gateways:
            backend = gateway.backend
            if backend is None or not gateway.is_up:
                continue
            if any(backend._sessions.values()):
                left.append(f"{gateway.name}: it counts sessions: {dict(backend._sessions)}")
            for peer, link in backend._links._links.items():
                if link._sessions or link._answers:
                    left.append(f"{gateway.name}: the link to {peer[-6:]} waits for something")
        return left

    def at_the_end(self) -> None:
        """Nothing is left, and nobody holds the memory of a session that has ended."""
        for text in self.at_rest():
            self._broken(text)
        self.checks["nothing is left of a session"] += 1
        for host in self._providers:
            if host.provider is None or not host.is_up:
                continue
            self.checks["no page is held"] += 1
            service = self._service(host)
            engine = service.engine if service is not None else None
            if engine is not None and engine.free_pages != engine.pages:
                self._broken(f"{host.name}: {engine.pages - engine.free_pages} pages of ended sessions are still held")
        self.checks["every block is served"] += 1
        if self.gaps and self.coverable:
            self._broken(f"blocks {self.gaps} are not served, though there is room for all: {self.served}")

    @staticmethod
    def _service(host: ProviderHost):  # type: ignore[no-untyped-def]
        if not host.is_up or host.provider is None or host.provider._serving is None:
            return None
        return host.provider._serving[0]
