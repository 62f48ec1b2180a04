"""What a wallet earns, by epoch, model and role, from the chain's records and the vouchers that we hold (pure).

Rewards are exact once a leaf is proven; before that, `pending` is what the vouchers' units cost, of which a provider
gets the pot's part. Royalties are claimed for a model, not for an epoch: claims count against the oldest first.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from chain.plots import svg_curves
from chain.primitives import BPS, FUNC

Role = Literal["provider", "gateway", "creator"]

TITLE: Final = "earned so far"
AMOUNTS: Final = ("earned", "claimed", "claimable", "pending", "compensated", "owed")
"""The fields of an `Earning` that are wei."""


@dataclass(frozen=True, slots=True)
class Earning:
    """One role in one epoch. Units of work, amounts in wei; `claimed` and `claimable` together are `earned`."""

    epoch: int
    role: Role
    id: str
    """Of the provider or gateway; a creator's is its model's name."""
    model_id: int
    """0 for a gateway's share, which is kept by epoch alone."""
    units: int = 0
    earned: int = 0
    claimed: int = 0
    claimable: int = 0
    pending: int = 0
    compensated: int = 0
    """Paid by challenges, to be withdrawn or withdrawn."""
    owed: int = 0
    """What gateways owe since they could not pay: taken from whatever they have next."""


@dataclass(slots=True)
class _Sum:
    units: int = 0
    earned: int = 0
    pending: int = 0
    compensated: int = 0
    owed: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A proven leaf of `provider`, or what a larger one adds to it: the event `ContributionRecorded`."""

    provider: str
    model_id: int
    epoch: int
    units: int
    reward: int


@dataclass(frozen=True, slots=True)
class Compensated:
    """The event `ProviderCompensated`."""

    provider: str
    model_id: int
    epoch: int
    amount: int


@dataclass(frozen=True, slots=True)
class Pending:
    """Units of a voucher that are neither proven nor compensated yet, and what they cost.

    `owed`: the part of the fee that the chain has recorded as a debt of the gateway.
    """

    provider: str
    model_id: int
    epoch: int
    units: int
    fee: int
    owed: int = 0


def provider_earnings(
    recorded: Iterable[Recorded],
    compensated: Iterable[Compensated],
    pending: Iterable[Pending],
    unclaimed: Mapping[tuple[str, int], int],
) -> list[Earning]:
    """`unclaimed`: wei by (provider, epoch) that wait on the chain."""
    sums: dict[tuple[int, str, int], _Sum] = {}
    for proof in recorded:
        each = sums.setdefault((proof.epoch, proof.provider, proof.model_id), _Sum())
        each.units += proof.units
        each.earned += proof.reward
    for paid in compensated:
        sums.setdefault((paid.epoch, paid.provider, paid.model_id), _Sum()).compensated += paid.amount
    for voucher in pending:
        each = sums.setdefault((voucher.epoch, voucher.provider, voucher.model_id), _Sum())
        each.units += voucher.units
        each.pending += voucher.fee - voucher.owed
        each.owed += voucher.owed
    found = []
    for (epoch, provider, model_id), each in sorted(sums.items()):
        waiting = min(each.earned, unclaimed.get((provider, epoch), 0))
        found.append(
            Earning(
                epoch,
                "provider",
                provider,
                model_id,
                each.units,
                each.earned,
                each.earned - waiting,
                waiting,
                each.pending,
                each.compensated,
                each.owed,
            )
        )
    return found


def gateway_earnings(
    gateway: str, shares: Mapping[int, int], unclaimed: Mapping[int, int], units: Mapping[int, int], claimable_to: int
) -> list[Earning]:
    """`shares`: wei by epoch of posted checkpoints; `unclaimed`: what the chain still holds of them."""
    found = []
    for epoch, share in sorted(shares.items()):
        waiting = min(share, unclaimed.get(epoch, 0))
        ready = waiting if epoch <= claimable_to else 0
        earned = share - waiting + ready
        found.append(
            Earning(epoch, "gateway", gateway, 0, units.get(epoch, 0), earned, share - waiting, ready, waiting - ready)
        )
    return found


def creator_earnings(
    name: str, model_id: int, epochs: Iterable[tuple[int, int, int]], royalty_bps: int, claimed: int
) -> list[Earning]:
    """`epochs`: (epoch, units, fees) of the pots that are filled; `claimed`: wei taken so far, ever."""
    found = []
    for epoch, units, fees in sorted(epochs):
        earned = fees * royalty_bps // BPS
        taken = min(earned, claimed)
        claimed -= taken
        found.append(Earning(epoch, "creator", name, model_id, units, earned, taken, earned - taken))
    return found


def as_rows(earnings: Iterable[Earning]) -> list[dict[str, Any]]:
    """Plain values, for JSON and CSV; amounts are integers of wei."""
    return [
        {f"{each.name}_wei" if each.name in AMOUNTS else each.name: getattr(row, each.name) for each in fields(row)}
        for row in earnings
    ]


def as_csv(earnings: Sequence[Earning]) -> str:
    """With a header, also when there is nothing."""
    text = io.StringIO()
    names = list(as_rows([Earning(0, "provider", "", 0)])[0])
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_rows(earnings))
    return text.getvalue()


def as_plot(earnings: Sequence[Earning]) -> str:
    """Cumulative FUNC over the epochs, one curve for each role, id and model, as SVG. Raises ValueError for nothing."""
    curves: dict[str, list[tuple[float, float]]] = {}
    totals: dict[str, int] = {}
    for row in sorted(earnings, key=lambda row: row.epoch):
        name = f"{row.role} {row.id}" + (f", model {row.model_id}" if row.model_id else "")
        if name not in curves:
            curves[name], totals[name] = [(float(row.epoch - 1), 0.0)], 0
        totals[name] += row.earned + row.compensated
        curves[name].append((float(row.epoch), totals[name] / FUNC))
    return svg_curves(TITLE, "epoch", "FUNC", curves)
