"""One Python class per custom error of the contracts, and the way from revert data to it.

The classes are made from the ABIs when this is imported: `from chain.contract_errors import StakeLocked`. Their names
and arguments are in `__init__.pyi`, which is generated.
"""

from __future__ import annotations

from chain.contract_errors.classes import make_all
from chain.contract_errors.decode import decode_revert, revert_data

_CLASSES = make_all()
globals().update(_CLASSES)
__all__ = [*_CLASSES, "decode_revert", "revert_data"]
