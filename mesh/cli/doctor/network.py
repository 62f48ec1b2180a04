"""Asks nodes of the swarm about us: what time it is, whether they can dial us, which release they run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from mesh.cli.doctor.readings import Network
from mesh.cli.identities import data_folder, holders_in, runtime_root
from mesh.errors import ConfigError, PeerError, WrongClock
from mesh.identity import Identity

if TYPE_CHECKING:
    from mesh.node import Node
    from mesh.wire.knock import KnockAnswer

ASKED: Final = 3
"""Nodes that are asked to dial us."""
CLOCKS: Final = 16
MODELS: Final = 8
"""Models whose providers are asked for their release."""


async def read_network(
    peers: Sequence[str], host_maddrs: Sequence[str], announce_maddrs: Sequence[str], relays: Sequence[str]
) -> Network:
    """What they say. Joins the swarm for a moment, as a node with these addresses.

    Where a provider of this user runs here, it is asked about that one's addresses, which are those that matter.
    """
    from mesh.node import Node, NodeConfig

    config = NodeConfig(
        identity=Identity.generate(),
        host_maddrs=tuple(host_maddrs),
        announce_maddrs=tuple(announce_maddrs),
        initial_peers=tuple(peers),
        runtime_root=runtime_root(),
        direct_port=None,
        relays=tuple(relays),
    )
    try:
        async with Node(config) as node:
            clocks = await _clocks(node)
            own = () if announce_maddrs else await _running_here(node)
            announced = own or node.maddrs
            answers = await _knocks(node, peers, announced)
            return Network(None, clocks, announced, answers, node.relays, await _versions(node))
    except WrongClock as error:
        return Network(problem=str(error), clocks={peers[0].rpartition("/p2p/")[2]: error.ahead})
    except (PeerError, ConfigError) as error:
        return Network(problem=str(error))


async def _clocks(node: Node) -> Mapping[str, float]:
    from mesh.discovery.dht import DhtDirectory

    directory = node.directory
    return await directory.compare_clocks(CLOCKS) if isinstance(directory, DhtDirectory) else {}


async def _running_here(node: Node) -> tuple[str, ...]:
    """Where this user's providers that run on this machine say that they can be dialled."""
    from mesh.discovery.dht import DhtDirectory

    directory = node.directory
    found: dict[str, None] = {}
    for holder in holders_in(data_folder()):
        if not (holder.is_here and holder.role == "provider" and isinstance(directory, DhtDirectory)):
            continue
        try:
            found |= dict.fromkeys(await directory.maddrs_of(Identity.load(holder.key).peer_id))
        except (PeerError, ConfigError):
            continue  # a node of several stages has no record of its own
    return tuple(found)


async def _knocks(node: Node, peers: Sequence[str], announced: Sequence[str]) -> Mapping[str, KnockAnswer]:
    from mesh.transport.knock_service import ask_to_knock

    asked = list(dict.fromkeys(peer.rpartition("/p2p/")[2] for peer in peers))[:ASKED]
    answers = await asyncio.gather(
        *(ask_to_knock(node.transport, peer, announced) for peer in asked), return_exceptions=True
    )
    found = {}
    for peer, answer in zip(asked, answers, strict=True):
        if isinstance(answer, PeerError):
            continue  # an older release: it cannot tell
        if isinstance(answer, BaseException):
            raise answer
        found[peer] = answer
    return found


async def _versions(node: Node) -> Mapping[str, str]:
    """By provider; nothing where no record is to be had, as where our clock is wrong."""
    try:
        models = (await node.directory.models())[:MODELS]
        records = [record for model in models for record in await node.directory.providers(model)]
    except PeerError:
        return {}
    return {record.peer: record.version for record in records}
