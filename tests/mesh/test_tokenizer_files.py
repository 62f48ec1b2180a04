"""A tokenizer's files come from strangers: only those that the model's digest is of are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from mesh.client.catalog import Offer
from mesh.client.tokenizer_files import TokenizerFiles
from mesh.discovery.records import FileDigest
from mesh.errors import PeerError
from mesh.swarm.standing import Penalties
from shards.checkpoint.manifest import MANIFEST_NAME, Manifest, digest_of, model_digest
from tests.mesh.sample_record import sample_record

NAME = "tiny/llama"
SMALL = {"config.json": b"{}", "tokenizer.json": b"[]", "chat_template.jinja": b"hello"}
WEIGHTS = {"model.safetensors": b"weights"}


def served(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files and their manifest."""
    listed = Manifest({name: digest_of(data) for name, data in (files | WEIGHTS).items()})
    return files | {MANIFEST_NAME: listed.to_bytes()}


TRUE = served(SMALL)
DIGEST = model_digest(NAME, digest_of(TRUE[MANIFEST_NAME]).sha256)


@dataclass
class Peer:
    """What one provider hands out, and what it was asked for."""

    peer: str
    files: dict[str, bytes]
    announced: bytes | None = TRUE[MANIFEST_NAME]
    asked: list[str] = field(default_factory=list)

    async def fetch(self, digest: str, name: str, limit: int) -> bytes:
        assert digest == DIGEST
        self.asked.append(name)
        return self.files[name]


class Links:
    """Opens no channels."""

    def __init__(self, *peers: Peer) -> None:
        self.peers = {peer.peer: peer for peer in peers}

    async def get(self, peer: str) -> Peer:
        return self.peers[peer]


async def fetched(*peers: Peer) -> dict[str, bytes]:
    """The files, from providers that are asked in this order."""
    records = []
    for each in peers:
        entry = None if each.announced is None else digest_of(each.announced)
        files = {} if entry is None else {MANIFEST_NAME: FileDigest(entry.sha256, entry.size)}
        records.append(replace(sample_record(each.peer), model=NAME, digest=DIGEST, files=files))
    offer = Offer(NAME, DIGEST, tuple(reversed(records)))
    return await TokenizerFiles(Links(*peers), Penalties()).fetch(offer)  # type: ignore[arg-type]


async def test_the_small_files_come_as_the_manifest_lists_them_and_weights_are_not_asked_for() -> None:
    honest = Peer("honest", TRUE)
    assert await fetched(honest) == SMALL
    assert "model.safetensors" not in honest.asked


OTHER = served(SMALL | {"tokenizer.json": b"[1]"})
LIARS: dict[str, Callable[[], Peer]] = {
    "no manifest": lambda: Peer("liar", SMALL, None),
    "another manifest": lambda: Peer("liar", OTHER, OTHER[MANIFEST_NAME]),
    "another manifest than announced": lambda: Peer("liar", OTHER),
    "another tokenizer": lambda: Peer("liar", TRUE | {"tokenizer.json": b"[1]"}),
    "a longer template": lambda: Peer("liar", TRUE | {"chat_template.jinja": b"hello, or"}),
}


@pytest.mark.parametrize("lie", LIARS)
async def test_a_provider_with_other_files_under_the_models_digest_is_not_believed(lie: str) -> None:
    with pytest.raises(PeerError, match="liar"):
        await fetched(LIARS[lie]())


@pytest.mark.parametrize("lie", LIARS)
async def test_what_one_provider_lies_about_another_gives(lie: str) -> None:
    assert await fetched(LIARS[lie](), Peer("honest", TRUE)) == SMALL


async def test_a_manifest_that_lists_a_file_without_bounds_is_refused_before_it_is_fetched() -> None:
    listed = Manifest({"tokenizer.json": replace(digest_of(b"[]"), size=1 << 40)}).to_bytes()
    digest = model_digest(NAME, digest_of(listed).sha256)
    peer = Peer("liar", {MANIFEST_NAME: listed})
    entry = digest_of(listed)
    record = replace(
        sample_record("liar"), model=NAME, digest=digest, files={MANIFEST_NAME: FileDigest(entry.sha256, entry.size)}
    )

    async def fetch(digest: str, name: str, limit: int) -> bytes:
        assert name == MANIFEST_NAME
        return listed

    peer.fetch = fetch  # type: ignore[method-assign]
    with pytest.raises(PeerError, match="bytes"):
        await TokenizerFiles(Links(peer), Penalties()).fetch(Offer(NAME, digest, (record,)))  # type: ignore[arg-type]
