"""Solidity types of error arguments, and the Python types that they are read as."""

from __future__ import annotations

from typing import Annotated

Address = Annotated[str, "address"]
Bytes32 = Annotated[bytes, "bytes32"]
Raw = Annotated[bytes, "bytes"]
Text = Annotated[str, "string"]
Bool = Annotated[bool, "bool"]
Uint8 = Annotated[int, "uint8"]
Uint48 = Annotated[int, "uint48"]
Uint64 = Annotated[int, "uint64"]
Uint256 = Annotated[int, "uint256"]
