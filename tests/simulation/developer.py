"""Who asks for answers: reads tokens, holds each against the undisturbed answer, comes back when something broke."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from mesh.client.types import GenerateRequest
from mesh.errors import InvalidRequest, MeshError, UnknownModel
from shards.engine.sampling_params import SamplingParams
from tests.simulation.hosts import GatewayHost
from tests.simulation.loop import VirtualLoop
from tests.simulation.model import EOS, NAME, VOCAB, reference

HANG_SECONDS = 600.0
"""Between two tokens, or a token and an error: what is longer hangs. A route may fail eight times in a row, and each
time be looked for 45 s and admitted in 15 s; faults last a tenth of that."""


@dataclass(slots=True)
class Job:
    """One answer that somebody wants. `leaves_after`: tokens after which he goes away; `dawdles`: reads slowly."""

    number: int
    gateway: GatewayHost
    begins: float
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    ignore_eos: bool
    dawdles: float
    leaves_after: int | None
    expected: tuple[int, ...]
    """What is read of it: without its end token."""
    stops: bool
    """It ends with an end token."""
    got: list[int] = field(default_factory=list)
    attempts: int = 0
    done: bool = False
    last_error: str = ""


def draw_job(random: Random, number: int, gateway: GatewayHost, n_blocks: int, begins: float) -> Job:
    prompt = tuple(random.randrange(2, VOCAB) for _ in range(random.choice((1, 3, 9, 40))))
    warm = random.random() < 0.4
    sampling = SamplingParams(temperature=0.9, seed=random.getrandbits(32)) if warm else SamplingParams()
    max_tokens = random.choice((1, 6, 16, 40))
    ignore_eos = random.random() < 0.7
    expected = reference(n_blocks, prompt, max_tokens, sampling, ignore_eos)
    stops = not ignore_eos and expected[-1] == EOS
    return Job(
        number=number,
        gateway=gateway,
        begins=begins,
        prompt=prompt,
        max_tokens=max_tokens,
        sampling=sampling,
        ignore_eos=ignore_eos,
        dawdles=random.choice((0.0, 0.0, 0.05, 0.5)),
        leaves_after=random.randint(0, 6) if random.random() < 0.15 else None,
        expected=expected[:-1] if stops else expected,
        stops=stops,
    )


class Developer:
    """Drives one job to its end."""

    def __init__(
        self,
        loop: VirtualLoop,
        job: Job,
        *,
        broken: Callable[[str], None],
        report: Callable[..., None],
        calm: Callable[[], bool],
    ) -> None:
        """`calm` says whether an answer must come now: no fault for long, and every block served."""
        self._loop = loop
        self.job = job
        self._broken = broken
        self._report = report
        self._calm = calm

    async def run(self) -> None:
        job = self.job
        await asyncio.sleep(max(0.0, job.begins - self._loop.time()))
        wait = 0.5
        while not job.done:
            await job.gateway.ready.wait()
            machine = job.gateway.machine
            assert machine is not None
            calm = self._calm()
            job.attempts += 1
            attempt = machine.spawn(self._attempt(job.gateway), f"job {job.number}")
            await asyncio.wait({attempt})
            if attempt.cancelled():
                await asyncio.sleep(0.2)
                continue
            error = attempt.exception()
            if error is None:
                continue
            job.last_error = f"{type(error).__name__}: {error}"
            self._report("failed", job.number, job.last_error)
            if not isinstance(error, MeshError):
                self._broken(f"job {job.number} ended with {error!r}, which is no error of the mesh")
            elif isinstance(error, InvalidRequest) and not isinstance(error, UnknownModel):
                self._broken(f"job {job.number} is told that it asked for something wrong: {error}")
            elif "more is resumed here" in str(error):
                job.got.clear()  # what may be repeated for nothing is used up: he asks for all of it again
            elif calm:
                self._broken(f"job {job.number} fails although all is well: {job.last_error}")
            await asyncio.sleep(wait)
            wait = min(2 * wait, 4.0)

    async def _attempt(self, gateway: GatewayHost) -> None:
        job, backend = self.job, gateway.backend
        assert backend is not None
        request = GenerateRequest(
            NAME, job.prompt, job.max_tokens, job.sampling, ignore_eos=job.ignore_eos, resumed=tuple(job.got)
        )
        before = len(job.got)
        try:
            async with asyncio.timeout(HANG_SECONDS) as hang, backend.generate(request) as generation:
                async for delta in generation:
                    for token in delta.tokens:
                        self._take(token)
                    if job.leaves_after is not None and len(job.got) >= job.leaves_after:
                        job.done = True
                        return
                    hang.reschedule(self._loop.time() + HANG_SECONDS)
                    if job.dawdles:
                        await asyncio.sleep(job.dawdles)
                completion = generation.completion
        except TimeoutError:
            self._broken(f"job {job.number} hangs: nothing for {HANG_SECONDS:g} s, and no error")
            raise asyncio.CancelledError from None
        if completion is None:
            self._broken(f"job {job.number} ended without a completion")
            return
        if tuple(job.got) != job.expected:
            self._broken(f"job {job.number} ended after {len(job.got)} of {len(job.expected)} tokens")
        came = len(job.got) - before + job.stops
        if completion.completion_tokens != came:
            self._broken(f"job {job.number}: {completion.completion_tokens} tokens are billed, {came} came")
        reason = "stop" if job.stops else "length"
        if completion.finish_reason != reason:
            self._broken(f"job {job.number} ended with {completion.finish_reason}, not {reason}")
        job.done = True

    def _take(self, token: int) -> None:
        job = self.job
        place = len(job.got)
        if place >= len(job.expected) or job.expected[place] != token:
            wanted = job.expected[place] if place < len(job.expected) else "no more"
            self._broken(f"job {job.number}: token {place} is {token}, must be {wanted}")
        job.got.append(token)
        self._report("token", job.number, place, token)
