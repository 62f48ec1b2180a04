"""What is signed off the chain: typed-data digests (EIP-712) of vouchers, receipts, commitments and reports.

Both sides of every signature live here: `sign` makes 65 bytes `r ‖ s ‖ v` with s in the lower half (EIP-2) and v 27 or
28; `recover` accepts nothing else, so that one message has one signature by one key, as on the chain.
Source: EIP-712; OpenZeppelin `EIP712.sol` and `ECDSA.sol`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, TypeAlias

from coincurve import PrivateKey, PublicKey

from chain.primitives import Address, Bytes32, address_word, keccak256, word, word32

SIGNATURE_BYTES: Final = 65
CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DOMAIN_NAME: Final = "InferenceMesh"
DOMAIN_VERSION: Final = "1"

_DOMAIN_TYPE: Final = keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_SLOT_FIELDS: Final = "bytes32 gateway,bytes32 provider,uint256 modelId,uint64 epoch,uint256 cumulativeUnits"


class SignatureError(ValueError):
    """The bytes are no signature, or not the one form of it that is accepted."""


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a signature counts: one contract on one chain."""

    chain_id: int
    contract: Address
    separator: Bytes32 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError if the chain id is no uint256 or the contract no address."""
        fields = keccak256(DOMAIN_NAME.encode()) + keccak256(DOMAIN_VERSION.encode())
        separator = keccak256(_DOMAIN_TYPE + fields + word(self.chain_id) + address_word(self.contract))
        object.__setattr__(self, "separator", separator)


@dataclass(frozen=True, slots=True)
class ContributionVoucher:
    """«`gateway` owes `provider` for `cumulative_units` of work on `model_id` in `epoch`», signed by the gateway."""

    TYPE: ClassVar[str] = f"ContributionVoucher({_SLOT_FIELDS})"
    gateway: Bytes32
    provider: Bytes32
    model_id: int
    epoch: int
    cumulative_units: int

    def struct_hash(self) -> Bytes32:
        return _slot_hash(self.TYPE, self)


@dataclass(frozen=True, slots=True)
class ContributionReceipt:
    """The same fields, acknowledged by the provider."""

    TYPE: ClassVar[str] = f"ContributionReceipt({_SLOT_FIELDS})"
    gateway: Bytes32
    provider: Bytes32
    model_id: int
    epoch: int
    cumulative_units: int

    def struct_hash(self) -> Bytes32:
        return _slot_hash(self.TYPE, self)


@dataclass(frozen=True, slots=True)
class PaymentVoucher:
    """«`payer` owes `gateway` `cumulative_amount` wei in all, ever», signed by the developer or a key of his."""

    TYPE: ClassVar[str] = "PaymentVoucher(address payer,bytes32 gateway,uint256 cumulativeAmount)"
    payer: Address
    gateway: Bytes32
    cumulative_amount: int

    def struct_hash(self) -> Bytes32:
        fields = address_word(self.payer) + word32(self.gateway) + word(self.cumulative_amount)
        return keccak256(keccak256(self.TYPE.encode()) + fields)


@dataclass(frozen=True, slots=True)
class CheckpointCommitment:
    """What a gateway signs about a checkpoint before it posts it."""

    TYPE: ClassVar[str] = (
        "CheckpointCommitment(bytes32 gateway,uint256 modelId,uint64 epoch,bytes32 root,uint256 totalUnits,"
        "uint256 totalFees,bytes32 dataHash)"
    )
    gateway: Bytes32
    model_id: int
    epoch: int
    root: Bytes32
    total_units: int
    total_fees: int
    data_hash: Bytes32

    def struct_hash(self) -> Bytes32:
        slot = word32(self.gateway) + word(self.model_id) + word(self.epoch, 64)
        totals = word32(self.root) + word(self.total_units) + word(self.total_fees) + word32(self.data_hash)
        return keccak256(keccak256(self.TYPE.encode()) + slot + totals)


@dataclass(frozen=True, slots=True)
class SlaReport:
    """What one gateway saw of a provider in an epoch: requests asked, share of them served, and p95 of a step."""

    TYPE: ClassVar[str] = (
        "SlaReport(bytes32 gateway,bytes32 provider,uint64 epoch,uint32 requests,uint16 uptimeBps,uint32 latencyMs)"
    )
    gateway: Bytes32
    provider: Bytes32
    epoch: int
    requests: int
    uptime_bps: int
    latency_ms: int

    def struct_hash(self) -> Bytes32:
        who = word32(self.gateway) + word32(self.provider) + word(self.epoch, 64)
        seen = word(self.requests, 32) + word(self.uptime_bps, 16) + word(self.latency_ms, 32)
        return keccak256(keccak256(self.TYPE.encode()) + who + seen)


@dataclass(frozen=True, slots=True)
class SignerConsent:
    """«`signer` agrees to sign for the provider or gateway `key` of `owner`», signed by `signer` itself."""

    TYPE: ClassVar[str] = "SignerConsent(bytes32 key,address owner,address signer)"
    key: Bytes32
    owner: Address
    signer: Address

    def struct_hash(self) -> Bytes32:
        fields = word32(self.key) + address_word(self.owner) + address_word(self.signer)
        return keccak256(keccak256(self.TYPE.encode()) + fields)


Message: TypeAlias = (
    ContributionVoucher | ContributionReceipt | PaymentVoucher | CheckpointCommitment | SlaReport | SignerConsent
)


def digest(domain: Domain, message: Message) -> Bytes32:
    """The 32 bytes that are signed. Raises ValueError if a field does not fit its ABI type."""
    return keccak256(b"\x19\x01" + domain.separator + message.struct_hash())


def address_of(private_key: bytes) -> Address:
    """The address of a private key. Raises ValueError if it is not 32 bytes between 1 and the curve's order."""
    return _address(_key(private_key).public_key)


def sign(signed: Bytes32, private_key: bytes) -> bytes:
    """Signs a digest, deterministically (RFC 6979): 65 bytes `r ‖ s ‖ v`.

    Raises:
        ValueError: the digest is not 32 bytes, or the key is not one.
    """
    signature: bytes = _key(private_key).sign_recoverable(word32(signed), hasher=None)
    return signature[:64] + bytes([27 + signature[64]])


def recover(signed: Bytes32, signature: bytes) -> Address:
    """The address whose key signed the digest.

    Raises:
        ValueError: the digest is not 32 bytes.
        SignatureError: not 65 bytes, v neither 27 nor 28, r or s out of range, s in the upper half, or no such point.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    r, s, v = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64]
    if v not in (27, 28):
        raise SignatureError(f"v is 27 or 28, not {v}")
    if not 0 < r < CURVE_ORDER:
        raise SignatureError("r is out of range")
    if not 0 < s <= CURVE_ORDER // 2:
        raise SignatureError("s is out of range or in the upper half")
    recoverable = signature[:64] + bytes([v - 27])
    message = word32(signed)
    try:
        point = PublicKey.from_signature_and_message(recoverable, message, hasher=None)
    except ValueError as error:
        raise SignatureError("no key makes this signature") from error
    return _address(point)


def is_signed_by(signed: Bytes32, signature: bytes, signer: Address) -> bool:
    """Whether the signature is valid and by `signer`; never true for the zero address."""
    try:
        return recover(signed, signature) == signer
    except SignatureError:
        return False


def _slot_hash(type_name: str, message: ContributionVoucher | ContributionReceipt) -> Bytes32:
    parties = word32(message.gateway) + word32(message.provider)
    work = word(message.model_id) + word(message.epoch, 64) + word(message.cumulative_units)
    return keccak256(keccak256(type_name.encode()) + parties + work)


def _key(private_key: bytes) -> PrivateKey:
    if len(private_key) != 32 or not 0 < int.from_bytes(private_key) < CURVE_ORDER:
        raise ValueError("a private key is 32 bytes between 1 and the order of the curve")
    return PrivateKey(private_key)


def _address(point: PublicKey) -> Address:
    return keccak256(point.format(compressed=False)[1:])[12:]
