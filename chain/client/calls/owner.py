"""The owner's powers, which act only after a delay that everybody can see: `client.owner` (TimelockController).

    setting = client.epochs.set_min_epochs_locked(5)
    await client.owner.schedule(setting)
    …                                       # `client.owner.delay()` seconds later
    await client.owner.execute(setting)

The timelock owns every contract; what an account may do is propose to it, cancel, and execute what is ripe.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from chain import abi
from chain.client.actions import Action, Prepared
from chain.client.core import Core
from chain.errors import InvalidArgument
from chain.primitives import ZERO_HASH

TIMELOCK = "TimelockController"


class OperationState(IntEnum):
    """Where a scheduled call is: `READY` may be executed, `WAITING` not yet."""

    UNSET = 0
    WAITING = 1
    READY = 2
    DONE = 3


@dataclass(frozen=True, slots=True)
class Operation:
    """One call that the timelock was told to make. `ready_at` is Unix time, on the chain's clock."""

    id: bytes
    contract: str
    function: str
    arguments: Mapping[str, Any]
    state: OperationState
    ready_at: int
    target: str
    data: bytes
    salt: bytes


class Owner:
    """What the owner of the contracts may do: schedule a call, cancel it, execute it after the delay."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def delay(self) -> int:
        """Seconds that must pass between scheduling and executing."""
        return int(await self._core.view(TIMELOCK, "getMinDelay"))

    def schedule(self, setting: Action, *, delay: int | None = None) -> Action:
        """Announce an owner's call (`client.epochs.set_…`, `client.core.action("Escrow", "pause")`); see `execute`.

        `delay` in seconds, at least the timelock's own, which is the default. Whether the call itself will go through
        is seen when it is executed.
        """
        salt = os.urandom(32)  # the same call may be made again one day

        async def prepare() -> Prepared:
            call = (await setting.prepared()).call
            wait = await self.delay() if delay is None else delay
            arguments = (call.to, call.value, call.data, ZERO_HASH, salt, wait)
            return Prepared(self._core.call(TIMELOCK, "schedule", *arguments))

        return Action(self._core, prepare)

    def execute(self, setting: Action | Operation) -> Action:
        """Make a call that was scheduled and whose delay is over; the oldest, where it was scheduled several times.

        Raises `InvalidArgument` where it is not scheduled, `TimelockUnexpectedOperationState` where it is too early.
        """

        async def prepare() -> Prepared:
            found = setting if isinstance(setting, Operation) else await self._scheduled(setting)
            arguments = (found.target, 0, found.data, ZERO_HASH, found.salt)
            return Prepared(self._core.call(TIMELOCK, "execute", *arguments))

        return Action(self._core, prepare)

    def cancel(self, operation: Operation) -> Action:
        """Call off what was scheduled."""
        return self._core.action(TIMELOCK, "cancel", operation.id)

    async def pending(self) -> list[Operation]:
        """Everything that is scheduled and neither executed nor cancelled, oldest first."""
        salts: dict[bytes, bytes] = {}
        scheduled: list[abi.Record] = []
        async for event in self._core.events(TIMELOCK):
            if event.name == "CallSalt":
                salts[event.arguments.id] = event.arguments.salt
            elif event.name == "CallScheduled":
                scheduled.append(event.arguments)
        states = await self._core.views([(TIMELOCK, "getOperationState", (each.id,)) for each in scheduled])
        times = await self._core.views([(TIMELOCK, "getTimestamp", (each.id,)) for each in scheduled])
        return [
            self._operation(each, OperationState(state), ready_at, salts.get(each.id, ZERO_HASH))
            for each, state, ready_at in zip(scheduled, states, times, strict=True)
            if state in (OperationState.WAITING, OperationState.READY)
        ]

    def _operation(self, call: abi.Record, state: OperationState, ready_at: int, salt: bytes) -> Operation:
        artifact = self._core.artifacts.get(call.target.lower())
        function, arguments = artifact.read_call(call.data) if artifact is not None else ("", {})
        contract = self._core.name_of(call.target)
        return Operation(
            call.id, contract, function or "0x" + call.data.hex(), arguments, state, ready_at, call.target, call.data,
            salt,
        )  # fmt: skip

    async def _scheduled(self, setting: Action) -> Operation:
        call = (await setting.prepared()).call
        for each in await self.pending():
            if call.to is not None and (each.target.lower(), each.data) == (call.to.lower(), call.data):
                return each
        raise InvalidArgument(f"{call.label} is not scheduled with these arguments: schedule it first")
