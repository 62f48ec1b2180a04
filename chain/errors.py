"""What can go wrong with the chain, as one tree; and how a revert becomes a typed Python error.

ChainError
├── ChainConfigError          what the operator asked for cannot be done (bad option, deployment file, port in use)
├── InvalidArgument           refused here, before any transaction (amount, id, metadata); names the argument
├── WalletError
│   ├── WrongPassword
│   ├── WalletExists          a keystore is never overwritten
│   └── BadKeystore           not a keystore v3 file, or readable by others
├── DevnetError               the embedded chain or anvil could not start, or its state file is bad
├── NodeError                 the node behind the RPC endpoint
│   ├── NodeUnreachable       no connection could be made, or every try was dropped
│   ├── NodeTimeout           it did not answer by the deadline
│   ├── RateLimited           it kept asking us to slow down until the deadline
│   ├── WrongChain            it is on another chain than the one that is pinned
│   ├── BadAnswer             its answer is not what the protocol says, or too large
│   └── RpcRefused            it answered with an error (code, message, data)
├── TransactionError          a transaction of ours; names its hash where there is one
│   ├── InsufficientFunds     the account cannot pay for gas and value
│   ├── FeeTooHigh            the fee that it would need is above the limit given
│   ├── StillPending          not confirmed by the deadline: it is in the journal and will be looked after
│   ├── Displaced             another transaction, not of this journal, took its nonce
│   └── TransactionFailed     mined, but reverted; `reason` is the ContractError where the node tells it
├── JournalError              the journal cannot be used (another version, not writable)
└── ContractError             a revert, before or after sending; below it one class per custom error in
    │                         `chain.contract_errors`, with the error's arguments as attributes
    ├── RevertedWithReason    Solidity's Error(string)
    ├── Panicked              Solidity's Panic(uint256)
    └── UnknownRevert         no data, or a selector that no contract of ours has
"""

from __future__ import annotations

from typing import Any, ClassVar


class ChainError(Exception):
    """Base of everything that `chain` raises on purpose."""


class ChainConfigError(ChainError):
    """What the operator asked for cannot be done; the message says what to change."""


class InvalidArgument(ChainError):
    """Refused on this side, before any transaction; `argument` names what was wrong."""

    def __init__(self, message: str, *, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


class WalletError(ChainError):
    """A keystore cannot be read, written or opened."""


class WrongPassword(WalletError):
    """The password does not open this keystore."""


class WalletExists(WalletError):
    """There is a keystore at this path already; it is never overwritten."""


class BadKeystore(WalletError):
    """Not a keystore v3 file, or one that other users may read."""


class DevnetError(ChainError):
    """The embedded chain or anvil could not start, or its state file is not usable."""


class NodeError(ChainError):
    """The node behind the RPC endpoint failed us."""


class NodeUnreachable(NodeError):
    """No connection could be made, or every try was dropped."""


class NodeTimeout(NodeError):
    """The node did not answer by the deadline."""


class RateLimited(NodeError):
    """The node kept asking us to slow down. `retry_after` is in seconds, where it said so."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class WrongChain(NodeError):
    """The node is on another chain than the one that is pinned."""


class BadAnswer(NodeError):
    """The node's answer is not what the protocol says, or larger than we accept."""


class RpcRefused(NodeError):
    """The node answered with a JSON-RPC error."""

    def __init__(self, message: str, *, code: int = 0, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class TransactionError(ChainError):
    """A transaction of ours did not do what it should. `tx_hash` is 0x-prefixed, None before signing."""

    def __init__(self, message: str, *, tx_hash: str | None = None) -> None:
        super().__init__(message)
        self.tx_hash = tx_hash


class InsufficientFunds(TransactionError):
    """The account cannot pay for gas and value."""


class FeeTooHigh(TransactionError):
    """The fee that the transaction would need is above the limit given."""


class StillPending(TransactionError):
    """Not confirmed by the deadline; the journal keeps it and the next start looks after it."""


class Displaced(TransactionError):
    """A transaction that is not in this journal took the nonce."""


class TransactionFailed(TransactionError):
    """Mined, but reverted. `reason` is what the contract said, where the node could tell."""

    def __init__(self, message: str, *, tx_hash: str | None = None, reason: ContractError | None = None) -> None:
        super().__init__(message, tx_hash=tx_hash)
        self.reason = reason


class JournalError(ChainError):
    """The journal cannot be used: written by another version, not writable, or damaged."""


class ContractError(ChainError):
    """A contract reverted.

    A subclass is one error that Solidity can raise: `parameters` are the names and Solidity types of its arguments, in
    order; `message` is a format string over them. Arguments are given by position, and are attributes as well as in
    `arguments`. `known` lists every subclass that revert data may name.
    """

    solidity_name: ClassVar[str] = ""
    parameters: ClassVar[tuple[tuple[str, str], ...]] = ()
    message: ClassVar[str] = ""
    known: ClassVar[list[type[ContractError]]] = []

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.solidity_name:
            ContractError.known.append(cls)

    def __init__(self, *arguments: Any) -> None:
        fields = self.fields()
        if len(arguments) != len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} arguments, got {len(arguments)}")
        self.arguments: dict[str, Any] = dict(zip(fields, arguments, strict=True))
        for name, value in self.arguments.items():
            setattr(self, name, value)
        super().__init__(self._message())

    def __reduce__(self) -> tuple[type[ContractError], tuple[Any, ...]]:
        return type(self), tuple(self.arguments.values())

    @classmethod
    def fields(cls) -> dict[str, str]:
        """Names of the arguments and their Solidity types, in order."""
        return dict(cls.parameters)

    @classmethod
    def signature(cls) -> str:
        """As Solidity writes it: `StakeLocked(bytes32,uint64)`."""
        return f"{cls.solidity_name}({','.join(cls.fields().values())})"

    @classmethod
    def selector(cls) -> bytes:
        """First four bytes of keccak256 of the signature."""
        from eth_utils import keccak

        return bytes(keccak(text=cls.signature())[:4])

    def _message(self) -> str:
        shown = {
            name: f"0x{value.hex()}" if isinstance(value, bytes) else value for name, value in self.arguments.items()
        }
        return f"{self.message.format(**shown)} ({self.solidity_name})"


class RevertedWithReason(ContractError):
    """Solidity's Error(string): `reason` is what the contract said."""

    solidity_name = "Error"
    parameters = (("reason", "string"),)
    message = "the contract refused: {reason}"
    reason: str


class Panicked(ContractError):
    """Solidity's Panic(uint256): the contract failed with `code`."""

    solidity_name = "Panic"
    parameters = (("code", "uint256"),)
    code: int
    MEANINGS: ClassVar[dict[int, str]] = {
        0x01: "an assertion failed",
        0x11: "arithmetic overflow",
        0x12: "division by zero",
        0x21: "no such enum value",
        0x22: "a storage byte array is badly encoded",
        0x31: "pop from an empty array",
        0x32: "an index is out of range",
        0x41: "too much memory",
        0x51: "call of an uninitialised function",
    }

    def _message(self) -> str:
        return f"the contract failed: {self.MEANINGS.get(self.code, 'unknown panic')} (Panic 0x{self.code:02x})"


class UnknownRevert(ContractError):
    """A revert that carries no data, or a selector that no contract of ours has; `data` is what came."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        super().__init__()

    def __reduce__(self) -> tuple[type[ContractError], tuple[Any, ...]]:
        return type(self), (self.data,)

    def _message(self) -> str:
        if not self.data:
            return "the contract refused without saying why"
        return f"the contract refused with an unknown error 0x{self.data[:4].hex()} ({len(self.data)} bytes)"
