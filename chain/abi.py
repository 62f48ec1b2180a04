"""The compiled contracts as Python sees them: calls encoded, results and events decoded, by the checked-in artifacts.

Names stay Solidity's here (`stakeForProvider`); arguments may be dataclasses or mappings where Solidity wants a struct;
structs come back as `Record`, with attributes in Python's spelling (`unlock_epoch`). Strings need not be UTF-8 on the
chain: one that is not, or that cannot be shown, comes back as `chain.text.Unreadable` and fails nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from eth_abi import abi
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils import keccak, to_checksum_address

from chain.errors import BadAnswer, InvalidArgument
from chain.text import read_text

LONG_TEXT = frozenset({"metadata", "metadataURI"})
"""Strings that may have several lines; all others are ids, names and the like."""


@functools.cache
def snake_case(name: str) -> str:
    """`unlockEpoch` as `unlock_epoch`; leading and trailing underscores go."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])|(?<=[A-Z])([A-Z])(?=[a-z])", r"_\1\2", name).lower().strip("_")


class Record(Mapping[str, Any]):
    """A decoded struct: attributes and items by name, in order."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Record({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"


@dataclass(frozen=True, slots=True)
class Param:
    """One input or output: its type as the ABI encodes it, and the parts of a struct."""

    name: str
    type: str
    parts: tuple[Param, ...] = ()
    indexed: bool = False

    @property
    def raw_type(self) -> str:
        """The type to decode as: strings as bytes, which they are on the chain; `to_python` makes text of them."""
        return self.type.replace("string", "bytes")

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Param:
        parts = tuple(cls.read(part) for part in entry.get("components", ()))
        kind = str(entry["type"])
        if kind.startswith("tuple"):
            kind = f"({','.join(part.type for part in parts)}){kind[len('tuple') :]}"
        return cls(str(entry.get("name", "")), kind, parts, bool(entry.get("indexed", False)))


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a contract."""

    name: str
    inputs: tuple[Param, ...]
    outputs: tuple[Param, ...]
    mutability: str

    @property
    def signature(self) -> str:
        return f"{self.name}({','.join(param.type for param in self.inputs)})"

    @property
    def selector(self) -> bytes:
        return _selector(self.signature)

    @property
    def is_view(self) -> bool:
        return self.mutability in ("view", "pure")

    def encode(self, arguments: Sequence[Any]) -> bytes:
        """Call data. Raises `InvalidArgument`."""
        return self.selector + encode(self.inputs, arguments, self.name)

    def decode(self, output: bytes) -> Any:
        """The result: nothing, one value, or a `Record` of several. Raises `BadAnswer`."""
        try:
            values = abi.decode([param.raw_type for param in self.outputs], output)
        except (DecodingError, OverflowError) as error:
            raise BadAnswer(f"the result of {self.name} does not decode: {error}") from error
        plain = [to_python(param, value) for param, value in zip(self.outputs, values, strict=True)]
        if not plain:
            return None
        if len(plain) == 1:
            return plain[0]
        names = [_name(param, index) for index, param in enumerate(self.outputs)]
        return Record(dict(zip(names, plain, strict=True)))


@dataclass(frozen=True, slots=True)
class Event:
    """One decoded event of a contract of ours; `arguments` in Python's spelling."""

    contract: str
    name: str
    arguments: Record
    block: int
    log_index: int
    tx_hash: str

    def as_json(self) -> dict[str, Any]:
        """Plain values, bytes as hex."""
        return {"contract": self.contract, "event": self.name, **jsonable(self.arguments)}


class Artifact:
    """One compiled contract. Use `load`."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.name = str(document["contractName"])
        self.abi: list[Mapping[str, Any]] = list(document["abi"])
        self.bytecode = bytes.fromhex(str(document["bytecode"]).removeprefix("0x"))
        self.deployed_size = int(document["deployedSize"])
        self.functions: dict[str, list[Function]] = {}
        self.events: dict[bytes, tuple[str, tuple[Param, ...]]] = {}
        self.errors: set[str] = set()
        self.constructor: tuple[Param, ...] = ()
        for entry in self.abi:
            inputs = tuple(Param.read(each) for each in entry.get("inputs", ()))
            signature = f"{entry.get('name')}({','.join(param.type for param in inputs)})"
            match entry["type"]:
                case "function":
                    outputs = tuple(Param.read(each) for each in entry["outputs"])
                    function = Function(entry["name"], inputs, outputs, entry["stateMutability"])
                    self.functions.setdefault(entry["name"], []).append(function)
                case "event":
                    self.events[bytes(keccak(text=signature))] = (entry["name"], inputs)
                case "error":
                    self.errors.add(signature)
                case "constructor":
                    self.constructor = inputs

    def function(self, name: str, count: int | None = None) -> Function:
        """The function of that name (and number of arguments, where it is overloaded). Raises `InvalidArgument`."""
        found = [each for each in self.functions.get(name, ()) if count is None or len(each.inputs) == count]
        if not found:
            raise InvalidArgument(f"{self.name} has no function {name} with {count} arguments", argument="function")
        return found[0]

    def read_call(self, data: bytes) -> tuple[str, Record]:
        """The function that call data is for, and its arguments; ("", nothing) where it is none of ours."""
        for function in (each for listed in self.functions.values() for each in listed):
            if function.selector == data[:4]:
                try:
                    values = abi.decode([param.raw_type for param in function.inputs], data[4:])
                except (DecodingError, OverflowError):
                    break
                named = enumerate(zip(function.inputs, values, strict=True))
                return function.name, Record({_name(each, at): to_python(each, value) for at, (each, value) in named})
        return "", Record({})

    def topic(self, event: str) -> bytes:
        """First topic of an event's logs. Raises `InvalidArgument`."""
        for topic, (name, _) in self.events.items():
            if name == event:
                return topic
        raise InvalidArgument(f"{self.name} has no event {event}", argument="event")

    def creation(self, arguments: Sequence[Any]) -> bytes:
        """Bytecode with constructor arguments. Raises `InvalidArgument`."""
        return self.bytecode + encode(self.constructor, arguments, self.name)

    def decode_log(self, log: Mapping[str, Any]) -> Event | None:
        """The event in a JSON-RPC log, or None for one that this contract does not emit. Raises `BadAnswer`."""
        try:
            return self._decode_log(log)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadAnswer(f"a log does not read: {error!r:.200}") from error

    def _decode_log(self, log: Mapping[str, Any]) -> Event | None:
        topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
        known = self.events.get(topics[0]) if topics else None
        if known is None:
            return None
        name, params = known
        indexed = [param for param in params if param.indexed]
        rest = [param for param in params if not param.indexed]
        if len(indexed) != len(topics) - 1:
            raise BadAnswer(f"a log of {name} has {len(topics)} topics")
        try:
            values = dict(
                zip(
                    [param.name for param in rest],
                    abi.decode([param.raw_type for param in rest], bytes.fromhex(log["data"][2:])),
                    strict=True,
                )
            )
            for param, topic in zip(indexed, topics[1:], strict=True):
                # An indexed string or array is only its hash.
                whole = param.type in ("string", "bytes") or param.type.endswith(("]", ")"))
                values[param.name] = topic if whole else abi.decode([param.type], topic)[0]
        except (DecodingError, ValueError, OverflowError) as error:
            raise BadAnswer(f"a log of {name} does not decode: {error}") from error
        plain = {_name(param, index): to_python(param, values[param.name]) for index, param in enumerate(params)}
        return Event(
            self.name,
            name,
            Record(plain),
            int(log["blockNumber"], 16),
            int(log["logIndex"], 16),
            str(log["transactionHash"]),
        )


@functools.cache
def load(name: str) -> Artifact:
    """The artifact of a contract, from the package. Raises `InvalidArgument` for a name that there is not."""
    if not name.isalnum():
        raise InvalidArgument(f"no contract is named {name!r}", argument="contract")
    try:
        text = (resources.files("chain") / "artifacts" / f"{name}.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidArgument(f"no contract is named {name!r}", argument="contract") from None
    return Artifact(json.loads(text))


def names() -> list[str]:
    """Names of all compiled contracts."""
    folder = resources.files("chain") / "artifacts"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def encode(params: Sequence[Param], arguments: Sequence[Any], what: str) -> bytes:
    """ABI encoding of `arguments`. Raises `InvalidArgument`, which names what does not fit."""
    if len(params) != len(arguments):
        raise InvalidArgument(f"{what} takes {len(params)} arguments, got {len(arguments)}")
    values = []
    for param, argument in zip(params, arguments, strict=True):
        value = _flat(param, argument)
        try:
            abi.encode([param.type], [value])
        except (EncodingError, TypeError, ValueError, OverflowError) as error:
            name = snake_case(param.name)
            raise InvalidArgument(f"{name} of {what} must be {param.type}: {error}", argument=name) from error
        values.append(value)
    return bytes(abi.encode([param.type for param in params], values))


def jsonable(value: Any) -> Any:
    """Plain JSON values: bytes as 0x hex, records as objects; integers stay integers."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return {name: jsonable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(each) for each in value]
    return value


def decode_logs(artifacts: Mapping[str, Artifact], logs: Iterable[Mapping[str, Any]]) -> list[Event]:
    """The events among JSON-RPC logs, by the artifact of each (lower-case) address; logs of strangers are left out."""
    found = []
    for log in logs:
        address = log.get("address") if isinstance(log, Mapping) else None
        artifact = artifacts.get(address.lower()) if isinstance(address, str) else None
        event = artifact.decode_log(log) if artifact is not None else None
        if event is not None:
            found.append(event)
    return found


@functools.cache
def _selector(signature: str) -> bytes:
    return bytes(keccak(text=signature)[:4])


def _name(param: Param, index: int) -> str:
    return snake_case(param.name) or f"value{index}"


def _flat(param: Param, value: Any) -> Any:
    """What `eth_abi` takes: structs as tuples, addresses as they are."""
    if param.type.endswith("]"):
        inner = Param(param.name, param.type[: param.type.rindex("[")], param.parts)
        return [_flat(inner, each) for each in value]
    if not param.parts:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        by_name: Mapping[str, Any] = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        by_name = value
    else:
        return tuple(_flat(part, each) for part, each in zip(param.parts, value, strict=True))
    return tuple(
        _flat(part, by_name[part.name] if part.name in by_name else by_name[snake_case(part.name)])
        for part in param.parts
    )


def to_python(param: Param, value: Any) -> Any:
    """A value decoded as `param.raw_type`, as callers see it: text, `Record`s, checksummed addresses."""
    if param.type.endswith("]"):
        inner = Param(param.name, param.type[: param.type.rindex("[")], param.parts)
        return [to_python(inner, each) for each in value]
    if param.parts:
        return Record(
            {
                _name(part, index): to_python(part, each)
                for index, (part, each) in enumerate(zip(param.parts, value, strict=True))
            }
        )
    if param.type == "address":
        return str(to_checksum_address(value))
    if param.type == "string":
        return read_text(bytes(value), lines=param.name in LONG_TEXT)
    return bytes(value) if param.type.startswith("bytes") else value
