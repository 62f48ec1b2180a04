"""Strings of the chain fail one item at most: lists, statuses and prices of everybody else go on, and print safely."""

from __future__ import annotations

import json
import pickle
import unicodedata
from pathlib import Path

import pytest
from eth_abi import abi as eth_abi
from hypothesis import example, given
from hypothesis import strategies as st

from chain import abi
from chain.contract_errors import ModelNameTaken
from chain.contract_errors.decode import decode_revert
from chain.errors import InvalidArgument, RevertedWithReason
from chain.text import Metadata, Unreadable, metadata_hint, read_metadata, read_text
from mesh.cli.console import safe
from tests.chain.shells import hostile
from tests.chain.shells.steps import FUNC, METADATA, publish, raw
from tests.chain.shells.terminal import Terminal
from tests.chain.shells.world import Net

CREATE = "createModel(string,bytes32,string,uint32,uint128,uint16,uint128)"
UNIQUE_NAMES = list(dict.fromkeys(hostile.NAMES))


def is_safe(text: str) -> bool:
    """Nothing in it but printable characters and line ends."""
    return all(each.isprintable() or each == "\n" for each in text)


def test_the_corpus_is_large_enough() -> None:
    assert len(UNIQUE_NAMES) >= 60 and len(set(hostile.DOCUMENTS)) >= 40
    assert all(1 <= len(name) <= 64 for name in UNIQUE_NAMES)
    assert all(len(document) <= 1024 for document in hostile.DOCUMENTS)


# --- one string ---


@pytest.mark.parametrize("name", [*hostile.NOT_UTF8, *hostile.CONTROLS, *hostile.INVISIBLE])
def test_what_cannot_be_shown_is_marked_and_keeps_its_bytes(name: bytes) -> None:
    found = read_text(name)
    assert isinstance(found, Unreadable) and found.raw == name
    assert is_safe(found) and len(found) < 100
    again = pickle.loads(pickle.dumps(found))
    assert isinstance(again, Unreadable) and again == found and again.raw == name


@pytest.mark.parametrize(
    "name", ["plain", "grüße", "模型", "модель", "org/model-7b@v2", "😀", "a [b] {c}", "the «best»"]
)
def test_ordinary_names_of_all_scripts_are_themselves(name: str) -> None:
    assert read_text(name.encode()) == name and not isinstance(read_text(name.encode()), Unreadable)


def test_only_metadata_may_have_several_lines() -> None:
    pretty = json.dumps({"url": "https://a.example"}, indent=2).encode()
    assert read_text(pretty, lines=True) == pretty.decode()
    assert isinstance(read_text(pretty), Unreadable)
    assert isinstance(read_text(b"a\x1b[2J\n", lines=True), Unreadable)


@given(st.binary(max_size=100))
def test_any_bytes_become_text_that_is_safe_to_show(data: bytes) -> None:
    for lines in (False, True):
        found = read_text(data, lines=lines)
        assert is_safe(safe(found)) and (isinstance(found, Unreadable) or found.encode() == data)
    assert is_safe(json.dumps(found))


@example("\\[")
@example("a\\\\[[/]\\")
@given(st.text(max_size=60) | st.text(alphabet="[]/\\a=\x1b\n", max_size=30))
def test_text_is_printed_as_itself_whatever_markup_it_holds(text: str) -> None:
    from rich.text import Text

    shown = Text.from_markup(safe(text)).plain
    assert is_safe(shown)
    if text.isprintable():  # a backslash at the very end is doubled, so that it escapes nothing that follows
        assert shown.rstrip("\\") == text.rstrip("\\")


@pytest.mark.parametrize("document", hostile.DOCUMENTS)
def test_metadata_is_read_as_far_as_it_goes_and_never_fails(document: bytes) -> None:
    text = read_text(document, lines=True)
    found = read_metadata(text)
    metadata_hint(text)
    for each in (found.url, found.name):
        assert each is None or (each.isprintable() and not any(unicodedata.category(c) == "Cs" for c in each))


@given(st.text() | st.binary().map(lambda data: read_text(data, lines=True)))
def test_no_metadata_can_make_reading_fail(text: str) -> None:
    assert isinstance(read_metadata(text), Metadata)


def test_the_url_and_the_name_are_found() -> None:
    assert read_metadata('{"url":"p2p:x","name":"n","more":[]}') == Metadata("p2p:x", "n")
    assert read_metadata('{"url":"p2p:x","name":"\\u001b[2J"}') == Metadata("p2p:x", None)
    assert read_metadata("https://a.example") == Metadata("https://a.example")
    assert read_metadata(Unreadable(b'{"url":"x"}\xff')) == Metadata()


def test_an_error_of_a_contract_with_such_a_string_is_that_error_still() -> None:
    taken = decode_revert(ModelNameTaken.selector() + eth_abi.encode(["bytes"], [b"\xff\xfe"]))
    assert isinstance(taken, ModelNameTaken) and isinstance(taken.name, Unreadable) and is_safe(str(taken))
    reason = decode_revert(RevertedWithReason.selector() + eth_abi.encode(["bytes"], [b"\x1b[2J\xff"]))
    assert isinstance(reason, RevertedWithReason) and is_safe(str(reason))


def test_a_log_with_such_a_string_is_that_event_still() -> None:
    artifact = abi.load("GatewayRegistry")
    topic = "0x" + artifact.topic("GatewayRegistered").hex()
    data = eth_abi.encode(["bytes", "bytes"], [b"\xff", b"{\xfe"])
    log = {
        "topics": [topic, "0x" + "11" * 32, "0x" + bytes(12).hex() + "22" * 20], "data": "0x" + data.hex(),
        "blockNumber": "0x1", "logIndex": "0x0", "transactionHash": "0x" + "33" * 32,
    }  # fmt: skip
    event = artifact.decode_log(log)
    assert event is not None and event.arguments.id.raw == b"\xff" and event.arguments.metadata.raw == b"{\xfe"
    assert is_safe(json.dumps(event.as_json()))


# --- on the chain ---


async def test_models_with_hostile_names_stop_no_list_and_no_price(net: Net, tmp_path: Path) -> None:
    async with net.client(1) as creator, net.client(2) as mallory:
        good = await publish(creator, "good")
        for number, name in enumerate(UNIQUE_NAMES):
            document = hostile.DOCUMENTS[number % len(hostile.DOCUMENTS)]
            await raw(mallory, "ModelRegistry", CREATE, name, b"\x01" * 32, document, 1, 1, 0, 1)
        last = await publish(creator, "last")
        listed = await creator.models.list()
        assert [model.model_id for model in listed] == list(range(1, len(UNIQUE_NAMES) + 3))
        names = {model.model_id: model.name for model in listed}
        assert (names[good], names[last]) == ("good", "last")
        for name, shown in zip(UNIQUE_NAMES, [names[number] for number in range(2, last)], strict=True):
            assert shown.raw == name if isinstance(shown, Unreadable) else shown.encode() == name
        assert await creator.models.price_at(good, await creator.epochs.current_epoch()) == 10**15
        assert await creator.models.id_of("good") == good
        with pytest.raises(InvalidArgument):
            await creator.models.id_of(names[2])
        assert (await creator.models.show(good)).name == "good"
        for number in (2, len(UNIQUE_NAMES) // 2, last - 1):
            assert (await creator.models.show(number)).model_id == number
        # A hostile name is taken, as any other: whoever tries it again is told so.
        with pytest.raises(ModelNameTaken):
            await raw(mallory, "ModelRegistry", CREATE, UNIQUE_NAMES[0], b"\x01" * 32, b"", 1, 1, 0, 1)
    user = Terminal(net, tmp_path, 3)
    said = user.run("model", "list")
    assert "good" in said and "last" in said and is_safe(said)
    plain = user.run("model", "list", "--json")
    assert is_safe(plain) and plain.isascii() and len(json.loads(plain)["models"]) == last
    for number in (2, 30, 40, 50, 60):
        assert is_safe(user.run("model", "show", str(number)))


async def test_an_update_with_hostile_metadata_keeps_no_old_status_alive(net: Net, tmp_path: Path) -> None:
    async with net.client(1) as provider, net.client(2) as gateway:
        model = await publish(provider)
        await provider.providers.register_and_stake("p", model, METADATA)
        await provider.providers.register_and_stake("other", model, METADATA)
        await gateway.gateways.register_and_stake("g", "", 200 * FUNC)
        for document in hostile.DOCUMENTS:
            await raw(provider, "ProviderRegistry", "updateMetadata(string,string)", b"p", document)
            await raw(gateway, "GatewayRegistry", "updateMetadata(string,string)", b"g", document)
            status = await provider.providers.status("p")
            assert status.active and isinstance(read_metadata(status.metadata), Metadata)
            assert (await gateway.gateways.status("g")).active
        for document in (b"\xff\xfe", b"\x1b[2J"):
            await raw(provider, "ProviderRegistry", "updateMetadata(string,string)", b"p", document)
            await raw(gateway, "GatewayRegistry", "updateMetadata(string,string)", b"g", document)
        await provider.providers.deactivate("p")
        await gateway.gateways.deactivate("g")
        status = await provider.providers.status("p")
        assert (status.active, status.eligible, status.deactivated) == (False, False, True)
        assert isinstance(status.metadata, Unreadable)
        there = await gateway.gateways.status("g")
        assert (there.active, there.eligible, isinstance(there.metadata, Unreadable)) == (False, False, True)
        assert (await provider.providers.status("other")).metadata == METADATA
    user = Terminal(net, tmp_path, 3)
    for command in ("provider", "p"), ("gateway-stake", "g"):
        said = user.run(command[0], "status", command[1])
        assert "unreadable" in said and is_safe(said)
        assert user.json(command[0], "status", command[1])["active"] is False


async def test_ids_that_are_no_text_harm_only_their_owner(net: Net, tmp_path: Path) -> None:
    some = [name for name in UNIQUE_NAMES if isinstance(read_text(name), Unreadable)][::4]
    async with net.client(1) as provider, net.client(2) as mallory, net.client(3) as gateway:
        model = await publish(provider)
        await provider.providers.register_and_stake("p", model, METADATA)
        await gateway.gateways.register_and_stake("g", "", 200 * FUNC)
        for name in some:
            await raw(mallory, "ProviderRegistry", "register(string,uint256,string)", name, model, b"{}")
            await raw(mallory, "GatewayRegistry", "register(string,string)", name, b"")
        assert [each.raw for each in await mallory.providers.owned() if isinstance(each, Unreadable)] == some
        found = [each.arguments async for each in gateway.core.events("GatewayRegistry", "GatewayRegistered")]
        assert [each.id for each in found if not isinstance(each.id, Unreadable)] == ["g"]
        assert (await provider.providers.status("p")).active and (await gateway.gateways.status("g")).active
        with pytest.raises(InvalidArgument):
            await mallory.providers.status((await mallory.providers.owned())[0])
        # A claim for all of an owner's providers goes on over those that have no name.
        epoch = await net.next_epoch(gateway, 6)
        assert len(await mallory.providers.cluster_claims(1, epoch - 4)) == 1
    user = Terminal(net, tmp_path, 2)
    said = user.run("provider", "claim")
    assert is_safe(said) and said.count("got nothing") == len(some)
    assert is_safe(user.run("provider", "claim", "--json")) and is_safe(user.run("earnings"))
