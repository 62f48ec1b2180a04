"""The creator's side: takes the royalties of models as pots are filled."""

from __future__ import annotations

from collections.abc import Sequence

from chain.client.staking import StakingClient
from chain.units import format_func
from mesh.payment.settlement.loop import POLL_SECONDS, SettlementEvent, SettlementLoop, Tell


class CreatorSettlement(SettlementLoop):
    """Claims what `models`, created by the client's account, have earned."""

    def __init__(
        self, client: StakingClient, models: Sequence[int], *, poll: float = POLL_SECONDS, tell: Tell | None = None
    ) -> None:
        super().__init__(client, f"creator/{client.address}", tell, poll)
        self._models = tuple(models)

    async def _round(self) -> int:
        clock = await self._clock()
        sent = 0
        for model_id in self._models:
            amount = await self._client.settlement.royalty_of(model_id)
            if not amount:
                continue
            text = f"royalties of model {model_id}: {format_func(amount)} FUNC"
            event = SettlementEvent("sent", "royalty", text, epoch=clock.now, model_id=model_id, amount=amount)
            action = self._client.settlement.claim_royalty(model_id)
            sent += await self._send(f"royalty/{model_id}/{clock.now}", action, event) is not None
        return sent
