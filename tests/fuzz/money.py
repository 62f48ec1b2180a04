"""Decoders of money: vouchers, receipts, leaves, proofs, reports, a node's answers, files of the chain."""

from __future__ import annotations

from typing import Any

from chain import abi
from chain.errors import (
    InvalidArgument,
)
from chain.leaves import CheckpointLeaves
from chain.merkle import Sibling, leaf_hash, verify
from chain.primitives import key_of
from chain.vouchers import (
    ContributionReceipt,
    ContributionVoucher,
    Domain,
    PaymentVoucher,
    SignatureError,
    address_of,
    digest,
    recover,
    sign,
)
from mesh.errors import ProtocolViolation
from mesh.payment.settlement.leaves import check_leaves
from mesh.payment.settlement.provider import leaf_in_call
from mesh.payment.settlement.provider_plan import SlotId
from mesh.payment.sla.reports import Measured, read_reports, sign_reports
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutate import mutate_json

DOMAIN = Domain(31337, bytes(range(20)))
KEY = b"\x07" * 32
SIGNER = address_of(KEY)
GATEWAY, PROVIDER, MODEL, EPOCH = "gate", "ann", 5, 7
UNITS = {"ann": 1000, "bob": 77, "çelik": 2**95, "d": 1, "e": 12345}
LEAVES = CheckpointLeaves(GATEWAY, MODEL, EPOCH, UNITS)
ROOT = LEAVES.tree().root


def _same(sample: bytes, data: bytes, result: object) -> str | None:
    return None if data == sample else "a signature or a hash covers what its owner did not sign"


def _fine(sample: bytes, data: bytes, result: object) -> str | None:
    return None


# --- signatures: 65 bytes, then four numbers of 8 bytes: kind, model, epoch, units ---


def _signed_numbers() -> list[bytes]:
    found = []
    for kind in range(3):
        numbers = b"".join(value.to_bytes(8, "big") for value in (kind, MODEL, EPOCH, 1000))
        found.append(sign(digest(DOMAIN, _message(numbers)), KEY) + numbers)
    return found


def _message(numbers: bytes) -> ContributionVoucher | ContributionReceipt | PaymentVoucher:
    kind, model, epoch, units = (int.from_bytes(numbers[at : at + 8], "big") for at in (0, 8, 16, 24))
    if kind == 2:
        return PaymentVoucher(SIGNER, key_of(GATEWAY), units)
    cls = ContributionReceipt if kind else ContributionVoucher
    return cls(key_of(GATEWAY), key_of(PROVIDER), model, epoch, units)


def _recovered(data: bytes) -> bool:
    if len(data) != 65 + 32 or data[65:73] not in (bytes(7) + bytes([kind]) for kind in range(3)):
        raise SignatureError("another shape")
    if recover(digest(DOMAIN, _message(data[65:])), data[:65]) != SIGNER:
        raise SignatureError("somebody else")
    return True


def _signed_meaning(sample: bytes, data: bytes, result: object) -> str | None:
    # A payment voucher has no model and no epoch: those bytes say nothing.
    if data[65:73] == bytes(7) + b"\x02":
        return None if data[:73] + data[89:] in {each[:73] + each[89:] for each in _signed_numbers()} else "forged"
    return None if data in _signed_numbers() else "forged"


# --- Merkle proofs ---


def _proofs() -> list[bytes]:
    found = []
    for provider in UNITS:
        units, proof = LEAVES.proof(provider)
        siblings = b"".join(each.hash + each.units.to_bytes(12) for each in proof)
        found.append(units.to_bytes(12, "big") + key_of(provider) + siblings)
    return found


def _prove(data: bytes) -> tuple[bytes, int]:
    units, provider = int.from_bytes(data[:12], "big"), data[12:44].ljust(32, b"\0")
    proof = [Sibling(data[at : at + 32], int.from_bytes(data[at + 32 : at + 44])) for at in range(44, len(data), 44)]
    if len(data) % 44:
        raise ProtocolViolation("a proof of another shape")
    leaf = leaf_hash(key_of(GATEWAY), provider, MODEL, EPOCH, units)
    if not verify(ROOT, sum(UNITS.values()), leaf, units, proof):
        raise ProtocolViolation("not in the tree")
    return provider, units


def _proved(sample: bytes, data: bytes, result: tuple[bytes, int]) -> str | None:
    return None if result in {(key_of(name), units) for name, units in UNITS.items()} else "a leaf that is not there"


SLOT = SlotId(GATEWAY, PROVIDER, MODEL, EPOCH)


def _calls() -> list[bytes]:
    units, proof = LEAVES.proof(PROVIDER)
    return [abi.load("Settlement").function("answerOmission").encode([3, units, list(proof)])]


def _leaf_in_call(data: bytes) -> tuple[bytes, int]:
    leaf = leaf_in_call(data, SLOT, ROOT)
    if leaf is None:
        raise ProtocolViolation("no leaf")
    return key_of(PROVIDER), leaf.units


# --- files of leaves and reports ---


def _leaves(data: bytes) -> Any:
    return check_leaves(data, gateway=GATEWAY, model_id=MODEL, epoch=EPOCH, root=ROOT)


def _leaves_wrong(sample: bytes, data: bytes, result: Any) -> str | None:
    return None if result.leaves.text() == LEAVES.text() else "other leaves under the same root"


def _parsed_leaves_wrong(sample: bytes, data: bytes, leaves: CheckpointLeaves) -> str | None:
    try:
        text = leaves.text().encode()
    except UnicodeEncodeError:
        return None if _has_no_tree(leaves) else "a tree of ids that are not Unicode"
    return None if CheckpointLeaves.parse(text) == leaves else "other leaves when they are written again"


def _has_no_tree(leaves: CheckpointLeaves) -> bool:
    try:
        leaves.tree()
    except InvalidArgument:
        return True
    return False


MEASURED = {"ann": Measured(9990, 120, 50), "bob": Measured(0, 60_000, 50)}


def _reports() -> list[bytes]:
    return [sign_reports(GATEWAY, EPOCH, MEASURED, DOMAIN, lambda digest: sign(digest, KEY))]


def _read_reports(data: bytes) -> Any:
    return read_reports(data, gateway=GATEWAY, epoch=EPOCH, domain=DOMAIN, signer=SIGNER)


def _reports_wrong(sample: bytes, data: bytes, found: Any) -> str | None:
    said = {each.provider: (each.report.uptime_bps, each.report.latency_ms) for each in found}
    signed = {name: (each.uptime_bps, each.latency_ms) for name, each in MEASURED.items()}
    return None if said.items() <= signed.items() else "a report that nobody signed"


def decoders() -> list[Decoder]:
    """All of this module."""
    refused = (ProtocolViolation,)
    return [
        Decoder(
            "vouchers and receipts",
            _signed_numbers,
            _recovered,
            (SignatureError,),
            _signed_meaning,
            ("chain.vouchers:recover",),
        ),
        Decoder("proofs", _proofs, _prove, refused, _proved, ("chain.merkle:verify",)),
        Decoder(
            "leaves in transactions",
            _calls,
            _leaf_in_call,
            refused,
            _proved,
            ("mesh.payment.settlement.provider:leaf_in_call", "chain.merkle:verify"),
        ),
        Decoder(
            "leaves of a checkpoint",
            lambda: [LEAVES.text().encode()],
            _leaves,
            refused,
            _leaves_wrong,
            ("mesh.payment.settlement.leaves:check_leaves", "mesh.payment.settlement.provider:leaves_from_bytes"),
            mutate_json,
        ),
        Decoder(
            "files of leaves",
            lambda: [LEAVES.text().encode()],
            CheckpointLeaves.parse,
            (InvalidArgument,),
            _parsed_leaves_wrong,
            ("chain.leaves:CheckpointLeaves.parse", "chain.safe_json:parse"),
            mutate_json,
        ),
        Decoder(
            "service-level reports",
            _reports,
            _read_reports,
            refused,
            _reports_wrong,
            ("mesh.payment.sla.reports:read_reports",),
            mutate_json,
        ),
    ]
