"""Every custom error of the contracts has its Python class, and revert data finds it wherever a node hides it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from eth_abi import abi as eth_abi
from hypothesis import given
from hypothesis import strategies as st

import chain.errors
from chain import abi, contract_errors
from chain.contract_errors import SlaAlreadyPenalized, StakeLocked, Wiring, stub
from chain.contract_errors.decode import by_selector, decode_revert, is_revert, revert_data
from chain.contract_errors.messages import ARGUMENT_NAMES, CLASS_NAMES, MESSAGES
from chain.errors import ContractError, Panicked, RevertedWithReason

NOT_OURS = {"Error(string)", "Panic(uint256)"}
VALUES: dict[str, Any] = {
    "uint8": 7, "uint48": 9, "uint64": 12, "uint256": 10**30, "bytes32": b"\x01" * 32, "bytes": b"abc",
    "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "string": "a [name] {with} braces", "bool": True,
}  # fmt: skip


def data_of(error: type[ContractError]) -> bytes:
    kinds = list(error.fields().values())
    return error.selector() + eth_abi.encode(kinds, [VALUES[kind] for kind in kinds])


def test_the_classes_are_the_custom_errors_of_the_contracts() -> None:
    in_contracts = {signature for name in abi.names() for signature in abi.load(name).errors}
    classes = {error.signature() for error in by_selector().values()}
    assert in_contracts == classes - NOT_OURS and classes >= NOT_OURS


def test_no_two_classes_share_a_selector_or_a_name() -> None:
    assert len(by_selector()) == len(ContractError.known)
    assert len({error.__name__ for error in ContractError.known}) == len(ContractError.known)


def test_every_class_can_be_imported_by_its_name() -> None:
    for error in by_selector().values():
        home = chain.errors if error in (Panicked, RevertedWithReason) else contract_errors
        assert getattr(home, error.__name__) is error
    assert len(contract_errors.__all__) == len(set(contract_errors.__all__)) == len(by_selector())


def test_the_stub_is_what_the_contracts_errors_are_now() -> None:
    assert stub.STUB.read_text(encoding="utf-8") == stub.text(), "run `python -m chain.contract_errors.stub`"


def test_every_error_has_its_own_words_and_there_are_none_for_errors_that_there_are_not() -> None:
    assert set(MESSAGES) == set(contract_errors.__all__) - {"decode_revert", "revert_data"}
    assert set(ARGUMENT_NAMES) <= {error.solidity_name for error in by_selector().values()}
    assert set(CLASS_NAMES) <= {error.signature() for error in by_selector().values()}


@pytest.mark.parametrize("wrong", [(), (1,), (1, 2, 3)])
def test_an_error_takes_as_many_arguments_as_the_contract_s_has(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="StakeLocked takes 2 arguments"):
        StakeLocked(*wrong)
    assert StakeLocked(b"k", 7).arguments == {"key": b"k", "unlock_epoch": 7}


@pytest.mark.parametrize("error", sorted(by_selector().values(), key=lambda each: each.__name__))
def test_an_error_comes_back_with_its_arguments(error: type[ContractError]) -> None:
    decoded = decode_revert(data_of(error))
    assert type(decoded) is error
    assert list(decoded.arguments.values()) == [VALUES[kind] for kind in error.fields().values()]
    assert error.solidity_name in str(decoded) or error is Panicked
    again = pickle.loads(pickle.dumps(decoded))
    assert type(again) is error and again.arguments == decoded.arguments


def test_arguments_are_attributes_and_in_the_message() -> None:
    error = decode_revert(data_of(StakeLocked))
    assert isinstance(error, StakeLocked)
    assert error.unlock_epoch == 12
    assert str(error) == "the stake is locked until epoch 12 (StakeLocked)"


def test_errors_of_the_same_name_are_told_apart_by_their_arguments() -> None:
    assert SlaAlreadyPenalized.signature() == "AlreadyPenalized(bytes32,uint64)"
    assert type(decode_revert(data_of(SlaAlreadyPenalized))) is SlaAlreadyPenalized


def test_solidity_s_own_errors_are_read() -> None:
    reason = decode_revert(RevertedWithReason.selector() + eth_abi.encode(["string"], ["no"]))
    assert isinstance(reason, RevertedWithReason) and reason.reason == "no"
    panic = decode_revert(Panicked.selector() + eth_abi.encode(["uint256"], [0x11]))
    assert "arithmetic overflow" in str(panic)


def test_an_error_that_was_bubbled_up_inside_another_is_opened() -> None:
    wrapped = RevertedWithReason.selector() + eth_abi.encode(["bytes"], [data_of(Wiring)])
    assert isinstance(decode_revert(wrapped), Wiring)


def test_revert_data_is_found_wherever_a_node_puts_it() -> None:
    data = data_of(StakeLocked)
    text = "0x" + data.hex()
    for error in (
        {"code": 3, "message": "execution reverted", "data": text},
        {"code": -32000, "message": "VM error", "data": {"data": text, "message": "revert"}},
        {"code": -32603, "message": "internal", "data": {"originalError": {"code": 3, "data": text}}},
        {"code": -32603, "message": "error", "data": {"0xabc": None, "result": text}},
        {"code": -32015, "message": f"VM execution error: Reverted {text}"},
        {"code": 3, "message": f"execution reverted: custom error {text}"},
    ):
        assert revert_data(error) == data, error


def test_an_address_or_a_hash_in_a_message_is_not_taken_for_revert_data() -> None:
    for text in ("0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "0x" + "ab" * 32):
        assert revert_data({"code": -32000, "message": f"execution reverted at {text}"}) is None


def test_a_revert_without_data_is_still_known_as_one() -> None:
    assert is_revert(3, "") and is_revert(-32000, "execution reverted")
    assert not is_revert(-32000, "nonce too low")


@given(st.binary(max_size=300))
def test_no_revert_data_can_make_decoding_fail(data: bytes) -> None:
    assert isinstance(decode_revert(data), ContractError)


@given(st.sampled_from(sorted(by_selector())), st.binary(max_size=200))
def test_known_selectors_with_wrong_arguments_do_not_fail_either(selector: bytes, rest: bytes) -> None:
    assert isinstance(decode_revert(selector + rest), ContractError)


@given(
    st.recursive(
        st.none() | st.text() | st.binary() | st.integers(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_no_error_object_can_make_the_search_fail(error: object) -> None:
    found = revert_data(error)
    assert found is None or isinstance(found, bytes)
