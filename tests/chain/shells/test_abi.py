"""Calls, results and events are encoded as web3.py does it, an independent implementation."""

from __future__ import annotations

from typing import Any

import pytest
from web3 import Web3

from chain import abi
from chain.abi import Record, snake_case
from chain.deploy import CONTRACTS, created_address, plan, read_address
from chain.devnet.accounts import faucet
from chain.errors import BadAnswer, InvalidArgument
from chain.vouchers import ContributionVoucher

SAMPLE: dict[str, Any] = {
    "uint8": 7, "uint16": 500, "uint32": 9, "uint48": 1, "uint64": 12, "uint128": 10**20, "uint256": 10**30,
    "bytes32": b"\x01" * 32, "bytes": b"abc", "address": faucet(1).address, "string": "grüße", "bool": True,
    "bytes4": b"abcd",
}  # fmt: skip


def sample(entry: dict[str, Any]) -> Any:
    kind = entry["type"]
    if kind.endswith("[]"):
        return [sample({**entry, "type": kind[:-2]})] * 2
    if kind == "tuple":
        return tuple(sample(part) for part in entry["components"])
    return SAMPLE[kind]


@pytest.mark.parametrize("name", [*CONTRACTS, "Directory", "ProviderStaking"])
def test_every_call_is_encoded_as_web3_encodes_it(name: str) -> None:
    artifact = abi.load(name)
    contract = Web3().eth.contract(abi=artifact.abi)
    count = 0
    for entry in artifact.abi:
        if entry["type"] != "function":
            continue
        arguments = [sample(each) for each in entry["inputs"]]
        ours = artifact.function(entry["name"], len(arguments)).encode(arguments)
        theirs = contract.encode_abi(abi_element_identifier=entry["name"], args=arguments)
        assert "0x" + ours.hex() == theirs, entry["name"]
        count += 1
    assert count > 3


def test_structs_may_be_dataclasses_or_mappings() -> None:
    function = abi.load("Settlement").function("hashVoucher")
    voucher = ContributionVoucher(b"\x01" * 32, b"\x02" * 32, 3, 4, 5)
    fields = {"gateway": b"\x01" * 32, "provider": b"\x02" * 32, "modelId": 3, "epoch": 4, "cumulativeUnits": 5}
    assert function.encode([voucher]) == function.encode([fields]) == function.encode([tuple(fields.values())])


@pytest.mark.parametrize("argument", ["5", 1.0, -1, 2**64, None])
def test_an_argument_of_the_wrong_type_is_named(argument: object) -> None:
    with pytest.raises(InvalidArgument, match="epoch of boost must be uint64"):
        abi.load("RewardPool").function("boost").encode([1, argument, 5])


def test_the_number_of_arguments_is_checked() -> None:
    with pytest.raises(InvalidArgument, match="takes 3 arguments, got 1"):
        abi.load("RewardPool").function("boost").encode([1])


def test_a_result_that_does_not_decode_is_the_node_s_fault() -> None:
    with pytest.raises(BadAnswer):
        abi.load("EpochController").function("currentEpoch").decode(b"\x01")


def test_contracts_that_there_are_not_are_refused() -> None:
    for name in ("Nothing", "../errors", ""):
        with pytest.raises(InvalidArgument):
            abi.load(name)
    with pytest.raises(InvalidArgument):
        abi.load("Escrow").function("nothing")


def test_names_are_turned_into_python_s_spelling() -> None:
    names = {"unlockEpoch": "unlock_epoch", "metadataURI": "metadata_uri", "to": "to", "dataHash": "data_hash"}
    assert {name: snake_case(name) for name in names} == names


def test_a_record_has_its_values_as_attributes_and_items() -> None:
    record = Record({"amount": 5})
    assert record.amount == record["amount"] == 5 and dict(record) == {"amount": 5}
    with pytest.raises(AttributeError):
        record.nothing  # noqa: B018


def test_the_address_of_a_contract_follows_from_deployer_and_nonce() -> None:
    from eth_utils import keccak, to_canonical_address, to_checksum_address

    sender = faucet(0).address
    known = keccak(b"\xd6\x94" + to_canonical_address(sender) + b"\x80")[12:]
    assert created_address(sender, 0) == to_checksum_address(known)


def test_a_plan_is_the_same_for_the_same_deployer_and_nonce() -> None:
    first, again, later = plan(faucet(0).address, 0), plan(faucet(0).address, 0), plan(faucet(0).address, 5)
    assert first == again
    assert set(first.contracts) == set(later.contracts) >= set(CONTRACTS)
    # Five nonces later, the first contract is where the sixth of the earlier plan is.
    assert later.contracts["TimelockController"] == list(first.contracts.values())[5]


def test_a_mistyped_address_is_noticed() -> None:
    good = faucet(1).address
    assert read_address(good) == read_address(good.lower()) == good
    for bad in (good.swapcase().replace("0X", "0x"), good[:-1], "0x" + "g" * 40, ""):
        with pytest.raises(InvalidArgument):
            read_address(bad)
