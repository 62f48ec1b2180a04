"""What mutated inputs broke once, and must not again."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from chain import abi
from chain.client import answers
from chain.errors import BadAnswer, BadKeystore, InvalidArgument
from chain.leaves import CheckpointLeaves
from chain.primitives import keccak256
from chain.units import parse_func
from chain.wallet import Account, create_keystore, open_keystore
from mesh.errors import BadRecord, ProtocolViolation
from mesh.identity import Identity
from mesh.payment.accounts.api_keys import KeyRequest
from mesh.payment.credit.binding import _LABEL, Binding, read_binding, sign_binding
from mesh.transport.direct.certificate import Credentials, verify_certificate
from mesh.wire import direct, leaves, messages, pairs
from mesh.wire.frame import Frame
from shards.checkpoint.safetensors_header import read_header
from shards.errors import CheckpointError
from shards.model.native_config import parse_native
from shards.model.spec import parse_config

DEPTHS = (60, 900, 960, 985, 995, 1005, 1015, 1023)
"""From some depth on, showing a value in an error message was a recursion error instead of a refusal."""


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_deeply_nested_field_of_a_message_is_a_violation(depth: int) -> None:
    nested = b"\x91" * depth + b"\xc0"
    for head in (b"\x82\xa1t\xa4ping\xa5nonce", b"\x81\xa1t"):
        with pytest.raises(ProtocolViolation):
            messages.decode(Frame(head + nested))
    with pytest.raises(ProtocolViolation):
        direct.decode(Frame(b"\x82\xa1t\xa5hello\xa8protocol" + nested))
    with pytest.raises(ProtocolViolation):
        leaves.decode(Frame(b"\x82\xa1t\xa4part\xa6offset" + nested))
    with pytest.raises(ProtocolViolation):
        pairs.decode(Frame(b"\x82\xa1t\xa5pairs\xa5pairs" + nested))


@pytest.mark.parametrize("depth", DEPTHS)
def test_deeply_nested_values_in_files_are_refused(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    table = ('{"a":{"dtype":"F32","shape":%s,"data_offsets":[0,0]}}' % nested).encode()  # noqa: UP031
    data = len(table).to_bytes(8, "little") + table
    with pytest.raises(CheckpointError):
        read_header(io.BytesIO(data), len(data), "weights")
    config = '{"model_type":"llama","num_hidden_layers":%s}' % nested  # noqa: UP031
    with pytest.raises((CheckpointError, RecursionError)):  # which `read_spec` turns into the other
        parse_config(config)
    with pytest.raises(InvalidArgument):
        CheckpointLeaves.parse(('{"version":1,"units":{"a":%s}}' % nested).encode())  # noqa: UP031


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_deeply_nested_answer_of_a_node_is_a_bad_answer(depth: int) -> None:
    nested: Any = "0x1"
    for _ in range(depth):
        nested = [nested]
    for read in (answers.quantity, answers.data):
        with pytest.raises(BadAnswer):
            read(nested)
    (found,) = answers.match([{"method": "m", "id": 1}], {"id": 1, "error": nested}, "node")
    assert "error" in found


CONFIG = {
    "model_type": "llama", "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 5, "intermediate_size": 80,
    "max_position_embeddings": 512, "vocab_size": 300,
}  # fmt: skip


@pytest.mark.parametrize("name", ["rms_norm_eps", "rope_theta"])
def test_a_number_of_a_config_that_no_float_holds_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        parse_native(parse_config(json.dumps({**CONFIG, name: 10**400})))


@pytest.mark.parametrize("token", [10**30, 1 << 31, True, [True]])
def test_end_tokens_that_no_vocabulary_holds_are_refused(token: Any) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id"):
        parse_config(json.dumps({**CONFIG, "eos_token_id": token}))


@pytest.mark.parametrize(
    "log",
    [{}, {"topics": [[]]}, {"topics": ["0x" + "11" * 32], "data": 7}, {"topics": 7}, {"topics": ["0xzz"]}, "log", None],
)
def test_a_log_of_another_shape_is_a_bad_answer_or_nobodys(log: Any) -> None:
    artifact = abi.load("Settlement")
    try:
        assert artifact.decode_log(log) is None
    except BadAnswer:
        pass
    assert abi.decode_logs({"0x00": artifact}, [log]) == []


def test_a_log_without_a_block_is_a_bad_answer() -> None:
    artifact = abi.load("Escrow")
    topic = next(t for t, (_, params) in artifact.events.items() if len([p for p in params if p.indexed]) == 1)
    with pytest.raises(BadAnswer):
        artifact.decode_log({"topics": ["0x" + topic.hex(), "0x" + "00" * 32], "data": "0x" + "00" * 320})


def test_an_amount_of_thousands_of_digits_is_refused() -> None:
    for text in ("9" * 5000, "1." + "0" * 5000):
        with pytest.raises(InvalidArgument):
            parse_func(text)


def test_a_keystore_that_its_library_asserts_about_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    create_keystore(path, Account(b"\x07" * 32), "password", cost=2)
    document = json.loads(path.read_text())
    document["crypto"]["kdf"] = "pbkdf2"
    document["crypto"]["kdfparams"] = {"c": 4, "dklen": 32, "prf": "md5-sha256", "salt": "00"}
    path.write_text(json.dumps(document))
    with pytest.raises(BadKeystore):
        open_keystore(path, "password")


def test_a_date_that_no_float_holds_is_not_now() -> None:
    request = KeyRequest(bytes(20), "gate", 1, bytes(20), 10**400, bytes(32))
    assert not request.is_current(1_800_000_000.0)
    assert not replace(request, issued=-(10**400)).is_current(1_800_000_000.0)
    assert replace(request, issued=1_800_000_000).is_current(1_800_000_000.5)


def test_a_certificate_whose_signature_claims_unused_bits_is_refused() -> None:
    while (good := Credentials.create(Identity.generate()).certificate)[-1] & 1:
        pass  # unused bits must be zero, or the format itself refuses them
    (size,) = {size for size in range(60, 80) if good[-size - 3 : -size] == bytes((3, size + 1, 0))}
    changed = good[: -size - 1] + b"\x01" + good[-size:]

    verify_certificate(good)
    with pytest.raises(ProtocolViolation):
        verify_certificate(changed)


def test_a_binding_has_one_spelling() -> None:
    me, account = Identity.generate(), Account.create()
    binding = Binding("gateway", "g", 1, account.address, account.address, me.peer_id, 1000)
    data = sign_binding(binding, me, account)
    assert read_binding(data, peer=me.peer_id, now=900.0) == binding
    fields = msgpack.unpackb(data[129:])
    for body in (
        msgpack.packb(dict(reversed(fields.items()))),
        data[129:].replace(b"\xcd\x03\xe8", b"\xce\x00\x00\x03\xe8"),
    ):
        message = _LABEL + body
        again = me.sign(message) + account.sign_digest(keccak256(message)) + body
        with pytest.raises(BadRecord, match="canonical"):
            read_binding(again, peer=me.peer_id, now=900.0)
