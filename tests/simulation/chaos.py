"""Makes the planned faults happen to whoever is there at the time."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TypeVar

from tests.simulation.board import Mood
from tests.simulation.faults import Fault
from tests.simulation.hosts import GatewayHost, Host, ProviderHost, Site
from tests.simulation.network import SimChannel

T = TypeVar("T")

SKEW_MOST = 9.0
"""Records live 30 s and are renewed every 8 s: clocks may differ by what is left, and a bit less."""
DISTURBING = frozenset(
    {
        "partition_pair",
        "partition_one_way",
        "partition_node",
        "partition_groups",
        "stall",
        "clock_jump",
        "directory_outage",
        "records_disturbed",
        "delay",
    }
)
"""Faults after which nodes may not see what others have announced."""


class Chaos:
    """Applies faults to a site. `counts` says how many of each kind really happened."""

    def __init__(self, site: Site, providers: list[ProviderHost], gateways: list[GatewayHost], random: Random) -> None:
        self._site = site
        self._providers = providers
        self._gateways = gateways
        self._random = random
        self.counts: Counter[str] = Counter()
        self.disturbed_at = -1e9
        """When nodes could be kept from seeing each other last (virtual seconds)."""
        self.over = False

    @property
    def hosts(self) -> list[Host]:
        return [*self._providers, *self._gateways]

    def apply(self, fault: Fault) -> None:
        """Let it happen, if there is anything that it can hit."""
        hit = self._apply(fault)
        if hit is None:
            return
        self.counts[fault.kind] += 1
        if fault.kind in DISTURBING:
            self.disturbed_at = max(self.disturbed_at, self._site.loop.time() + fault.seconds)
        self._site.report("fault", fault.kind, hit, round(fault.seconds, 3))

    def _apply(self, fault: Fault) -> str | None:
        site, network = self._site, self._site.network
        now, seconds = site.loop.time(), fault.seconds
        one, other = _pick(self.hosts, fault.one), _pick(self.hosts, fault.other)
        match fault.kind:
            case "break_channel":
                channels = [channel for channel in network.channels if not (channel.closed or channel.other.closed)]
                return self._break(channels, fault)
            case "break_pair":
                pair = {one.peer, other.peer}
                return self._break_all([c for c in network.channels if {c.us, c.peer} == pair], fault)
            case "delay":
                network.extra[one.peer] = network.extra.get(one.peer, 0.0) + 2.0 * fault.number
                site.loop.at(now + seconds, self._undelay, one.peer, 2.0 * fault.number)
                return one.name
            case "partition_pair" | "partition_one_way":
                if one is other:
                    return None
                pairs = [(one.peer, other.peer)]
                if fault.kind == "partition_pair":
                    pairs.append((other.peer, one.peer))
                network.sever(pairs, seconds)
                return f"{one.name} {other.name}"
            case "partition_node" | "partition_groups":
                single = fault.kind == "partition_node"
                side = {one.peer} if single else {h.peer for h in self.hosts if self._random.random() < 0.5}
                rest = [host.peer for host in self.hosts if host.peer not in side]
                network.sever([(a, b) for a in side for b in rest] + [(b, a) for a in side for b in rest], seconds)
                for peer in side if single else ():
                    site.dht.outages[peer] = max(site.dht.outages.get(peer, 0.0), now + seconds)
                return " ".join(host.name for host in self.hosts if host.peer in side)
            case "stall":
                if one.machine is None or not one.is_up or one.machine.is_asleep:
                    return None
                one.machine.sleep()
                site.loop.at(now + seconds, one.machine.wake)
                return one.name
            case "slow_node":
                if one.machine is None or not one.is_up:
                    return None
                one.machine.slowness = 1.0 + 30.0 * fault.number
                site.loop.at(now + seconds, setattr, one.machine, "slowness", 1.0)
                return one.name
            case "kill_provider" | "power_loss_provider":
                provider = _pick(self._providers, fault.one)
                if not provider.is_up:
                    return None
                dark = fault.kind == "power_loss_provider"
                provider.kill(lag=6.0 * fault.number if dark else 0.0, dark=dark)
                site.loop.at(now + seconds, self._restart, provider)
                return provider.name
            case "kill_gateway":
                gateway = _pick(self._gateways, fault.one)
                if not gateway.is_up:
                    return None
                gateway.kill(lag=6.0 * fault.number * (fault.other < 0.3), dark=False)
                site.loop.at(now + seconds, self._restart, gateway)
                return gateway.name
            case "drain_provider":
                provider = _pick(self._providers, fault.one)
                if provider.leaving is None or not provider.is_up or not provider.leaving.ask():
                    return None
                site.loop.at(now + seconds, self._restart, provider)
                return provider.name
            case "clock_jump":
                wanted = (2.0 * fault.number - 1.0) * SKEW_MOST
                one.clock.offset += wanted - (one.clock.read(now) - now)
                return f"{one.name} to {wanted:+.1f}"
            case "directory_outage":
                site.dht.outages[one.peer] = now + seconds
                return one.name
            case "records_disturbed":
                a, b, c = (0.6 * x for x in (fault.one, fault.other, fault.number))
                site.dht.mood = Mood(lost=a / 2, late=b / 2, again=c / 2, unanswered=a * b)
                site.loop.at(now + 3.0 * seconds, setattr, site.dht, "mood", Mood())
                return "the directory"
            case "epoch_turn":
                site.chain.epoch += 1
                return str(site.chain.epoch)
            case "seal_epoch":
                gateway = _pick(self._gateways, fault.one)
                gateway.journal.seal(gateway.name, site.chain.epoch - 1)
                return gateway.name

    def stop(self) -> None:
        """Nothing more happens: who is down comes back, the rest heals by itself."""
        self.over = True
        self._site.dht.mood = Mood()
        self._site.network.behave()
        for host in self.hosts:
            self._restart(host)

    def _restart(self, host: Host) -> None:
        """Start a process again as soon as the one before has gone."""
        if host.is_up:
            leaving = host.leaving if isinstance(host, ProviderHost) else None
            if leaving is not None and leaving.asked.is_set():  # it drains still
                self._site.loop.at(self._site.loop.time() + 1.0, self._restart, host)
            return
        self._site.report("start", host.name)
        host.start()

    def _undelay(self, peer: str, seconds: float) -> None:
        self._site.network.extra[peer] -= seconds

    def _break(self, channels: list[SimChannel], fault: Fault) -> str | None:
        if not channels:
            return None
        channel = _pick(channels, fault.one)
        self._break_one(channel, fault)
        return f"{channel.protocol} {channel.us[-4:]} {channel.peer[-4:]}"

    def _break_all(self, channels: list[SimChannel], fault: Fault) -> str | None:
        for channel in channels:
            self._break_one(channel, fault)
        return f"{len(channels)} channels" if channels else None

    def _break_one(self, channel: SimChannel, fault: Fault) -> None:
        lag = 0.0 if fault.other < 0.5 else min(fault.seconds, 6.0)
        self._site.network.break_channel(channel, lag=lag, first=int(fault.number * 2), lost=fault.number * 7 % 1 < 0.5)


def _pick(choice: list[T], number: float) -> T:
    return choice[int(number * len(choice))]
