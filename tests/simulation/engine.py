"""The stage's engine without its thread: the same queue, batches and passes, each taking some virtual time."""

from __future__ import annotations

import asyncio
from typing import Self

import torch

from shards.engine.engine import Engine
from shards.engine.work import Work
from tests.simulation.loop import MACHINE

STEP_SECONDS = 0.004
TOKEN_SECONDS = 0.0005


class VirtualEngine(Engine):
    """Takes the place of `Engine` in a simulated provider."""

    _busy = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._waiting.clear()

    def submit(self, work: Work) -> None:
        super().submit(work)
        self._begin()

    def _begin(self) -> None:
        while not self._busy and self._waiting and not self._stopping:
            batch = self._take()
            if batch:
                self._busy = True
                machine = MACHINE.get()
                slowness = 1.0 if machine is None else machine.slowness
                rate = getattr(self.model, "block_rate", 100.0)
                tokens = sum(work.count for work in batch)
                seconds = (STEP_SECONDS + TOKEN_SECONDS * tokens * 100.0 / rate) * slowness
                asyncio.get_running_loop().call_later(seconds, self._end, batch)

    def _end(self, batch: list[Work]) -> None:
        self._busy = False
        if self._stopping:
            return
        try:
            with torch.inference_mode():
                outcomes = self._pass(batch)
            machine = MACHINE.get()
            if machine is not None and machine.alive:
                machine.observe(outcomes)
            self._deliver(outcomes)
        except BaseException as error:
            self._crashed(error)
            raise
        self._begin()
