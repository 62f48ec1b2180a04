"""The files of a model's tokenizer, from whichever provider gives them first."""

from __future__ import annotations

import asyncio
import logging
import time

from mesh.client.catalog import Offer
from mesh.client.hop_link import HopLink, HopLinks
from mesh.errors import NoRoute, PeerError
from mesh.swarm.standing import Penalties
from mesh.wire.messages import MAX_FILE_BYTES
from shards.checkpoint.manifest import MANIFEST_NAME, FileDigest, digest_of, model_digest, parse_manifest
from shards.errors import CheckpointError

logger = logging.getLogger(__name__)

HEDGE_SECONDS = 2.0
TOKENIZER_FILES = frozenset(
    {f"{name}.json" for name in ("tokenizer", "tokenizer_config", "special_tokens_map", "generation_config", "config")}
    | {"chat_template.jinja"}
)


class TokenizerFiles:
    """Fetches them over the client's links; providers that failed before are asked last."""

    def __init__(self, links: HopLinks, penalised: Penalties) -> None:
        self._links = links
        self._penalised = penalised

    async def fetch(self, offer: Offer) -> dict[str, bytes]:
        """The files by name. A provider that takes its time gets company after `HEDGE_SECONDS`. Raises `PeerError`."""
        now = time.monotonic()
        waiting = sorted(
            (record.peer for record in offer.records),
            key=lambda peer: self._penalised.factor(peer, now),
            reverse=True,
        )
        failure: PeerError | None = None
        asked: list[asyncio.Task[dict[str, bytes]]] = []
        pending: set[asyncio.Task[dict[str, bytes]]] = set()
        try:
            while waiting or pending:
                if waiting:
                    asked.append(asyncio.create_task(self.fetch_from(offer, waiting.pop())))
                    pending.add(asked[-1])
                patience = HEDGE_SECONDS if waiting else None
                done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        return task.result()
                    except PeerError as error:
                        logger.warning("could not fetch the tokenizer: %s", error)
                        failure = error
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)  # so that nobody wonders what became of them
        raise failure or NoRoute(f"nobody serves {offer.name} any more")

    async def fetch_from(self, offer: Offer, peer: str) -> dict[str, bytes]:
        """The files from one provider, each as the manifest says that the digest is of. Raises `PeerError`."""
        record = next(record for record in offer.records if record.peer == peer)
        announced = record.files.get(MANIFEST_NAME)
        if announced is None or model_digest(offer.name, announced.sha256) != offer.digest:
            raise PeerError(f"{peer} announces {offer.name} with a digest that is not of its manifest", peer=peer)
        link = await self._links.get(peer)
        listed = await self._fetch(link, offer, MANIFEST_NAME, FileDigest(announced.sha256, announced.size))
        try:
            manifest = parse_manifest(listed)
        except CheckpointError as error:
            raise PeerError(f"the manifest of {offer.name} is none: {error}", peer=peer) from error
        names = sorted(TOKENIZER_FILES & set(manifest.files))
        return {name: await self._fetch(link, offer, name, manifest.files[name]) for name in names}

    async def _fetch(self, link: HopLink, offer: Offer, name: str, expected: FileDigest) -> bytes:
        if expected.size > MAX_FILE_BYTES:
            raise PeerError(f"the {name} of {offer.name} has {expected.size} bytes", peer=link.peer)
        data = await link.fetch(offer.digest, name, expected.size)
        if digest_of(data) != expected:
            raise PeerError(f"{link.peer} gave a {name} that is not the model's", peer=link.peer)
        return data
