"""A public internet, and homes behind routers that translate addresses and let in only what was asked for.

    with Namespaces() as net:
        world = Nats(net, public=["relay", "client"], homes={"a": "preserving", "b": "symmetric"})
        world["a"].popen([...])            # 10.1.0.2 at home, and its router's address to everybody else
        world.addresses["relay"]           # 11.78.0.1

Routers drop what comes unasked, as those at home do: a refusal (RST) would end an attempt to punch a hole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from tests.network.namespaces import Namespace, Namespaces

Flavour = Literal["preserving", "symmetric"]
"""Whether a router keeps the port of an outgoing connection, or takes another one for every target."""

COMMANDS = ("ip", "iptables")
SUBNET = "11.78.0.{}"
"""Global addresses, so that libp2p takes them for public ones."""


class Nats:
    """The hosts by name: public ones, and one in each home."""

    def __init__(self, net: Namespaces, *, public: Sequence[str], homes: Mapping[str, Flavour]) -> None:
        self._net = net
        self._switch = net.bridge("internet")
        self._taken = 0
        self.hosts: dict[str, Namespace] = {}
        self.routers: dict[str, Namespace] = {}
        """By home."""
        self.addresses: dict[str, str] = {}
        """Where others see a host: its own address, or that of its router."""
        for name in public:
            self.hosts[name] = net.make(name)
            self._plug(name, self.hosts[name])
        for number, (name, flavour) in enumerate(homes.items(), start=1):
            self._make_home(name, number, flavour)

    def __getitem__(self, name: str) -> Namespace:
        return self.hosts[name]

    def more_addresses(self, name: str, count: int) -> list[str]:
        """Give a public host more addresses."""
        found = []
        (device,) = [line.split()[1].rstrip(":").partition("@")[0] for line in self._links(self.hosts[name])]
        for _ in range(count):
            self._taken += 1
            found.append(SUBNET.format(self._taken))
            self.hosts[name].ip("address", "add", f"{found[-1]}/24", "dev", device)
        return found

    def _plug(self, name: str, host: Namespace) -> str:
        self._taken += 1
        self.addresses[name] = SUBNET.format(self._taken)
        return self._net.plug(host, self._switch, f"{self.addresses[name]}/24")

    def _make_home(self, name: str, number: int, flavour: Flavour) -> None:
        router, host = self._net.make(f"{name}-router"), self._net.make(name)
        self.routers[name], self.hosts[name] = router, host
        wan = self._plug(name, router)
        lan, _ = self._net.link(router, host, f"10.{number}.0.1/24", f"10.{number}.0.2/24")
        host.ip("route", "add", "default", "via", f"10.{number}.0.1")
        self._net.forward(router)
        random = ("--random-fully",) if flavour == "symmetric" else ()
        asked_for = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED")
        for rule in (
            ("-t", "nat", "-A", "POSTROUTING", "-o", wan, "-j", "MASQUERADE", *random),
            ("-A", "FORWARD", "-i", lan, "-o", wan, "-j", "ACCEPT"),
            ("-A", "FORWARD", "-i", wan, "-o", lan, *asked_for, "-j", "ACCEPT"),
            ("-P", "FORWARD", "DROP"),
            ("-A", "INPUT", "-i", wan, *asked_for, "-j", "ACCEPT"),
            ("-A", "INPUT", "-i", wan, "-j", "DROP"),
        ):
            router.run("iptables", "-w", *rule)

    @staticmethod
    def _links(host: Namespace) -> list[str]:
        return [line for line in host.ip("-oneline", "link").splitlines() if ": lo:" not in line]
