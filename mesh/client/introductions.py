"""A gateway introduces itself on each new channel to a provider, and hears from then on what that claims."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from mesh.client.hop_link import HopLink
from mesh.discovery.records import ProviderRecord
from mesh.payment.credit.issuer import VoucherIssuer
from mesh.wire.paying import Receipt

MAX_EARLY: Final = 8


async def introduce(
    issuer: Callable[[], VoucherIssuer | None], records: Mapping[str, ProviderRecord], link: HopLink
) -> None:
    """Tell a provider who pays, where somebody does. Raises `PeerError` when it does not want us."""
    pays, record = issuer(), records.get(link.peer)
    if pays is None or record is None:
        return
    # With its welcome a provider may send the last receipt of an earlier connection.
    early: deque[Receipt] = deque(maxlen=MAX_EARLY)
    link.on_receipt = early.append
    link.on_end = partial(pays.leave, link.peer)
    answer = await link.introduce(*pays.hello())
    await pays.welcomed(link.peer, answer, record.account, link.send)
    link.on_receipt = partial(pays.receipt, link.peer)
    link.on_voucher = partial(pays.shown, link.peer)
    link.on_compare = partial(pays.compared, link.peer)
    link.on_unwelcome = partial(pays.unwelcome, link.peer)
    for receipt in early:
        pays.receipt(link.peer, receipt)
