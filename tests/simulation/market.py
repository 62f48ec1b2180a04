"""What changes on the chain while the swarm works: lines, prices, who is eligible, what has become safe.

It has its own randomness, so that the faults of a seed do not depend on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from mesh.payment.credit.line import Pair
from tests.mesh.payment.money import MODEL_ID, PRICE
from tests.simulation.hosts import GatewayHost, ProviderHost, Site

UNLIMITED = 10**24
EVENTS = ("line", "line", "price", "barred", "safe", "written off")


class Market:
    """Draws lines and changes them. From `calm` on every gateway is eligible and guarantees all that it owes."""

    def __init__(
        self,
        site: Site,
        providers: Sequence[ProviderHost],
        gateways: Sequence[GatewayHost],
        random: Random,
        broken: Callable[[str], None],
        *,
        credit: int,
    ) -> None:
        self._site = site
        self._providers = providers
        self._gateways = gateways
        self._random = random
        self._broken = broken
        self.counts: Counter[str] = Counter()
        self.checks: Counter[str] = Counter()
        self._units = credit
        """What a provider gives on credit at most: lines are drawn around the price of that."""
        self._highest: dict[tuple[str, str], int] = {}
        self._over = False
        self.moving = random.random() < 0.5
        """Whether anything changes at all in this seed."""
        for gateway in gateways if self.moving else ():
            for provider in providers:
                self._set_line(gateway.name, provider.name)

    def plan(self, first: float, last: float) -> None:
        """Let things happen between two moments (virtual seconds)."""
        for _ in range(self._random.randint(4, 20) if self.moving else 0):
            self._site.loop.at(self._random.uniform(first, last), self._happen, self._random.choice(EVENTS))

    def calm(self) -> None:
        """Nothing happens any more, and there is money enough."""
        self._over = True
        chain = self._site.chain
        chain.barred.clear()
        chain.lines.clear()
        chain.line = UNLIMITED

    def _happen(self, event: str) -> None:
        if self._over:
            return
        random, chain = self._random, self._site.chain
        gateway, provider = random.choice(self._gateways), random.choice(self._providers)
        seconds = random.choice((0.5, 3.0, 12.0))
        match event:
            case "line":
                self._set_line(gateway.name, provider.name)
            case "price":
                price = random.choice((0, PRICE // 100, PRICE, 100 * PRICE))
                if chain.epoch + 2 not in chain.prices:
                    chain.prices[chain.epoch + 2] = price
            case "barred":
                name = random.choice((gateway.name, provider.name))
                chain.barred.add(name)
                self._site.loop.at(self._site.loop.time() + seconds, chain.barred.discard, name)
            case "safe" | "written off":
                for exposure in provider.journal.exposures():
                    if exposure.epoch < chain.epoch and event == "safe":
                        units = random.choice((None, exposure.vouched // 2))
                        provider.journal.mark_safe(exposure.pair, exposure.epoch, units)
                    elif exposure.epoch < chain.epoch - 1:
                        provider.journal.write_off(exposure.pair, exposure.epoch)
        self.counts[f"chain: {event}"] += 1
        self._site.report("chain", event, gateway.name, provider.name)

    def _set_line(self, gateway: str, provider: str) -> None:
        tariff = self._site.chain.tariff_in(self._site.chain.epoch)
        wei = self._random.choice((0, 1, 4, 16)) * tariff.fee(self._units)
        self._site.chain.lines[gateway, provider] = wei
        self._highest[gateway, provider] = max(wei, self._highest.get((gateway, provider), 0))

    def check(self) -> None:
        """What counts as paid and is not safe is within what was guaranteed; may be asked at any moment."""
        if self._over or not self.moving:
            return
        for host in self._providers:
            gate = None
            if host.is_up and host.provider is not None and host.provider._serving is not None:
                gate = host.provider._serving[0].payment_gate
            for customer in gate._collector._customers.values() if gate is not None else ():
                pair = customer.line.pair
                held = {slot.epoch: slot for slot in host.journal.slots("held", pair=Pair(*_names(pair), MODEL_ID))}
                wei = sum(
                    self._site.chain.tariff_in(epoch).fee(max(0, min(units, held[epoch].voucher_units) - safe))
                    for epoch, units in customer.cover.counted.items()
                    if epoch in held and not held[epoch].written_off
                    for safe in (held[epoch].safe_units,)
                )
                self.checks["no more counts as paid than was guaranteed"] += 1
                if wei > self._highest.get((pair.gateway, pair.provider), 0):
                    self._broken(f"{pair}: {wei} wei count as paid, more was never guaranteed")


def _names(pair: Pair) -> tuple[str, str]:
    return pair.gateway, pair.provider
