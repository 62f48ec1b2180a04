"""Other models of our model's name in the swarm: what their files have that ours have not, for the operator to know.

Two fine-tunes in folders of one name, or two revisions of one download, are two models, which never share a route. That
a swarm has gaps because of it can be seen only by comparing the files.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from mesh.discovery.directory import Directory
from mesh.discovery.records import ProviderRecord
from mesh.errors import MeshError, PeerError
from mesh.provider.events import Differs
from mesh.provider.model_files import ModelFiles
from mesh.transport.port import Channel, Transport
from mesh.wire.messages import CONTROL_PROTOCOL, FetchFile, FileData, decode, encode
from shards.checkpoint.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileDigest,
    Manifest,
    digest_of,
    model_digest,
    parse_manifest,
)
from shards.errors import CheckpointError
from shards.shown import shown

logger = logging.getLogger(__name__)

MOST_NAMESAKES: Final = 3
MOST_PROVIDERS: Final = 3
"""Asked about each of them, until one tells."""
MOST_NAMED: Final = 6
ASK_SECONDS: Final = 10.0
MAX_COMPARED: Final = 1 << 20
"""Bytes of a JSON file whose keys are compared."""


async def tell_of_namesakes(
    files: ModelFiles, directory: Directory, transport: Transport, tell: Callable[[Differs], None]
) -> None:
    """Once, so that whoever meant to serve the same model hears what is different."""
    try:
        for found in await namesakes(files, directory, transport):
            tell(found)
    except MeshError as error:
        logger.debug("nobody was asked for other models of our name: %s", error)


async def namesakes(files: ModelFiles, directory: Directory, transport: Transport) -> list[Differs]:
    """How other models of the same name differ from ours, as far as their providers tell. Raises `MeshError`."""
    keys = [key for key in await directory.models(files.name) if key.digest != files.digest]
    found: list[Differs] = []
    for key in keys[:MOST_NAMESAKES]:
        for record in (await directory.providers(key))[:MOST_PROVIDERS]:
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    found.append(Differs(files.name, record.peer, tuple(await _compare(files, record, transport))))
                break
            except (MeshError, TimeoutError):
                continue
    return found


async def _compare(files: ModelFiles, record: ProviderRecord, transport: Transport) -> list[str]:
    ours = parse_manifest(files.contents[MANIFEST_NAME])
    announced = record.files.get(MANIFEST_NAME)
    if announced is None or model_digest(record.model, announced.sha256) != record.digest:
        raise PeerError("its digest is not of its manifest", peer=record.peer)
    channel = await transport.open(record.peer, CONTROL_PROTOCOL)
    try:
        listed = await _fetch(channel, record, MANIFEST_NAME, FileDigest(announced.sha256, announced.size))
        theirs = _parse(listed, record)
        small: dict[str, bytes] = {}
        for name in differing(ours, theirs):
            both = ours.files.get(name), theirs.files.get(name)
            if name not in files.contents or not name.endswith(".json") or not both[0] or not both[1]:
                continue
            if max(both[0].size, both[1].size) <= MAX_COMPARED:
                small[name] = await _fetch(channel, record, name, both[1])
        return describe(ours, theirs, files.contents, small)
    finally:
        await channel.aclose()


def differing(ours: Manifest, theirs: Manifest) -> list[str]:
    """Files that one of two manifests has and the other has not, or other than this."""
    names = sorted(set(ours.files) | set(theirs.files))
    return [name for name in names if ours.files.get(name) != theirs.files.get(name)]


def describe(ours: Manifest, theirs: Manifest, held: Mapping[str, bytes], fetched: Mapping[str, bytes]) -> list[str]:
    """What differs, file by file; of JSON files that are `held` and `fetched` also which keys."""
    said = []
    for name in differing(ours, theirs):
        if name not in theirs.files:
            said.append(f"{shown(name)} (only here)")
        elif name not in ours.files:
            said.append(f"{shown(name)} (only there)")
        else:
            keys = differing_keys(held[name], fetched[name]) if name in fetched else []
            said.append(f"{shown(name)} ({_some(keys)})" if keys else shown(name))
    return said[:MOST_NAMED] + ([f"{len(said) - MOST_NAMED} more"] if len(said) > MOST_NAMED else [])


def differing_keys(ours: bytes, theirs: bytes) -> list[str]:
    """Top-level keys whose values differ; none where one of the two is not an object."""
    try:
        left, right = json.loads(ours), json.loads(theirs)
    except (ValueError, RecursionError):
        return []
    if not isinstance(left, dict) or not isinstance(right, dict):
        return []
    missing: Any = object()
    return [key for key in sorted(set(left) | set(right)) if left.get(key, missing) != right.get(key, missing)]


def _some(keys: Iterable[str]) -> str:
    names = [shown(key) for key in keys]
    return ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")


def _parse(listed: bytes, record: ProviderRecord) -> Manifest:
    try:
        return parse_manifest(listed)
    except CheckpointError as error:
        raise PeerError(f"its manifest is none: {error}", peer=record.peer) from error


async def _fetch(channel: Channel, record: ProviderRecord, name: str, expected: FileDigest) -> bytes:
    if expected.size > MAX_MANIFEST_BYTES:
        raise PeerError(f"its {name} has {expected.size} bytes", peer=record.peer)
    await channel.send(encode(FetchFile(0, record.digest, name)))
    while (frame := await channel.receive()) is not None:
        message = decode(frame)
        if isinstance(message, FileData):
            data = bytes(frame.payload)
            if message.error is not None or digest_of(data) != expected:
                raise PeerError(f"it does not give its {name}", peer=record.peer)
            return data
    raise PeerError("it closed the channel", peer=record.peer)
