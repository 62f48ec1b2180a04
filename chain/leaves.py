"""The leaves of a checkpoint as a file: what a gateway publishes, and what a provider proves from.

JSON with integers as strings, in one canonical form, so that its hash (`dataHash` on the chain) is the same for all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chain import safe_json
from chain.errors import InvalidArgument
from chain.merkle import ContributionTree, Leaf, Proof
from chain.primitives import MAX_UINT64, MAX_UINT96, keccak256, key_of

VERSION = 1
MAX_FILE = 64 << 20
MAX_ID_BYTES = 64


@dataclass(frozen=True, slots=True)
class CheckpointLeaves:
    """Units of work by provider id, of one gateway, model and epoch."""

    gateway: str
    model_id: int
    epoch: int
    units: Mapping[str, int]

    def tree(self) -> ContributionTree:
        """Raises `InvalidArgument` for no leaves."""
        try:
            leaves = [Leaf(key_of(provider), units) for provider, units in self.units.items()]
            return ContributionTree(key_of(self.gateway), self.model_id, self.epoch, leaves)
        except ValueError as error:
            raise InvalidArgument(f"these leaves make no tree: {error}", argument="leaves") from error

    def proof(self, provider: str) -> tuple[int, Proof]:
        """Units and proof of a provider. Raises `InvalidArgument` if it has no leaf."""
        if provider not in self.units:
            raise InvalidArgument(f"{provider!r} has no leaf in this checkpoint", argument="provider")
        return self.units[provider], self.tree().proof(key_of(provider))

    def text(self) -> str:
        """The canonical form."""
        value = {
            "version": VERSION,
            "gateway": self.gateway,
            "model": self.model_id,
            "epoch": self.epoch,
            "units": {provider: str(units) for provider, units in sorted(self.units.items())},
        }
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def data_hash(self) -> bytes:
        """keccak256 of the canonical form's UTF-8 bytes."""
        return keccak256(self.text().encode())

    @classmethod
    def parse(cls, raw: bytes) -> CheckpointLeaves:
        """Raises `InvalidArgument`; nothing in a file of strangers is trusted."""
        if len(raw) > MAX_FILE:
            raise InvalidArgument("the file of leaves is too large", argument="leaves")
        try:
            value = safe_json.parse(raw)
        except ValueError as error:
            raise InvalidArgument(f"the leaves are not JSON: {error}", argument="leaves") from error
        if not isinstance(value, dict) or value.get("version") != VERSION or not isinstance(value.get("units"), dict):
            raise InvalidArgument(f"this is no file of leaves of version {VERSION}", argument="leaves")
        units = {_identifier(provider): _integer(text, MAX_UINT96) for provider, text in value["units"].items()}
        if not units:
            raise InvalidArgument("there are no leaves", argument="leaves")
        return cls(
            gateway=_identifier(value.get("gateway")),
            model_id=_integer(value.get("model"), MAX_UINT64),
            epoch=_integer(value.get("epoch"), MAX_UINT64),
            units=units,
        )


def _identifier(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value.encode("utf-8", "surrogatepass")) <= MAX_ID_BYTES:
        raise InvalidArgument("an id has 1 to 64 bytes", argument="leaves")
    return value


def _integer(value: Any, most: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 30:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidArgument(f"{safe_json.shown(value)} is not a positive integer", argument="leaves")
    return value
