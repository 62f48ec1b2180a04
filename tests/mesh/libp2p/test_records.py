"""Discovery without a DHT: records asked of peers, some of whom lie."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery import asking
from mesh.discovery.asking import AskingDirectory
from mesh.discovery.directory import MemoryBoard, MemoryDirectory
from mesh.discovery.records import FileDigest, ModelKey, ProviderRecord, encode_record, peer_key, provider_key
from mesh.discovery.records_service import RecordsService, RecordsSettings
from mesh.errors import InternalError, PeerError, PeerUnreachable, ProtocolViolation
from mesh.identity import Identity
from mesh.transport.memory import MemoryNetwork, MemoryTransport
from mesh.transport.port import Channel
from mesh.wire.frame import Frame
from mesh.wire.records import (
    MAX_ANSWER,
    MAX_RECORDS,
    RECORDS_PROTOCOL,
    AskRecords,
    Busy,
    Records,
    SignedRecord,
    decode,
    encode,
    pack_records,
    unpack_records,
)
from shards.model.span import Span

pytestmark = pytest.mark.timeout(30)

MODEL = ModelKey("tiny/llama", "ab" * 32)
OTHER = ModelKey("tiny/gpt", "cd" * 32)
KEY = provider_key(MODEL)
ASK = AskRecords("providers", MODEL.name, MODEL.digest)


def record(identity: Identity, model: ModelKey = MODEL) -> ProviderRecord:
    return ProviderRecord(
        peer=identity.peer_id,
        model=model.name,
        digest=model.digest,
        n_blocks=12,
        span=Span(0, 4),
        state="serving",
        context_length=2048,
        vocab_size=32000,
        maddrs=("/ip4/127.0.0.1/tcp/31330",),
        files={"config.json": FileDigest("ef" * 32, 500)},
        sequence=7,
        expires=time.time() + 30,
    )


Answer = Callable[[AskRecords], Frame]


@dataclass
class Town:
    """Two providers that announce themselves, nodes that are asked, and a client that asks."""

    board: MemoryBoard
    network: MemoryNetwork
    providers: list[tuple[Identity, MemoryDirectory]]
    client: MemoryTransport
    stack: AsyncExitStack
    learned: dict[str, tuple[str, ...]]

    async def honest(self, settings: RecordsSettings | None = None) -> str:
        """A node that tells what is on the board."""
        node = await self.stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, self.network))
        service = RecordsService(MemoryDirectory(Identity.generate(), self.board), settings)
        self.stack.push_async_callback(service.aclose)
        await node.serve(RECORDS_PROTOCOL, service)
        return node.peer_id

    async def liar(self, answer: Answer) -> str:
        """A node that answers what it likes."""

        async def handler(channel: Channel) -> None:
            while (frame := await channel.receive()) is not None:
                question = decode(frame)
                assert isinstance(question, AskRecords)
                await channel.send(answer(question))

        node = await self.stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, self.network))
        await node.serve(RECORDS_PROTOCOL, handler)
        return node.peer_id

    def directory(self, *seeds: str) -> AskingDirectory:
        return AskingDirectory(
            self.client, seeds, learn=lambda peer, maddrs: self.learned.update({peer: tuple(maddrs)})
        )


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    async with new_town() as made:
        yield made


@asynccontextmanager
async def new_town() -> AsyncIterator[Town]:
    board, network = MemoryBoard(), MemoryNetwork()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, network))
        own = [Identity.generate() for _ in range(2)]
        providers = [(identity, MemoryDirectory(identity, board)) for identity in own]
        yield Town(board, network, providers, client, stack, {})


def answer(*records: SignedRecord) -> Answer:
    count, payload = pack_records(records)
    return lambda _: encode(Records(count), payload)


async def test_what_providers_announce_is_found_by_asking_and_their_addresses_are_learned(town: Town) -> None:
    sent = [await directory.announce(record(identity)) for identity, directory in town.providers]
    found = town.directory(await town.honest())
    assert await found.providers(MODEL) == tuple(sorted(sent, key=lambda each: each.peer))
    assert await found.models() == (MODEL,)
    assert await found.providers(OTHER) == ()
    assert town.learned == {each.peer: each.maddrs for each in sent}


async def test_a_withdrawal_is_heard_of(town: Town) -> None:
    (identity, directory), _ = town.providers
    await directory.announce(record(identity))
    found = town.directory(await town.honest(RecordsSettings(fresh_seconds=0)))
    assert len(await found.providers(MODEL)) == 1
    await directory.withdraw()
    assert await found.providers(MODEL) == ()


async def test_a_client_announces_nothing(town: Town) -> None:
    with pytest.raises(InternalError):
        await town.directory(await town.honest()).announce(record(Identity.generate()))


def signed(identity: Identity, made: ProviderRecord, *, key: bytes = KEY) -> SignedRecord:
    return SignedRecord(identity.peer_id, encode_record(made, identity, key=key))


LIAR, VICTIM = Identity.generate(), Identity.generate()
GOOD = record(VICTIM)


def broken(data: SignedRecord, at: int) -> SignedRecord:
    return SignedRecord(data.peer, data.data[:at] + bytes((data.data[at] ^ 1,)) + data.data[at + 1 :])


@pytest.mark.parametrize(
    "lie",
    [
        SignedRecord(VICTIM.peer_id, encode_record(record(LIAR), LIAR)),
        broken(signed(VICTIM, GOOD), 10),
        broken(signed(VICTIM, GOOD), 100),
        SignedRecord(VICTIM.peer_id, bytes(64) + signed(VICTIM, GOOD).data[64:]),
        SignedRecord(VICTIM.peer_id, signed(VICTIM, GOOD).data[64:]),
        SignedRecord(VICTIM.peer_id, b"x"),
        signed(VICTIM, replace(GOOD, expires=time.time() - 1)),
        signed(VICTIM, replace(GOOD, expires=time.time() + 10_000)),
        signed(VICTIM, record(VICTIM, OTHER), key=provider_key(OTHER)),
        signed(VICTIM, GOOD, key=peer_key(VICTIM.peer_id)),
        SignedRecord("1" * 52, signed(VICTIM, GOOD).data),
    ],
    ids=[
        "of somebody else",
        "with another signature",
        "altered",
        "without a signature",
        "cut",
        "rubbish",
        "expired",
        "for ever",
        "of another model",
        "of another key",
        "of nobody",
    ],
)
async def test_a_record_that_is_not_what_it_says_is_dropped_and_the_others_are_kept(
    town: Town, lie: SignedRecord
) -> None:
    identity, _ = town.providers[0]
    good = record(identity)
    found = town.directory(await town.liar(answer(lie, signed(identity, good))))
    assert await found.providers(MODEL) == (good,)
    assert set(town.learned) == {identity.peer_id}


async def test_an_older_record_does_not_come_back(town: Town) -> None:
    identity, _ = town.providers[0]
    old, new = record(identity), replace(record(identity), sequence=8, state="draining")
    answers = [answer(signed(identity, new)), answer(signed(identity, old)), answer()]
    found = town.directory(await town.liar(lambda question: answers[0](question)))
    for _ in range(3):
        assert await found.providers(MODEL) == (new,)
        answers.append(answers.pop(0))


@pytest.mark.parametrize(
    "lie",
    [
        encode(Records(1), b""),
        encode(Records(0), b"more"),
        encode(Records(1), b"x" * 54),
        encode(Records(1), b"x" * 52 + b"\xff\xff" + bytes(65535)),
        encode(Records(1), b"x" * 52 + b"\0\0"),
        encode(Records(1), b"\xff" * 52 + b"\0\1x"),
        encode(Records(0), bytes(MAX_ANSWER + 1)),
        encode(AskRecords("models", "", "")),
        encode(Busy(3.0)),
        Frame(b"nothing"),
        Frame(b"\x82\xa1t\xa7records\xa5count\xce\xff\xff\xff\xff"),
    ],
)
async def test_a_peer_that_answers_nonsense_is_an_error_of_its_own_and_others_are_asked(town: Town, lie: Frame) -> None:
    identity, directory = town.providers[0]
    liar, honest = await town.liar(lambda _: lie), await town.honest()
    with pytest.raises(PeerUnreachable):
        await town.directory(liar).providers(MODEL)
    sent = await directory.announce(record(identity))
    found = town.directory(liar, honest)
    for _ in range(3):
        assert await found.providers(MODEL) == (sent,)
    assert found._order()[0] == honest, "who failed us is asked last"


async def test_a_peer_that_never_answers_holds_nobody_up(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silence(channel: Channel) -> None:
        await channel.receive()
        await asyncio.Event().wait()

    node = await town.stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, town.network))
    await node.serve(RECORDS_PROTOCOL, silence)
    identity, directory = town.providers[0]
    sent = await directory.announce(record(identity))
    async with asyncio.timeout(2):
        assert await town.directory(node.peer_id, await town.honest()).providers(MODEL) == (sent,)
    monkeypatch.setattr(asking, "_ANSWER_SECONDS", 0.2)
    with pytest.raises(PeerError):
        await town.directory(node.peer_id).providers(MODEL)
    with pytest.raises(PeerUnreachable):
        await town.directory(Identity.generate().peer_id).models()


async def test_what_one_peer_hides_another_tells_and_found_providers_are_asked_too(town: Town) -> None:
    sent = [await directory.announce(record(identity)) for identity, directory in town.providers]
    hider = await town.liar(answer())
    found = town.directory(hider, await town.honest())
    assert len(await found.providers(MODEL)) == 2
    assert {each.peer for each in sent} <= set(found._order())


async def test_who_asks_too_often_is_told_to_wait_and_others_are_not(town: Town) -> None:
    honest = await town.honest(RecordsSettings(burst=3, rate=0.5))

    async def ask(transport: MemoryTransport, times: int) -> list[object]:
        channel = await transport.open(honest, RECORDS_PROTOCOL)
        got: list[object] = []
        for _ in range(times):
            await channel.send(encode(ASK))
            frame = await channel.receive()
            assert frame is not None
            got.append(decode(frame))
        await channel.aclose()
        return got

    first = await ask(town.client, 5)
    assert [type(each) for each in first] == [Records, Records, Records, Busy, Busy]
    assert 1 < first[-1].seconds <= 2  # type: ignore[attr-defined]
    other = await town.stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, town.network))
    assert isinstance((await ask(other, 1))[0], Records)


async def test_many_strangers_cannot_make_a_node_search_without_end(town: Town) -> None:
    going = asyncio.Event()
    searches = 0

    class Slow:
        async def signed(self, key: bytes) -> Sequence[SignedRecord]:
            nonlocal searches
            searches += 1
            await going.wait()
            return ()

    service = RecordsService(Slow(), RecordsSettings(lookups=2))
    node = await town.stack.enter_async_context(MemoryTransport(Identity.generate().peer_id, town.network))
    town.stack.push_async_callback(service.aclose)
    await node.serve(RECORDS_PROTOCOL, service)

    async def ask(name: str) -> object:
        channel = await town.client.open(node.peer_id, RECORDS_PROTOCOL)
        await channel.send(encode(AskRecords("providers", name, "ab" * 32)))
        frame = await channel.receive()
        await channel.aclose()
        assert frame is not None
        return decode(frame)

    asked = [asyncio.create_task(ask(name)) for name in ("a", "b", "a", "b")]
    await asyncio.sleep(0.05)
    assert isinstance(await ask("c"), Busy)
    going.set()
    assert all(isinstance(each, Records) for each in await asyncio.gather(*asked))
    assert searches == 2, "those who ask the same share a search"


async def test_a_question_that_is_none_ends_the_channel(town: Town) -> None:
    honest = await town.honest()
    for wrong in (Frame(b"?"), encode(Busy(1.0)), Frame(encode(ASK).header, b"payload")):
        channel = await town.client.open(honest, RECORDS_PROTOCOL)
        await channel.send(wrong)
        with pytest.raises(PeerUnreachable):
            await channel.receive()


def test_an_answer_holds_as_many_records_as_fit() -> None:
    big = [SignedRecord("p" * 52, bytes(8000))] * 200
    count, payload = pack_records(big)
    assert count < 200
    assert MAX_ANSWER - 8054 < len(payload) <= MAX_ANSWER
    assert len(unpack_records(count, payload)) == count
    assert pack_records([SignedRecord("p" * 52, b"x")] * 5000)[0] == MAX_RECORDS


@given(
    st.lists(st.builds(SignedRecord, st.just("p" * 52), st.binary(min_size=1, max_size=100)), max_size=5),
    st.integers(0, 6),
    st.binary(max_size=10),
)
def test_records_come_out_as_they_went_in_or_are_refused(records: list[SignedRecord], count: int, more: bytes) -> None:
    size, payload = pack_records(records)
    assert list(unpack_records(size, payload)) == records
    if count != size or more:
        try:
            got = unpack_records(count, payload + more)
        except ProtocolViolation:
            return
        assert pack_records(got) == (count, payload + more)
