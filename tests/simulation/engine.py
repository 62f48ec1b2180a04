"""The stage's engine without its thread: the same queue, batches and passes, each taking some virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Self

import torch

from shards.engine.engine import Engine
from shards.engine.passes import Pass
from shards.engine.sequence import SequenceState
from shards.engine.step import StepInput
from tests.simulation.loop import MACHINE

STEP_SECONDS = 0.004
TOKEN_SECONDS = 0.0005


class VirtualEngine(Engine):
    """Takes the place of `Engine` in a simulated provider."""

    _busy = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def submit(self, inputs: Iterable[StepInput]) -> None:
        super().submit(inputs)
        self._begin()

    def free(self, sequence: SequenceState) -> None:
        super().free(sequence)
        self._begin()

    def _begin(self) -> None:
        while not self._busy and self._core.has_work and not self._stopping:
            chosen = self._core.plan()
            if not chosen:
                continue
            self._busy = True
            machine = MACHINE.get()
            slowness = 1.0 if machine is None else machine.slowness
            rate = getattr(self.model, "block_rate", 100.0)
            tokens = sum(part.count for part in chosen.parts)
            seconds = (STEP_SECONDS + TOKEN_SECONDS * tokens * 100.0 / rate) * slowness if chosen.parts else 0.0
            asyncio.get_running_loop().call_later(seconds, self._end, chosen)

    def _end(self, chosen: Pass) -> None:
        self._busy = False
        if self._stopping:
            return
        try:
            with torch.inference_mode():
                outputs = self._pass(chosen)
            machine = MACHINE.get()
            if machine is not None and machine.alive:
                machine.observe(outputs)
            self._deliver(outputs)
        except BaseException as error:
            self._crashed(error)
            raise
        self._begin()
