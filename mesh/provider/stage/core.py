"""What a stage does about what happens to it: `StageCore.handle(event, now)` gives the actions to carry out (pure).

Its sessions, their order, their work and what it is paid live here. It waits for nothing and sends nothing; the engine
is the one thing it calls: its memory is asked for and given back, and work is queued there, at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import torch

from mesh.errors import BadTensor, ProtocolViolation
from mesh.provider.stage import events
from mesh.provider.stage.admission import NotAdmitted, SessionTable, refusal
from mesh.provider.stage.credit import StageCredit
from mesh.provider.stage.frames import WIRE_DTYPES, activation_frames, answers, next_tokens, split_hidden, token_runs
from mesh.provider.stage.opening import sampler_for, stage_keys
from mesh.provider.stage.ports import Guessing, Payload, SessionOwner, StageEngine
from mesh.provider.stage.session import StageSession, failure_code
from mesh.provider.stage.speculation import StageGuesses
from mesh.transport.port import PeerId
from mesh.wire.messages import (
    MAX_REASON,
    PREEMPTED,
    Activations,
    CloseSession,
    ExtendSession,
    Message,
    NextTokens,
    OpenSession,
    Prompt,
    PromptProgress,
    SessionClosed,
    SessionFailed,
    SessionOpened,
    encode,
)
from mesh.wire.tokens import read_tokens
from shards.engine.sampler import Form
from shards.engine.step import StepInput, StepOutput
from shards.errors import CapacityExceeded, ShardError
from shards.model.spec import ModelSpec

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 512
"""Pieces of work that the engine is given in one call."""


class StageCore:
    """One stage. `me` is its own peer: a route of one hop hands over to itself."""

    def __init__(
        self,
        table: SessionTable,
        engine: StageEngine,
        credit: StageCredit,
        *,
        me: PeerId,
        spec: ModelSpec,
        numerics: str,
        prefill_chunk: int,
        guessing: Guessing | None = None,
    ) -> None:
        self.table = table
        self.credit = credit
        self._engine = engine
        self._me = me
        self._spec = spec
        self._numerics = numerics
        self._wire_dtype = WIRE_DTYPES[table.facts.wire_dtype]
        self._chunk = credit.chunk(prefill_chunk)
        self._withdrawn = False
        self._full: set[PeerId] = set()
        """Neighbours to which much waits to be sent."""
        self._backlog: deque[StepInput] = deque()
        """Work that the engine has not been given yet."""
        self._guessing: Guessing = guessing or StageGuesses(len(table.facts.span) / spec.n_blocks)
        self._now = 0.0
        self._actions: list[events.Action] = []

    @property
    def congested(self) -> bool:
        """True while the engine's queue has no room: nothing more of the ring should be read."""
        return bool(self._backlog)

    def handle(self, event: events.Event, now: float) -> list[events.Action]:
        """What is to be done about an event, in order.

        Raises `ProtocolViolation` or `BadTensor` for a frame that is not sound as a whole; nothing has changed then.
        """
        self._now, self._actions = now, []
        match event:
            case events.Asked():
                self._asked(event)
            case events.Arrived(sender=sender, message=Activations() as message, payload=payload):
                self._activations(sender, message, payload)
            case events.Arrived(sender=sender, message=NextTokens() as message):
                self._next_tokens(sender, message)
            case events.Computed(outputs=outputs):
                self._conclude(outputs)
            case events.OwnerGone(owner=owner):
                for session in self.table:
                    if session.owner is owner:
                        self._free(session)
            case events.RingClosed(peer=peer):
                # It needs the channel no more; sessions in which it has not spoken yet may still come on another.
                for session in self.table.neighbours(peer):
                    if session.previous == peer and session.expected > 0:
                        self._fail(session, "peer_lost", f"neighbour {peer} closed the ring", blamed=peer)
            case events.PeerLost(peer=peer, reason=reason, code=code):
                self._full.discard(peer)
                for session in self.table.neighbours(peer):
                    self._fail(session, code, f"neighbour {peer}: {reason}", blamed=peer)
            case events.LinkFilled(peer=peer):
                self._full.add(peer)
            case events.LinkCleared(peer=peer):
                self._full.discard(peer)
                for session in self.table.neighbours(peer):
                    self._feed(session)
            case events.CustomerPaid(customer=customer):
                self._backlog.extend(self.credit.resume(customer))
            case events.CustomerOwes(customer=customer):
                code, reason = "unpaid", f"what was done is not paid for: {customer.owes}"
                if customer.barred is not None:
                    code, reason = "not_accepted", customer.barred
                for session in self.credit.waiting_of(customer):
                    self._fail(session, code, reason)
            case events.Ticked():
                for session in self.table.idle(now):
                    self._lapse(session, "nothing happened in it for too long")
            case events.Withdrawn():
                self._withdrawn = True
            case events.StageEnded(reason=reason):
                for session in self.table:
                    self._fail(session, "closing", reason)
        self._work_off()
        return self._actions

    # What clients ask for.

    def _asked(self, asked: events.Asked) -> None:
        owner, payload = asked.owner, asked.payload
        match asked.message:
            case OpenSession() as opening:
                self._open(owner, opening, payload, asked.form)
            case Prompt() as prompt:
                self._prompt(owner, prompt, payload)
            case ExtendSession(session=session, limit=limit):
                self._extend(session, owner.peer, limit)
            case CloseSession(session=session, received=received, keys=keys):
                found = self._owned(session, owner)
                if found is not None:
                    named = stage_keys(keys, found, self.table.facts.digest, self._numerics)
                    self._engine.name_pages(found.sequence, named)
                    self._free(found, received)
                tokens, busy = (0, 0.0) if found is None else (found.tokens, found.busy_seconds)
                self._tell(owner, SessionClosed(session, tokens, int(busy * 1e6)))

    def _owned(self, session: bytes, owner: SessionOwner) -> StageSession | None:
        """The session if it was opened over this channel: the same None for one that is gone and somebody else's."""
        found = self.table.get(session)
        return found if found is not None and found.owner is owner else None

    def _open(self, owner: SessionOwner, request: OpenSession, payload: Payload, form: Form | None) -> None:
        session: StageSession | None = None
        try:
            if self._withdrawn:
                raise NotAdmitted("closing", "the provider is shutting down")
            if self._me in (request.previous, request.following) and request.end - request.start < self._spec.n_blocks:
                raise NotAdmitted("bad_request", "a stage that is not all of the route does not hand over to itself")
            customer = self.credit.check(owner.peer)
            self._make_room(request, owner.peer)
            session = self.table.admit(request, owner.peer, self._now, self._engine.free_pages)
            self.credit.open(session, customer)
            session.owner = owner
            session.sequence = self._engine.add(
                session.id,
                session.span,
                session.capacity,
                client=session.client,
                reserve=session.fed_tokens,
                sampler=sampler_for(request, payload, self._spec, form) if session.is_last else None,
                wire_dtype=self._wire_dtype,
                keys=stage_keys(request.keys, session, self.table.facts.digest, self._numerics),
            )
        except (NotAdmitted, ShardError, BadTensor, RuntimeError) as error:
            if session is not None:
                self.table.close(session.id, session.client)
                if session.bill is not None:
                    session.bill.close(0)
            self._tell(owner, refusal(request.session, error))
            return
        if session.is_last and request.drafts and payload:
            fed = read_tokens(payload, session.fed_tokens, self._spec.vocab_size)
            session.guesser = self._guessing.begin(fed, session.capacity, session.drafts)
        session.held = session.sequence.length
        self._tell(owner, SessionOpened(session.id, session.held))
        if session.following != self._me:
            self._actions.append(events.OpenLink(session.following))

    def _make_room(self, request: OpenSession, client: PeerId) -> None:
        """End sessions that do nothing, or have grown beyond what is their client's, where that lets another in."""
        for idle in self.table.in_the_way(request, client, self._now, self._engine.free_pages):
            self._lapse(idle, "nothing happened in it, and others need its place")
        for large in self.table.beyond_share(request, client, self._engine.free_pages):
            self._fail(large, PREEMPTED, "its client holds more than its share, and others need it")

    def _prompt(self, owner: SessionOwner, message: Prompt, payload: Payload) -> None:
        session = self._owned(message.session, owner)
        if session is None:
            self._tell(owner, SessionFailed(message.session, "unknown_session", "you have no such session here", None))
            return
        try:
            ids = read_tokens(payload, max(0, session.fed_tokens - message.start), self._spec.vocab_size)
            self.table.prompt(message.session, owner.peer, len(ids), self._now, message.start)
        except (BadTensor, ProtocolViolation) as error:
            self._fail(session, "bad_prompt", str(error), blamed=owner.peer)
            return
        session.prompt = torch.tensor(ids, dtype=torch.int64)
        self._feed(session)

    def _feed(self, session: StageSession) -> None:
        """Give the engine the next part of a prompt: the next hop works on one while we work on the following."""
        if session.prompt is None or session.chunk is not None or session.following in self._full:
            return
        chunk, rest = session.prompt[: self._chunk], session.prompt[self._chunk :]
        start = session.fed_tokens - len(session.prompt)
        session.prompt = rest if len(rest) else None
        session.chunk = StepInput(session.sequence, start, len(chunk), tokens=chunk)
        self._begin(session, session.chunk)

    def _extend(self, session: bytes, client: PeerId, limit: int) -> None:
        """The session's client lets it go on up to `limit`: a token that waited for that arrives now."""
        found = self.table.extend(session, client, limit, self._now)
        if found is not None and found.parked is not None and found.parked[0] < found.limit:
            (position, tokens), found.parked = found.parked, None
            self._run_on(found, position, tokens)

    # What comes over the ring.

    def _activations(self, sender: PeerId, message: Activations, payload: Payload) -> None:
        counts = [count for _, _, count in message.parts]
        hidden = split_hidden(payload, counts, self._spec.hidden_size, self._wire_dtype)
        self._look_for_strays(sender, message.parts)
        for (session, start, count), states in zip(message.parts, hidden, strict=True):
            self._arrive(sender, session, start, count, hidden=states)

    def _next_tokens(self, sender: PeerId, message: NextTokens) -> None:
        runs = token_runs(sender, message, self._spec.vocab_size)
        self._look_for_strays(sender, message.parts)
        for session, position, tokens in runs:
            found = self.table.get(session)
            if found is None or found.previous != sender:
                self._arrive(sender, session, position, len(tokens), tokens=torch.tensor(tokens))
            elif position >= found.limit:
                found.parked = (position, tokens)
            else:
                self._run_on(found, position, tokens)

    def _run_on(self, session: StageSession, position: int, tokens: tuple[int, ...]) -> None:
        """Run a token, and of the guesses behind it those below the client's limit."""
        tokens = tokens[: session.limit - position]
        self._arrive(session.previous, session.id, position, len(tokens), tokens=torch.tensor(tokens))

    def _look_for_strays(self, sender: PeerId, parts: Sequence[tuple[bytes, int, int]]) -> None:
        there = (self.table.get(session) for session, _, _ in parts)
        if not any(found is not None and found.previous == sender for found in there):
            self._actions.append(events.Stray(sender))

    def _arrive(
        self,
        sender: PeerId,
        session: bytes,
        start: int,
        count: int,
        *,
        tokens: torch.Tensor | None = None,
        hidden: torch.Tensor | None = None,
    ) -> None:
        """Begin what came for a session; a session of the sender that may not have it fails through it."""
        found = self.table.get(session)
        try:
            self.table.arrive(session, sender, start, count, self._now)
        except ProtocolViolation as error:
            # Only a session's own neighbour can make it fail; a stranger's frame changes nothing.
            if found is not None and found.previous == sender:
                self._fail(found, "bad_input", str(error), blamed=sender)
            else:
                logger.debug("refused a frame of %s: %s", sender, error)
            return
        if found is None:
            return
        why = found.objection(start, count, tokens is not None)
        if why is not None:
            self._fail(found, "bad_input", why, blamed=sender)
            return
        self._begin(found, found.work(start, count, tokens, hidden))

    # The engine.

    def _begin(self, session: StageSession, work: StepInput) -> None:
        """Work has come: the engine is given it after the event, with all else that came, where it may run."""
        if self.credit.begin(session, work):
            self._backlog.append(work)

    def _work_off(self) -> None:
        """Give the engine what waits, as far as its queue has room."""
        while self._backlog:
            some = [self._backlog.popleft() for _ in range(min(len(self._backlog), MOST_AT_ONCE))]
            left = [work for work in some if not work.cancelled]
            try:
                if left:
                    self._engine.submit(left)
            except CapacityExceeded:
                self._backlog.extendleft(reversed(left))  # it goes on after the next pass
                return

    def _conclude(self, outputs: Sequence[StepOutput]) -> None:
        """Hand on what the engine produced: one frame per neighbour for all that goes the same way."""
        onward: dict[PeerId, list[StepOutput]] = {}
        around: dict[PeerId, list[tuple[bytes, int, tuple[int, ...]]]] = {}
        self._guessing.passed(outputs)
        for output in outputs:
            session = self._book(output)
            if session is None:
                continue
            if output.hidden is not None:
                onward.setdefault(session.following, []).append(output)
                continue
            for answer in answers(output):
                self._tell(session.owner, answer)
            end, choice = output.start + output.count, output.choice
            if choice is None and end < session.fed_tokens:
                self._tell(session.owner, PromptProgress(session.id, end))
            if choice is not None and choice.finish is None:
                tokens = (choice.sampled.token, *session.guesses(output, self._now))
                around.setdefault(session.following, []).append((session.id, choice.position, tokens))
        for peer, items in onward.items():
            self._actions += [events.HandOver(peer, frame) for frame in activation_frames(items)]
        for peer, parts in around.items():
            message = next_tokens(parts)
            if peer == self._me:
                self._next_tokens(peer, message)
            else:
                self._actions.append(events.HandOver(peer, encode(message)))

    def _book(self, output: StepOutput) -> StageSession | None:
        """Count what the engine did; None when its session is gone, or has failed through it."""
        session = self.table.get(output.sequence.session)
        if session is None or session.sequence is not output.sequence:
            return None
        work = output.input
        if work is not None and output.complete:
            self.credit.end(session, work, ok=output.error is None)
        session.tokens += output.count
        if output.error is None:
            session.ran = max(session.ran, output.start + output.count)
        session.busy_seconds += output.seconds
        if output.error is not None:
            code = failure_code(output.error)
            blamed = session.previous if code == "bad_input" else None
            self._fail(session, code, str(output.error), blamed=blamed)
            return None
        if work is not None and output.complete and work is session.chunk:
            session.chunk, session.last_active = None, self._now
            self._feed(session)
        return session

    # Endings.

    def _lapse(self, session: StageSession, reason: str) -> None:
        """End a session because nothing happens in it."""
        self.table.lapse(session, self._now)
        self._fail(session, "idle", reason)

    def _fail(self, session: StageSession, code: str, reason: str, *, blamed: PeerId | None = None) -> None:
        """Tell the client that its session ends here and why, and free what it held."""
        logger.info("session %s failed (%s): %s", session.id.hex()[:8], code, reason)
        self._tell(session.owner, SessionFailed(session.id, code, reason[:MAX_REASON], blamed))
        self._free(session)

    def _free(self, session: StageSession, received: int | None = None) -> None:
        """Give back what a session held; `received` is how far its client says it got."""
        self._engine.free(session.sequence)
        self.credit.close(session, received)
        self.table.close(session.id, session.client)
        for work in session.running:
            work.cancelled = True
        session.running.clear()
        session.unpaid.clear()

    def _tell(self, owner: SessionOwner, message: Message) -> None:
        self._actions.append(events.Tell(owner, message))
