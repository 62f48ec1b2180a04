"""A stage's place in the ring: work that neighbours hand over comes in here, what became of it goes on from here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import torch

from mesh.errors import BadTensor, PeerError, PeerTimeout, ProtocolViolation
from mesh.provider.stage.frames import activation_frames, answers, split_hidden
from mesh.provider.stage.links import Links
from mesh.provider.stage.manager import SessionManager
from mesh.provider.stage.session import StageSession
from mesh.transport.port import Channel, PeerId, Transport
from mesh.wire.frame import Frame
from mesh.wire.messages import Activations, NextTokens, PromptProgress, decode, encode
from shards.engine.step import StepInput, StepOutput
from shards.model.spec import ModelSpec

logger = logging.getLogger(__name__)

MAX_STRAYS = 256
"""Frames in a row that belong to no session: a few are on their way when one is closed, more nobody needs to send."""
SILENCE_SECONDS = 120.0
"""After which the channel of a peer ends that is no session's neighbour."""


class Ring:
    """Takes what the neighbours of a stage's sessions send, and hands over what its engine produced."""

    def __init__(
        self,
        transport: Transport,
        spec: ModelSpec,
        wire_dtype: torch.dtype,
        sessions: SessionManager,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.links = Links(transport, tasks, sessions.lost)
        self._transport = transport
        self._spec = spec
        self._wire_dtype = wire_dtype
        self._sessions = sessions
        self._tasks = tasks
        self.silence_seconds = SILENCE_SECONDS
        self._channels: dict[PeerId, Channel] = {}
        """Each neighbour's newest channel to us."""

    # What arrives.

    async def serve(self, channel: Channel) -> None:
        """Take what one neighbour sends until it closes. Raises its `PeerError`, if there was one."""
        sender = channel.peer
        self._channels[sender] = channel
        try:
            strays = 0
            while (frame := await self._next(channel)) is not None:
                strays = 0 if await self._take(sender, frame) else strays + 1
                if strays > MAX_STRAYS:
                    raise ProtocolViolation(f"{strays} frames in a row for no session of ours", peer=sender)
        except PeerError as error:
            if self._channels.get(sender) is channel:
                code = "bad_input" if isinstance(error, ProtocolViolation) else "peer_lost"
                self._sessions.lost(sender, error, code=code)
            raise
        else:
            if self._channels.get(sender) is channel:
                self._sessions.ring_closed(sender)
        finally:
            if self._channels.get(sender) is channel:
                del self._channels[sender]

    async def _next(self, channel: Channel) -> Frame | None:
        """The next frame. Raises `PeerTimeout` for a peer that no session needs and that says nothing for long."""
        while True:
            try:
                async with asyncio.timeout(self.silence_seconds):
                    return await channel.receive()
            except TimeoutError:
                if not self._sessions.table.neighbours(channel.peer):
                    raise PeerTimeout(f"it sent nothing for {self.silence_seconds:g} s", peer=channel.peer) from None

    async def _take(self, sender: PeerId, frame: Frame) -> bool:
        """Whether any of it was for a session of ours with this neighbour."""
        message = decode(frame)
        match message:
            case Activations(parts=parts):
                known = self._knows(sender, parts)
                await self._activations(sender, parts, frame)
                return known
            case NextTokens(parts=parts):
                known = self._knows(sender, parts)
                await self._next_tokens(sender, parts)
                return known
            case other:
                raise ProtocolViolation(f"a {other.kind!r} message makes no sense on the ring", peer=sender)

    def _knows(self, sender: PeerId, parts: Sequence[tuple[bytes, int, int]]) -> bool:
        lives = (self._sessions.get(session) for session, _, _ in parts)
        return any(live is not None and live.entry.previous == sender for live in lives)

    async def _activations(self, sender: PeerId, parts: Sequence[tuple[bytes, int, int]], frame: Frame) -> None:
        counts = [count for _, _, count in parts]
        hidden = split_hidden(frame.payload, counts, self._spec.hidden_size, self._wire_dtype)
        works = [
            self._arrive(sender, session, start, count, hidden=states)
            for (session, start, count), states in zip(parts, hidden, strict=True)
        ]
        await self._sessions.submit([work for work in works if work is not None])

    async def _next_tokens(self, sender: PeerId, parts: Sequence[tuple[bytes, int, int]]) -> None:
        outside = [token for _, _, token in parts if token >= self._spec.vocab_size]
        if outside:
            raise BadTensor(f"token {outside[0]} is outside the vocabulary", peer=sender)
        works: list[tuple[StageSession, StepInput]] = []
        for session, position, token in parts:
            live = self._sessions.get(session)
            if live is not None and live.entry.previous == sender and position >= live.entry.limit:
                live.parked = (position, token)
                continue
            work = self._arrive(sender, session, position, 1, tokens=torch.tensor([token]))
            if work is not None:
                works.append(work)
        await self._sessions.submit(works)

    def extend(self, session: bytes, client: PeerId, limit: int) -> None:
        """The session's client lets it go on up to `limit`: a token that waited for that arrives now."""
        entry = self._sessions.table.extend(session, client, limit, time.monotonic())
        live = self._sessions.get(session)
        if entry is None or live is None or live.parked is None or live.parked[0] >= entry.limit:
            return
        (position, token), live.parked = live.parked, None
        work = self._arrive(entry.previous, session, position, 1, tokens=torch.tensor([token]))
        if work is not None:
            self._tasks.create_task(self._sessions.submit([work]))

    def _arrive(
        self,
        sender: PeerId,
        session: bytes,
        start: int,
        count: int,
        *,
        tokens: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
    ) -> tuple[StageSession, StepInput] | None:
        """What came for a session as work to submit; None where it has none, or fails through it."""
        sessions = self._sessions
        live = sessions.get(session)
        try:
            entry = sessions.table.arrive(session, sender, start, count, time.monotonic())
        except ProtocolViolation as error:
            # Only a session's own neighbour can make it fail; a stranger's frame changes nothing.
            if live is not None and live.entry.previous == sender:
                sessions.fail(live, "bad_input", str(error), blamed=sender)
            else:
                logger.debug("refused a frame of %s: %s", sender, error)
            return None
        if entry is None or live is None:
            return None
        if entry.is_first != (tokens is not None):
            sessions.fail(live, "bad_input", "the first stage takes tokens, the others hidden states", blamed=sender)
            return None
        if live.overrun_by(count):
            sessions.fail(live, "bad_input", "more came than the session can have under way", blamed=sender)
            return None
        work = StepInput(live.sequence, start, count, tokens=tokens, hidden=hidden)
        live.begin(work)
        return live, work

    # What goes on.

    def prepare(self, peer: PeerId) -> None:
        """A session has been admitted that will hand over to this neighbour."""
        if peer != self._transport.peer_id:
            self.links.prepare(peer)

    def conclude(self, outcomes: Sequence[StepOutput]) -> None:
        """Hand on what the engine produced: one frame per neighbour for all that goes the same way."""
        onward: dict[PeerId, list[tuple[StageSession, StepOutput]]] = {}
        around: dict[PeerId, list[tuple[StageSession, StepOutput]]] = {}
        for outcome in outcomes:
            live = self._sessions.conclude(outcome)
            if live is None:
                continue
            if outcome.hidden is not None:
                onward.setdefault(live.entry.following, []).append((live, outcome))
            else:
                for answer in answers(outcome):
                    live.owner.tell(answer)
                end = outcome.start + outcome.count
                if outcome.choice is None and end < live.entry.fed_tokens:
                    live.owner.tell(PromptProgress(live.entry.id, end))
                if outcome.choice is not None and outcome.choice.finish is None:
                    around.setdefault(live.entry.following, []).append((live, outcome))
        for peer, items in onward.items():
            for frame in activation_frames(outcome for _, outcome in items):
                self._hand_over(peer, frame)
        for peer, items in around.items():
            parts = tuple(
                (live.entry.id, outcome.choice.position, outcome.choice.sampled.token)
                for live, outcome in items
                if outcome.choice is not None
            )
            self._hand_over(peer, encode(NextTokens(parts)))

    def _hand_over(self, peer: PeerId, frame: Frame) -> None:
        if peer == self._transport.peer_id:  # a route of one hop: its ring is a call to itself
            self._tasks.create_task(self._take(peer, frame))
        else:
            self.links.push(peer, frame)

    def close_unused(self) -> None:
        """Close the links to those that no session needs any more."""
        self.links.close_unused(lambda peer: bool(self._sessions.table.neighbours(peer)))
