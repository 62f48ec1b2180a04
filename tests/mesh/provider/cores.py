"""Three stage cores and their engines, without network or threads, and lines between them that chance delays."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from mesh.provider.stage import events
from mesh.provider.stage.admission import AdmissionLimits, SessionTable, StageFacts
from mesh.provider.stage.core import StageCore
from mesh.provider.stage.credit import StageCredit
from mesh.provider.stage.ports import Collector
from mesh.wire.messages import (
    Activations,
    CloseSession,
    ExtendSession,
    Message,
    NewToken,
    NewTokens,
    NextTokens,
    OpenSession,
    Prompt,
    SessionFailed,
    SessionOpened,
    SessionRefused,
    decode,
)
from mesh.wire.sampling import to_wire
from mesh.wire.tokens import token_payload
from shards.checkpoint.folder import Checkpoint
from shards.engine.core import EngineCore
from shards.engine.sampling_params import SamplingParams
from shards.engine.scheduler import BatchLimits
from shards.engine.step import StepInput
from shards.errors import CapacityExceeded
from shards.model.loading import load_stage
from shards.model.span import Span
from shards.model.stage import StageModel
from tests.mesh.provider.guesses import KnownGuesses
from tests.shards.models import reference

SPANS = (Span(0, 2), Span(2, 3), Span(3, 5))
PEERS = ("first", "middle", "last")
FIXED, BIAS = to_wire(SamplingParams())
ANSWER = 12


class CoreEngine(EngineCore):
    """An engine whose passes the test runs. Its queue takes `room` inputs."""

    room = 6

    @property
    def free_pages(self) -> int:
        return self.blocks.available

    def submit(self, inputs: Iterable[StepInput]) -> None:
        given = list(inputs)
        if self.queued and self.queued + len(given) > self.room:
            raise CapacityExceeded("full")
        self.feed(given)


@dataclass(eq=False)
class Client:
    """Holds one conversation at a time, and begins it again where it ended when a hop gives it up."""

    peer: str
    prompt: list[int]
    generated: list[int] = field(default_factory=list)
    session: bytes = b""
    opened: set[str] = field(default_factory=set)
    attempts: int = 0
    done: bool = False


@dataclass(eq=False)
class Control:
    """A client's control channel at one hop."""

    client: Client
    hop: str

    @property
    def peer(self) -> str:
        return self.client.peer

    def tell(self, message: Message, payload: bytes = b"") -> None:
        raise AssertionError("a core tells nobody by itself")


class Swarm:
    """Three hops, and lines between them on which frames stay in order but wait as long as chance wants."""

    def __init__(
        self,
        models: list[StageModel],
        seed: int,
        *,
        pages: int,
        clients: int,
        drafts: int = 0,
        collectors: Mapping[str, Collector] | None = None,
    ) -> None:
        self.drafts = drafts
        self.texts: dict[tuple[int, ...], list[int]] = {}
        """By prompt, what the last hop takes for the answer and guesses from."""
        self.chance = Random(seed)
        self.now = 0.0
        stages = dict(zip(PEERS, models, strict=True))
        self.engines = {peer: CoreEngine(model, pages, BatchLimits()) for peer, model in stages.items()}
        self.cores: dict[str, StageCore] = {}
        for peer, model in stages.items():
            facts = StageFacts("d" * 64, model.span, 5, model.spec.vocab_size, 512, "float32", model.page_bytes)
            table = SessionTable(facts, AdmissionLimits(kv_bytes=pages * model.page_bytes))
            self.cores[peer] = StageCore(
                table,
                self.engines[peer],
                StageCredit(None if collectors is None else collectors[peer]),
                me=peer,
                spec=model.spec,
                numerics=model.numerics,
                prefill_chunk=7,
                guessing=KnownGuesses(self.text_after, Random(seed), 300),
            )
        self.lines: dict[tuple[str, str], deque[events.Event]] = {}
        self.told: deque[tuple[Control, Message]] = deque()
        self.clients = [
            Client(f"client {number}", [self.chance.randrange(300) for _ in range(self.chance.randrange(1, 40))])
            for number in range(clients)
        ]
        self.controls = {(client.peer, hop): Control(client, hop) for client in self.clients for hop in PEERS}
        self.faults = self.guessed = self.right = 0

    def handle(self, hop: str, event: events.Event) -> None:
        core = self.cores[hop]
        for action in core.handle(event, self.now):
            match action:
                case events.Tell(owner=Control() as control, message=message):
                    self.told.append((control, message))
                case events.HandOver(peer=peer, frame=frame):
                    message = decode(frame)
                    assert isinstance(message, Activations | NextTokens)
                    self.line(hop, peer).append(events.Arrived(hop, message, bytes(frame.payload)))
        held = sum(session.pages for session in core.table)
        assert core.table.pages_used == held
        assert all(not work.cancelled for session in core.table for work in session.running)

    def text_after(self, fed: Sequence[int]) -> Sequence[int]:
        for prompt, answer in self.texts.items():
            text = [*prompt, *answer]
            if len(fed) >= len(prompt) and text[: len(fed)] == list(fed):
                return text[len(fed) :]
        return ()

    def line(self, sender: str, receiver: str) -> deque[events.Event]:
        return self.lines.setdefault((sender, receiver), deque())

    # The clients.

    def begin(self, client: Client) -> None:
        client.attempts += 1
        client.session = self.chance.randbytes(16)
        client.opened.clear()
        fed = client.prompt + client.generated
        for number, (hop, span) in enumerate(zip(PEERS, SPANS, strict=True)):
            opening = OpenSession(
                client.session,
                "d" * 64,
                span.start,
                span.end,
                PEERS[number - 1],
                PEERS[(number + 1) % 3],
                len(client.prompt),
                len(fed),
                len(client.prompt) + ANSWER,
                len(fed) + 4,
                (),
                False,
                "float32",
                FIXED,
                BIAS,
                drafts=self.drafts,
            )
            payload = token_payload(fed) if hop == "last" and (client.generated or self.drafts) else b""
            self.line(client.peer, hop).append(events.Asked(self.controls[client.peer, hop], opening, payload))

    def end(self, client: Client) -> None:
        for hop in PEERS:
            closing = CloseSession(client.session, len(client.prompt) + max(0, len(client.generated) - 1))
            self.line(client.peer, hop).append(events.Asked(self.controls[client.peer, hop], closing))

    def hear(self, control: Control, message: Message) -> None:
        client = control.client
        if client.done or getattr(message, "session", None) != client.session:
            return
        match message:
            case SessionOpened():
                client.opened.add(control.hop)
                if len(client.opened) == 3:
                    ids = client.prompt + client.generated
                    asked = events.Asked(
                        self.controls[client.peer, "first"], Prompt(client.session), token_payload(ids)
                    )
                    self.line(client.peer, "first").append(asked)
            case NewTokens():
                self.guessed += message.drafted
                self.right += len(message.tokens) - 1
                for single in message.singles():
                    self.hear(control, single)
            case NewToken(position=position, token=token, finish=finish):
                assert position == len(client.prompt) + len(client.generated), "tokens come in order, each once"
                client.generated.append(token)
                self.ask_first(client, ExtendSession(client.session, position + 4))
                if finish is not None:
                    client.done = True
                    self.end(client)
            case SessionFailed() | SessionRefused():
                self.end(client)
                self.begin(client)

    def ask_first(self, client: Client, message: Prompt | ExtendSession, payload: bytes = b"") -> None:
        self.line(client.peer, "first").append(events.Asked(self.controls[client.peer, "first"], message, payload))

    # Chance.

    def choices(self) -> Iterator[tuple[str, str]]:
        yield from (line for line, waiting in self.lines.items() if waiting)
        yield from ((peer, "") for peer, engine in self.engines.items() if engine.has_work)
        if self.told:
            yield ("", "")

    def step(self) -> bool:
        options = list(self.choices())
        if not options:
            return False
        self.now += 0.001
        sender, receiver = self.chance.choice(options)
        if not sender:
            self.hear(*self.told.popleft())
        elif not receiver:
            engine = self.engines[sender]
            with torch.inference_mode():
                chosen = engine.plan()
                outputs = engine.book(chosen, engine.compute(chosen))
            self.handle(sender, events.Computed(outputs))
        else:
            self.handle(receiver, self.lines[sender, receiver].popleft())
        return True

    def fault(self) -> None:
        """Something breaks; what was on its way is lost with it."""
        self.faults += 1
        kind, hop = self.chance.randrange(3), self.chance.choice(PEERS)
        if kind == 0:
            other = PEERS[(PEERS.index(hop) + 1) % 3]
            for one, another in ((hop, other), (other, hop)):
                self.line(one, another).clear()
                self.handle(another, events.PeerLost(one, "the line broke"))
        elif kind == 1:
            self.handle(hop, events.StageEnded("it leaves"))
        else:
            client = self.chance.choice(self.clients)
            if not client.done:
                self.line(client.peer, hop).clear()
                self.handle(hop, events.OwnerGone(self.controls[client.peer, hop]))
                self.end(client)
                self.begin(client)

    def run(self, faults: int) -> None:
        for client in self.clients:
            self.begin(client)
        for number in range(200_000):
            if not self.step():
                break
            if self.faults < faults and number and number % 60 == 0:
                self.fault()
            if number % 500 == 0:
                full = self.chance.choice(PEERS)
                self.handle("first", events.LinkFilled(full))
                self.handle("first", events.LinkCleared(full))
        assert all(client.done for client in self.clients), [client.attempts for client in self.clients]


def load_models(folder: Path) -> list[StageModel]:
    """The stages of the ring."""
    checkpoint = Checkpoint.open(folder)
    return [load_stage(checkpoint, span) for span in SPANS]


def greedy(folder: Path, prompt: list[int], known: dict[tuple[int, ...], list[int]]) -> list[int]:
    """What transformers says; `known` keeps it."""
    if tuple(prompt) not in known:
        model = reference(folder)
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(ANSWER):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        known[tuple(prompt)] = ids[len(prompt) :]
    return known[tuple(prompt)]
