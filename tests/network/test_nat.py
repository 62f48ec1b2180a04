"""The simulated routers do what those at home do: out is free, in only what was asked for, ports kept or not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.network.namespaces import Namespaces, require
from tests.network.nat import COMMANDS, Nats
from tests.network.test_namespaces import listen


@pytest.fixture
def nats() -> Iterator[Nats]:
    require(commands=COMMANDS)
    with Namespaces() as net:
        yield Nats(net, public=["one", "two"], homes={"keeps": "preserving", "changes": "symmetric"})


def seen_from_outside(nats: Nats, home: str, port: int, public: str) -> tuple[str, int]:
    """How a public host sees a connection from a port at home."""
    with nats[public].inside():
        server = listen()
    with server:
        with nats[home].inside():
            caller = socket.create_connection((nats.addresses[public], 5000), timeout=5, source_address=("", port))
        with caller:
            connection, seen = server.accept()
            connection.close()
    address, at = seen
    return address, at


def test_a_home_is_seen_at_its_routers_address(nats: Nats) -> None:
    assert seen_from_outside(nats, "keeps", 4001, "one") == (nats.addresses["keeps"], 4001)
    assert seen_from_outside(nats, "keeps", 4001, "two") == (nats.addresses["keeps"], 4001)


def test_a_symmetric_router_takes_another_port_for_every_target(nats: Nats) -> None:
    ports = {seen_from_outside(nats, "changes", 4001, public)[1] for public in ("one", "two")}
    assert len(ports | {4001}) == 3


def test_nobody_gets_in_unasked(nats: Nats) -> None:
    with nats["keeps"].inside():
        server = listen()
    with server:
        for stranger in ("one", "changes"):
            with nats[stranger].inside(), pytest.raises(OSError), socket.socket() as caller:
                caller.settimeout(0.5)
                caller.connect((nats.addresses["keeps"], 5000))
        with nats["one"].inside(), pytest.raises(OSError, match="unreachable"), socket.socket() as caller:
            caller.connect(("10.1.0.2", 5000))
