"""The marketplace of models: `client.models` (ModelRegistry)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chain.abi import Record
from chain.client.actions import Action
from chain.client.checks import check_id, check_metadata
from chain.client.core import Core
from chain.errors import InvalidArgument
from chain.primitives import key_of
from chain.units import check_amount


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as the marketplace shows it. Prices in wei for one weighted token, `rating` in hundredths of a star.

    `burned` are the wei that its traffic and its boosts burned for good: what its use and its ratings are weighed by.
    A name that cannot be shown is a `chain.text.Unreadable`.
    """

    model_id: int
    name: str
    creator: str
    enabled: bool
    blocks: int
    price_per_token: int
    royalty_bps: int
    model_stake_amount: int
    manifest_hash: bytes
    metadata_uri: str
    units: int
    fees: int
    burned: int
    epochs_used: int
    rating: int | None
    rating_weight: int
    pool: str


class Models:
    """ModelRegistry: the marketplace."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def create_model(
        self,
        name: str,
        manifest_hash: bytes,
        metadata_uri: str,
        *,
        blocks: int,
        price_per_token: int,
        royalty_bps: int,
        model_stake_amount: int,
    ) -> Action:
        """Publish a model. `manifest_hash` is the sha256 of the weights' manifest; prices and stake in wei.

        The result's `ModelCreated` event has the `model_id`.
        """
        check_id(name, "name")
        check_metadata(metadata_uri, "metadata_uri")
        check_amount(price_per_token, allow_zero=True, name="price_per_token")
        check_amount(model_stake_amount, name="model_stake_amount")
        if len(manifest_hash) != 32:
            raise InvalidArgument("a manifest hash has 32 bytes", argument="manifest_hash")
        return self._core.action(
            "ModelRegistry", "createModel", name, manifest_hash, metadata_uri, blocks, price_per_token, royalty_bps,
            model_stake_amount,
        )  # fmt: skip

    def enable(self, model_id: int) -> Action:
        return self._core.action("ModelRegistry", "enable", model_id)

    def disable(self, model_id: int) -> Action:
        return self._core.action("ModelRegistry", "disable", model_id)

    def update_price(self, model_id: int, price_per_token: int) -> Action:
        """A new price, from the epoch after the next on."""
        check_amount(price_per_token, allow_zero=True, name="price_per_token")
        return self._core.action("ModelRegistry", "updatePrice", model_id, price_per_token)

    def rate_model(self, model_id: int, gateway_id: str, score: int) -> Action:
        """Rate 1 … 5 as a gateway of ours; its effective stake is the weight, at most what it burned for the model."""
        return self._core.action("ModelRegistry", "rateModel", model_id, check_id(gateway_id), score)

    def refresh_rating(self, model_id: int, gateway_id: str) -> Action:
        """Bring a rating's weight in line with the gateway's present stake and spending."""
        return self._core.action("ModelRegistry", "refreshRating", model_id, check_id(gateway_id))

    async def id_of(self, name: str) -> int | None:
        """The number of the model of that name; None where nobody has published it."""
        return int(await self._core.view("ModelRegistry", "modelIdOf", check_id(name, "name"))) or None

    async def spent_by(self, model_id: int, gateway_id: str) -> int:
        """Wei that a gateway's posted fees burned for a model for good."""
        return int(await self._core.view("ModelRegistry", "spentBy", model_id, key_of(check_id(gateway_id))))

    async def model_count(self) -> int:
        return int(await self._core.view("ModelRegistry", "modelCount"))

    async def model_stake_amount(self, model_id: int) -> int:
        return int(await self._core.view("ModelRegistry", "modelStakeAmount", model_id))

    async def price_at(self, model_id: int, epoch: int) -> int:
        return int(await self._core.view("ModelRegistry", "priceAt", model_id, epoch))

    async def fee_for(self, model_id: int, epoch: int, units: int) -> int:
        """Wei that `units` of work cost in `epoch`."""
        return int(await self._core.view("ModelRegistry", "feeFor", model_id, epoch, units))

    async def show(self, model_id: int) -> ModelInfo:
        """Raises `UnknownModel`."""
        return (await self.list([model_id]))[0]

    async def list(self, ids: list[int] | None = None, *, most: int = 10_000) -> list[ModelInfo]:
        """Models in order of their number (at most `most`)."""
        if ids is None:
            ids = list(range(1, min(most, await self.model_count()) + 1))
        calls = [
            (contract, function, (model_id,))
            for model_id in ids
            for contract, function in (
                ("ModelRegistry", "model"),
                ("ModelRegistry", "pricePerToken"),
                ("ModelRegistry", "usage"),
                ("ModelRegistry", "rating"),
                ("Router", "stakingPool"),
            )
        ]
        answers = await self._core.views(calls)
        return [_model(model_id, *answers[5 * index : 5 * index + 5]) for index, model_id in enumerate(ids)]


def _model(model_id: int, model: Record, price: int, usage: Record, rating: Record, pool: str) -> ModelInfo:
    score_times_weight, weight = rating.values()
    return ModelInfo(
        model_id=model_id,
        name=model.name,
        creator=model.creator,
        enabled=model.enabled,
        blocks=model.blocks,
        price_per_token=price,
        royalty_bps=model.royalty_bps,
        model_stake_amount=model.model_stake_amount,
        manifest_hash=model.manifest_hash,
        metadata_uri=model.metadata_uri,
        units=usage.units,
        fees=usage.fees,
        burned=usage.burned,
        epochs_used=usage.epochs,
        rating=100 * score_times_weight // weight if weight else None,
        rating_weight=weight,
        pool=pool,
    )


def ranked(models: Sequence[ModelInfo]) -> list[ModelInfo]:
    """The best rated first, then those that burned most: a rating counts as far as there is weight behind it.

    Ratings are drawn towards 3 stars by a tenth of the greatest weight in the list, so that a wei of traffic buys no
    place before models that are used.
    """
    drawn = max((model.rating_weight for model in models), default=0) // 10 + 1

    def stars(model: ModelInfo) -> int:
        return ((model.rating or 0) * model.rating_weight + 300 * drawn) // (model.rating_weight + drawn)

    return sorted(models, key=lambda model: (-stars(model), -model.burned, -model.units, model.model_id))


__all__ = ["ModelInfo", "Models", "ranked"]
