"""Prices of models by epoch, asked of the chain once: those of epochs that have begun are fixed."""

from __future__ import annotations

from typing import Final

from chain.client.staking import StakingClient
from mesh.payment.credit.units import ModelPrice

MOST_KEPT: Final = 4096


class ModelPrices:
    """For epochs up to the current one."""

    def __init__(self, client: StakingClient) -> None:
        self._client = client
        self._known: dict[tuple[int, int], ModelPrice] = {}

    async def at(self, model_id: int, epoch: int) -> ModelPrice:
        """What work on a model costs in an epoch. Raises `UnknownModel`."""
        known = self._known.get((model_id, epoch))
        if known is None:
            model, price = await self._client.core.views(
                [("ModelRegistry", "model", (model_id,)), ("ModelRegistry", "priceAt", (model_id, epoch))]
            )
            if len(self._known) >= MOST_KEPT:
                self._known.clear()
            known = self._known[model_id, epoch] = ModelPrice(price, model.blocks)
        return known
