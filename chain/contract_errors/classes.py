"""One class per custom error, made from the ABIs of the checked-in artifacts."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from typing import Final

from chain import abi
from chain.contract_errors.messages import ARGUMENT_NAMES, CLASS_NAMES, MESSAGES
from chain.errors import ContractError

PACKAGE: Final = "chain.contract_errors"


def make_all() -> dict[str, type[ContractError]]:
    """Every custom error in the artifacts, by the name of its class, in order of names."""
    signatures: dict[str, tuple[str, tuple[abi.Param, ...]]] = {}
    for artifact in abi.names():
        for name, params in _errors(artifact):
            signatures.setdefault(f"{name}({','.join(param.type for param in params)})", (name, params))
    made = (_make(signature, name, params) for signature, (name, params) in signatures.items())
    return {cls.__name__: cls for cls in sorted(made, key=lambda cls: cls.__name__)}


def _errors(artifact: str) -> Iterator[tuple[str, tuple[abi.Param, ...]]]:
    for entry in abi.load(artifact).abi:
        if entry["type"] == "error":
            yield str(entry["name"]), tuple(abi.Param.read(each) for each in entry["inputs"])


def _make(signature: str, name: str, params: tuple[abi.Param, ...]) -> type[ContractError]:
    called = CLASS_NAMES.get(signature, name)
    names = ARGUMENT_NAMES.get(name) or tuple(_argument(param.name, at) for at, param in enumerate(params))
    says = MESSAGES.get(called, _words(name))
    parameters = tuple(zip(names, (param.type for param in params), strict=True))
    return type(
        called,
        (ContractError,),
        {"__module__": PACKAGE, "__doc__": says, "solidity_name": name, "parameters": parameters, "message": says},
    )


def _argument(name: str, at: int) -> str:
    snake = abi.snake_case(name) or f"value{at}"
    return f"{snake}_" if keyword.iskeyword(snake) else snake


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
