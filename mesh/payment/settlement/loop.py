"""What both sides of settlement share: a loop that looks and acts, and transactions that are never sent twice."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from chain.client.actions import Action, Result
from chain.client.lifecycle import State
from chain.client.staking import StakingClient
from chain.errors import (
    BadAnswer,
    ContractError,
    InvalidArgument,
    JournalError,
    NodeError,
    TransactionError,
)
from mesh.errors import StorageUnavailable
from mesh.payment.settlement.windows import Clock

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 2.0
MOST_WAIT_SECONDS = 60.0
MOST_TRIES = 20
"""Transactions of one step that may fail in a block before we give it up: each costs gas."""
MOST_TOLD = 10_000


@dataclass(frozen=True, slots=True)
class SettlementEvent:
    """Something that settlement did or met. `kind`: `sent`, `refused`, `trouble`, `notice` or `lost`; wei, epochs."""

    kind: str
    what: str
    text: str
    epoch: int | None = None
    model_id: int | None = None
    gateway: str | None = None
    provider: str | None = None
    amount: int | None = None
    tx_hash: str | None = None
    gas_used: int | None = None


Tell = Callable[[SettlementEvent], None]
Say = Callable[[str, str, str], None]
"""Says something once: its kind, the step that it is about, and the text."""


class SettlementLoop(ABC):
    """Looks at the chain every `poll` seconds and carries out what is due, one step after the other.

    Use `run()` in a task of its own, or call `round()`. A node or a disk that fails is asked again later; a step that
    the chain refuses is told once and tried again; none of it ends the loop.
    """

    def __init__(self, client: StakingClient, name: str, tell: Tell | None, poll: float) -> None:
        self._client = client
        self._name = name
        self._tell = tell
        self._poll = poll
        self._wake = asyncio.Event()
        self._resumed = False
        self._told: set[tuple[str, str]] = set()
        self._block = 0
        self._refusals: dict[str, ContractError] = {}
        """Why the chain refused the last try of a step."""

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            self._wake.clear()
            wait = self._poll
            try:
                await self.round()
                failures = 0
            except (JournalError, StorageUnavailable) as error:
                self._once("trouble", "storage", str(error))
            except (NodeError, BadAnswer) as error:
                failures += 1
                wait = min(MOST_WAIT_SECONDS, self._poll * 2.0 ** min(failures, 10)) * (0.5 + random.random() / 2)
                self._once("trouble", "chain", f"the chain cannot be asked now: {error}")
            except ContractError as error:
                self._once("trouble", "chain", f"the chain answers with {error}: is this its journal?")
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    async def round(self) -> int:
        """Look once and do what is due; how many transactions were sent. Raises `NodeError`s, `StorageUnavailable`."""
        if not self._resumed:
            await self._finish_earlier()
            self._resumed = True
        return await self._round()

    @abstractmethod
    async def _round(self) -> int: ...

    async def _carry_out_all(self, steps: Iterable[T], carry_out: Callable[[T], Awaitable[int]]) -> int:
        """One after the other; how many transactions were sent. One that cannot even be sent holds up no other."""
        sent = 0
        for step in steps:
            try:
                sent += await carry_out(step)
            except InvalidArgument as error:
                self._once("refused", f"step/{step}", f"{type(step).__name__} is refused here: {error}")
        return sent

    async def _clock(self) -> Clock:
        status = await self._client.epochs.status()
        self._block = status.block
        upcoming = status.epoch + (status.block + 1 >= status.next_start_block)
        end = status.next_start_block
        if upcoming > status.epoch:
            end = await self._client.epochs.start_block(upcoming + 1)
        return Clock(status.epoch, upcoming, status.reward_delay, end - status.block - 1)

    async def _finish_earlier(self) -> None:
        """Wait for what a killed process had under way, so that the first look already sees it."""
        for pending in list(self._client.transactor.recovered):
            try:
                outcome = await pending.outcome(MOST_WAIT_SECONDS)
            except TransactionError as error:
                self._say(SettlementEvent("trouble", pending.intent.label, str(error), tx_hash=pending.tx_hash))
            else:
                text = f"{pending.intent.label}, begun by an earlier run"
                self._say(SettlementEvent("sent", pending.intent.label, text, tx_hash=outcome.tx_hash))

    # --- sending ---

    async def _send(self, step: str, action: Action, event: SettlementEvent) -> Result | None:
        """Carry out a step; None if it was not done now. `step` names it for good, in the journal of transactions.

        A killed process's transaction with this name is waited for, not repeated. One that has ended and yet left the
        step due gets a successor: the chain itself takes none of these steps twice.
        """
        journal, sender = self._client.transactor.journal, self._client.address
        failed = 0
        for number in itertools.count():
            key = f"{self._name}/{step}/{number}"
            earlier = journal.by_key(sender, key)
            if earlier is None or not earlier.state.final:
                break
            if earlier.state is State.CONFIRMED and (earlier.block_number or 0) > self._block:
                return None  # we looked before it was there
            failed += earlier.state is State.FAILED
        if failed >= MOST_TRIES:
            self._once("trouble", step, f"{event.text}: failed in {failed} blocks, and is given up")
            return None
        self._refusals.pop(step, None)
        try:
            result = await action.execute(key=key)
        except ContractError as error:
            self._refusals[step] = error
            self._once("refused", step, f"{event.text}: {error}", event)
        except TransactionError as error:
            self._once("trouble", step, f"{event.text}: {error}", event, tx_hash=error.tx_hash)
        except JournalError as error:
            self._once("trouble", step, f"{event.text}: {error}", event)
        else:
            self._told = {each for each in self._told if each[0] != step}
            self._say(_with(event, tx_hash=result.tx_hash, gas_used=result.gas_used))
            return result
        return None

    def _say(self, event: SettlementEvent) -> None:
        level = logging.INFO if event.kind in ("sent", "notice") else logging.WARNING
        logger.log(level, "%s: %s%s", self._name, event.text, f" ({event.tx_hash})" if event.tx_hash else "")
        if self._tell is not None:
            self._tell(event)

    def _has_said(self, step: str) -> bool:
        return any(said == step for said, _ in self._told)

    def _once(
        self, kind: str, step: str, text: str, about: SettlementEvent | None = None, *, tx_hash: str | None = None
    ) -> None:
        """Say something once, however often it is met."""
        if (step, text) in self._told:
            return
        if len(self._told) >= MOST_TOLD:
            self._told.clear()
        self._told.add((step, text))
        base = about or SettlementEvent(kind, step, text)
        self._say(_with(base, kind=kind, text=text, tx_hash=tx_hash))


def _with(event: SettlementEvent, **changes: object) -> SettlementEvent:
    return replace(event, **changes)  # type: ignore[arg-type]
