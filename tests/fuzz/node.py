"""Decoders of what a chain's node answers, and of the files and words of people who use the chain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

from eth_abi import abi as eth_abi

from chain import abi, recursion_limit, safe_json
from chain.client import answers
from chain.client.calls.providers import check_provider_metadata
from chain.client.lifecycle import read_refusal
from chain.contract_errors.decode import decode_revert, is_revert, revert_data
from chain.deploy import CONTRACTS, Deployment, read_address
from chain.errors import (
    BadAnswer,
    BadKeystore,
    ChainConfigError,
    ChainError,
    ContractError,
    InvalidArgument,
    RateLimited,
    WalletError,
    WrongPassword,
)
from chain.primitives import key_of
from chain.units import parse_func
from chain.wallet import open_keystore, read_private_key
from mesh.errors import ProtocolViolation
from mesh.payment.sla.known_gateways import peer_of
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.fuzz.peers import ME
from tests.fuzz.scratch import scratch

KEY = b"\x07" * 32


def _fine(sample: bytes, data: bytes, result: object) -> str | None:
    return None


# --- what a node answers ---

REQUESTS = ({"method": "eth_call", "id": 1}, {"method": "eth_chainId", "id": 2})
RESULT = "0x" + eth_abi.encode(["uint256"], [7]).hex()


def _bodies() -> list[bytes]:
    good = [{"jsonrpc": "2.0", "id": 1, "result": RESULT}, {"jsonrpc": "2.0", "id": 2, "result": "0x7a69"}]
    bad = [{"jsonrpc": "2.0", "id": 2, "error": {"code": 3, "message": "execution reverted: no", "data": "0x08c379a0"}}]
    return [
        json.dumps(each).encode()
        for each in (good, good[:1] + bad, {"id": 1, "error": {"code": -32601, "message": "no"}})
    ]


def _answered(data: bytes) -> list[Any]:
    body = answers.parse(data)
    if body is None:
        raise BadAnswer("not JSON")
    found: list[Any] = []
    for answer in answers.match(REQUESTS, body, "node"):
        if "error" in answer:
            refused = answers.refusal(answer["error"])
            found.append(
                (read_refusal(str(refused)), revert_data(answer["error"]), is_revert(refused.code, str(refused)))
            )
        else:
            result = answer["result"]
            found.append(
                answers.quantity(result) if isinstance(result, str) and len(result) < 60 else answers.data(result)
            )
    return found


@cache
def _function() -> abi.Function:
    """The view with the most complicated result."""
    functions = [each for name in abi.names() for many in abi.load(name).functions.values() for each in many]
    return max(functions, key=lambda each: sum(len(param.type) for param in each.outputs))


def _results() -> list[bytes]:
    return [
        eth_abi.encode([param.type for param in _function().outputs], [_example(p.type) for p in _function().outputs])
    ]


def _example(kind: str) -> Any:
    if kind.endswith("[]"):
        return [_example(kind[:-2])] * 2
    if kind.startswith("("):
        return tuple(_example(part) for part in _parts(kind))
    if kind.startswith("uint"):
        return 7
    if kind == "bool":
        return True
    if kind == "address":
        return "0x" + "11" * 20
    if kind == "string":
        return "text"
    return b"\x01" * (int(kind[5:]) if len(kind) > 5 else 40)


def _parts(kind: str) -> list[str]:
    depth, parts, start = 0, [], 1
    for at, character in enumerate(kind):
        depth += (character == "(") - (character == ")")
        if (character == "," and depth == 1) or (character == ")" and depth == 0):
            parts.append(kind[start:at])
            start = at + 1
    return parts


def _topic_of(param: abi.Param) -> bytes:
    value = eth_abi.encode([param.type], [_example(param.type)])
    return value if len(value) == 32 else key_of("an indexed string is its hash")


def _logs() -> list[bytes]:
    found = []
    for contract in ("Settlement", "GatewayRegistry", "Escrow"):
        for topic, (_, params) in abi.load(contract).events.items():
            rest = [param.type for param in params if not param.indexed]
            topics = [topic, *(_topic_of(param) for param in params if param.indexed)]
            found.append({
                "address": "0x" + "22" * 20,
                "topics": ["0x" + each.hex() for each in topics],
                "data": "0x" + eth_abi.encode(rest, [_example(kind) for kind in rest]).hex(),
                "blockNumber": "0x10", "logIndex": "0x1", "transactionHash": "0x" + "33" * 32,
                "contract": contract,
            })  # fmt: skip
    return [json.dumps(each).encode() for each in found]


def _mutate_log(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Mostly the bytes inside the hex texts, which is what a contract decides."""
    if rng.random() < 0.4:
        return mutate_json(data, rng, others)
    log = json.loads(data)
    at = rng.randrange(len(log["topics"]) + 1)
    if at < len(log["topics"]):
        log["topics"][at] = "0x" + mutate_bytes(bytes.fromhex(log["topics"][at][2:]), rng).hex()
    else:
        log["data"] = "0x" + mutate_bytes(bytes.fromhex(log["data"][2:]), rng).hex()
    return json.dumps(log).encode()


def _logged(data: bytes) -> Any:
    try:
        log = safe_json.parse(data)
    except ValueError as error:
        raise BadAnswer(str(error)) from error
    contract = log.get("contract") if isinstance(log, dict) else None
    artifact = abi.load(contract if contract in ("Settlement", "GatewayRegistry", "Escrow") else "Settlement")
    return abi.decode_logs({"0x" + "22" * 20: artifact}, [log]), artifact.decode_log(log)


def _reverts() -> list[bytes]:
    examples = []
    for cls in sorted(ContractError.known, key=lambda cls: cls.__name__):
        kinds = list(cls.fields().values())
        examples.append(cls.selector() + eth_abi.encode(kinds, [_example(kind) for kind in kinds]))
    inner = bytes.fromhex("08c379a0") + eth_abi.encode(["bytes"], [examples[0]])
    return [*examples, bytes.fromhex("08c379a0") + eth_abi.encode(["bytes"], [inner])]


# --- files and words of people ---


def _keystores() -> list[bytes]:
    # Light on purpose: the real cost of a derivation is measured elsewhere, here it is only in the way.
    with recursion_limit.kept():
        from eth_keyfile import create_keyfile_json

    return [json.dumps(create_keyfile_json(KEY, b"password", kdf="pbkdf2", iterations=4)).encode()]


def _mutate_keystore(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return mutate_json(data, rng, others)


def _open_keystore(data: bytes) -> bytes:
    path = scratch() / "keystore.json"
    path.write_bytes(data)
    path.chmod(0o600)
    return open_keystore(path, "password").private_key


def _deployments() -> list[bytes]:
    contracts = {name: "0x" + f"{at:02x}" * 20 for at, name in enumerate(CONTRACTS, 1)}
    value = {"version": 1, "chain_id": 31337, "contracts": contracts, "block": 20, "anchor_number": 1,
             "anchor_hash": "0x" + "ab" * 32, "deployer": "0x" + "01" * 20}  # fmt: skip
    from chain.deploy import FILE_VERSION

    return [json.dumps({**value, "version": FILE_VERSION}).encode()]


def _deployed(data: bytes) -> Deployment:
    path = scratch() / "deployment.json"
    path.write_bytes(data)
    return Deployment.read(path)


def _deployment_wrong(sample: bytes, data: bytes, found: Deployment) -> str | None:
    path = scratch() / "again.json"
    found.save(path)
    return None if Deployment.read(path) == found else "another deployment when it is written again"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def decoders() -> list[Decoder]:
    """All of this module."""
    return [
        Decoder(
            "answers of a node",
            _bodies,
            _answered,
            (BadAnswer, RateLimited),
            _fine,
            (
                "chain.client.answers:parse",
                "chain.client.answers:match",
                "chain.client.lifecycle:read_refusal",
                "chain.client.answers:quantity",
                "chain.client.answers:data",
                "chain.contract_errors.decode:revert_data",
            ),
            mutate_json,
        ),
        Decoder(
            "results of calls",
            _results,
            lambda data: _function().decode(data),
            (BadAnswer,),
            _fine,
            ("chain.abi:Function.decode",),
        ),
        Decoder(
            "logs",
            _logs,
            _logged,
            (BadAnswer,),
            _fine,
            ("chain.abi:Artifact.decode_log", "chain.abi:decode_logs"),
            _mutate_log,
        ),
        Decoder("reverts", _reverts, decode_revert, (), _fine, ("chain.contract_errors.decode:decode_revert",)),
        Decoder(
            "registrations of gateways",
            lambda: [json.dumps({"url": f"p2p:{ME.peer_id}"}).encode()],
            lambda data: peer_of(_text(data)) or _nothing(),
            (ProtocolViolation,),
            lambda sample, data, peer: None if peer.encode() in data else "another peer",
            ("mesh.payment.sla.known_gateways:peer_of",),
            mutate_json,
        ),
        Decoder(
            "metadata of providers",
            lambda: [b'{"url":"mesh://ann","name":"Ann"}'],
            lambda data: check_provider_metadata(_text(data)),
            (InvalidArgument,),
            lambda sample, data, text: None if len(data) <= 1024 else "too long",
            ("chain.client.calls.providers:check_provider_metadata",),
            mutate_json,
        ),
        Decoder(
            "keystores",
            _keystores,
            _open_keystore,
            (BadKeystore, WrongPassword, WalletError, ChainError),
            lambda sample, data, key: None if key == KEY else "another key",
            ("chain.wallet:open_keystore", "chain.wallet:_read"),
            _mutate_keystore,
            0.2,
        ),
        Decoder(
            "private keys",
            lambda: [b"0x" + KEY.hex().encode(), KEY.hex().encode()],
            lambda data: read_private_key(_text(data)).private_key,
            (InvalidArgument,),
            lambda sample, data, key: None if key.hex() in data.decode().lower() else "another key",
            ("chain.wallet:read_private_key",),
        ),
        Decoder(
            "deployment files",
            _deployments,
            _deployed,
            (ChainConfigError,),
            _deployment_wrong,
            ("chain.deploy:Deployment.read", "chain.deploy:Deployment.parse"),
            mutate_json,
            0.3,
        ),
        Decoder(
            "addresses",
            lambda: [b"0x5FbDB2315678afecb367f032d93F642f64180aa3"],
            lambda data: read_address(_text(data)),
            (InvalidArgument,),
            lambda sample, data, text: None if len(text) == 42 else "a long address",
            ("chain.deploy:read_address",),
        ),
        Decoder(
            "amounts",
            lambda: [b"1.5", b"1000000", b"0.000000000000000001"],
            lambda data: parse_func(_text(data)),
            (InvalidArgument,),
            lambda sample, data, wei: None if 0 < wei < 1 << 256 else "no amount",
            ("chain.units:parse_func",),
        ),
    ]


def _nothing() -> str:
    raise ProtocolViolation("no peer")
