"""The stage core by itself: three of them and their engines, no network, no threads, events in any order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
import torch
from msgspec.structs import replace as change

from mesh.errors import BadTensor, ProtocolViolation
from mesh.provider.stage import events
from mesh.provider.stage.admission import AdmissionLimits, SessionTable, StageFacts
from mesh.provider.stage.core import StageCore
from mesh.provider.stage.credit import StageCredit
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

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(120)

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

    def __init__(self, models: list[StageModel], seed: int, *, pages: int, clients: int, drafts: int = 0) -> None:
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
                StageCredit(None),
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
            closing = CloseSession(client.session, len(client.prompt) + len(client.generated))
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


@pytest.fixture(scope="module")
def models(folder: Path) -> list[StageModel]:
    checkpoint = Checkpoint.open(folder)
    return [load_stage(checkpoint, span) for span in SPANS]


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[tuple[int, ...], list[int]]:
    return {}


def greedy(folder: Path, prompt: list[int], known: dict[tuple[int, ...], list[int]]) -> list[int]:
    if tuple(prompt) not in known:
        model = reference(folder)
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(ANSWER):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        known[tuple(prompt)] = ids[len(prompt) :]
    return known[tuple(prompt)]


@pytest.mark.parametrize("drafts", [0, 5])
@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_in_whatever_order_the_tokens_are_the_same_and_nothing_is_left(
    models: list[StageModel], folder: Path, expected: dict[tuple[int, ...], list[int]], seed: int, drafts: int
) -> None:
    tight = seed % 2 == 1
    swarm = Swarm(models, seed, pages=10 if tight else 64, clients=5, drafts=drafts)
    swarm.texts = {tuple(client.prompt): greedy(folder, client.prompt, expected) for client in swarm.clients}
    swarm.run(faults=0 if seed < 4 else 6)
    for client in swarm.clients:
        assert client.generated == greedy(folder, client.prompt, expected)
        assert seed >= 4 or tight or client.attempts == 1
    assert 0 < swarm.right < swarm.guessed if drafts else not swarm.guessed
    for peer, engine in swarm.engines.items():
        assert len(swarm.cores[peer].table) == 0
        assert engine.free_pages == engine.blocks.pages
        assert not swarm.cores[peer].congested


def test_a_frame_that_is_not_sound_changes_nothing(models: list[StageModel]) -> None:
    swarm = Swarm(models, 1, pages=64, clients=2)
    for client in swarm.clients:
        swarm.begin(client)
    for _ in range(40):
        swarm.step()
    core = swarm.cores["middle"]
    sessions = [(session.id, session.expected, session.running_tokens) for session in core.table]
    assert sessions
    session = sessions[0][0]
    for event in (
        events.Arrived("first", Activations(((session, 0, 3),)), b"\0" * 11),
        events.Arrived("first", Activations(((session, 0, 0),)), b""),
        events.Arrived("first", NextTokens(((session, 0, 1 << 20),))),
    ):
        with pytest.raises((BadTensor, ProtocolViolation)):
            core.handle(event, 1.0)
    assert [(each.id, each.expected, each.running_tokens) for each in core.table] == sessions


def test_what_comes_from_a_stranger_is_a_stray_and_reaches_no_session(models: list[StageModel]) -> None:
    swarm = Swarm(models, 2, pages=64, clients=1)
    (client,) = swarm.clients
    swarm.begin(client)
    for hop in PEERS:
        swarm.handle(hop, swarm.lines[client.peer, hop].popleft())
    row = torch.zeros(1, 48).numpy().tobytes()
    actions = swarm.cores["middle"].handle(events.Arrived("last", Activations(((client.session, 0, 1),)), row), 1.0)
    assert actions == [events.Stray("last")]
    (session,) = swarm.cores["middle"].table
    assert session.expected == 0 and not session.running


def test_a_stage_that_is_not_the_whole_route_does_not_hand_over_to_itself(models: list[StageModel]) -> None:
    swarm = Swarm(models, 3, pages=64, clients=1)
    (client,) = swarm.clients
    swarm.begin(client)
    asked = swarm.lines[client.peer, "middle"][0]
    assert isinstance(asked, events.Asked) and isinstance(asked.message, OpenSession)
    looped = events.Asked(asked.owner, change(asked.message, following="middle"))
    (told,) = swarm.cores["middle"].handle(looped, 1.0)
    assert isinstance(told, events.Tell) and isinstance(told.message, SessionRefused)
    assert told.message.code == "bad_request"
    assert len(swarm.cores["middle"].table) == 0


@pytest.mark.parametrize("seed", range(3))
def test_guesses_save_trips_and_the_client_pays_for_none_that_was_wrong(
    models: list[StageModel], folder: Path, expected: dict[tuple[int, ...], list[int]], seed: int
) -> None:
    swarm = Swarm(models, seed, pages=64, clients=1, drafts=8)
    (client,) = swarm.clients
    swarm.texts = {tuple(client.prompt): greedy(folder, client.prompt, expected)}
    swarm.run(faults=0)
    assert client.generated == greedy(folder, client.prompt, expected)
    assert swarm.right > 2


class Hop:
    """A session at one hop, whose neighbours and client the test plays."""

    def __init__(self, models: list[StageModel], hop: str, *, drafts: int = 5, limit: int = 52) -> None:
        self.swarm = Swarm(models, 4, pages=64, clients=1, drafts=drafts)
        (client,) = self.swarm.clients
        client.prompt = list(range(20))
        self.hop, self.client = hop, client
        self.core = self.swarm.cores[hop]
        self.swarm.begin(client)
        asked = self.swarm.lines[client.peer, hop].popleft()
        assert isinstance(asked, events.Asked) and isinstance(asked.message, OpenSession)
        opening = change(asked.message, capacity=52, limit=limit)
        self.core.handle(events.Asked(asked.owner, opening, asked.payload), 0.0)
        self.owner = asked.owner
        (self.session,) = self.core.table

    def prompt(self) -> list[events.Action]:
        prompt = Prompt(self.client.session)
        return self.core.handle(events.Asked(self.owner, prompt, token_payload(self.client.prompt)), 0.0)

    def hidden(self, start: int, count: int) -> list[events.Action]:
        rows = torch.randn(count, 48, generator=torch.Generator().manual_seed(start)).numpy().tobytes()
        message = Activations(((self.client.session, start, count),))
        return self.core.handle(events.Arrived(self.session.previous, message, rows), 0.0)

    def next(self, position: int, *tokens: int) -> list[events.Action]:
        message = NextTokens(((self.client.session, position, tokens[0]),), (tokens[1:],))
        return self.core.handle(events.Arrived("last", message), 0.0)

    def compute(self) -> list[events.Action]:
        engine, done = self.swarm.engines[self.hop], []
        while engine.has_work:
            with torch.inference_mode():
                done += self.core.handle(events.Computed(engine.step()), 0.0)
        return done


def failures(actions: Sequence[events.Action]) -> list[str]:
    told = [action.message for action in actions if isinstance(action, events.Tell)]
    return [message.reason for message in told if isinstance(message, SessionFailed) and message.blamed]


@pytest.mark.parametrize("hop", ["middle", "last"])
def test_more_guesses_than_a_trip_may_check_fail_the_session_through_who_sent_them(
    models: list[StageModel], hop: str
) -> None:
    each = Hop(models, hop)
    each.hidden(0, 20)
    each.compute()
    (reason,) = failures(each.hidden(20, 7))
    assert "7 tokens from position 20 came at once" in reason
    assert len(each.core.table) == 0


def test_guesses_that_come_with_the_end_of_the_prompt_fail_the_session(models: list[StageModel]) -> None:
    each = Hop(models, "middle")
    each.hidden(0, 16)
    assert failures(each.hidden(16, 5))


def test_the_last_hop_takes_no_more_rows_than_it_has_guessed_and_fewer_are_fine(models: list[StageModel]) -> None:
    for rows in range(1, 8):
        each = Hop(models, "last")
        each.hidden(0, 20)
        (around,) = [action for action in each.compute() if isinstance(action, events.HandOver)]
        message = decode(around.frame)
        assert isinstance(message, NextTokens) and message.parts[0][1] == 20
        guessed = len(message.drafts[0]) if message.drafts else 0
        failed = failures(each.hidden(20, rows))
        assert bool(failed) == (rows > 1 + guessed)
        told = [action.message for action in each.compute() if isinstance(action, events.Tell)]
        for message in told:
            if isinstance(message, NewTokens):
                assert message.drafted == rows - 1 and message.position == 21


def test_guesses_outside_the_vocabulary_break_the_frame_and_change_nothing(models: list[StageModel]) -> None:
    each = Hop(models, "first")
    each.prompt()
    each.compute()
    with pytest.raises(BadTensor, match="outside the vocabulary"):
        each.next(20, 7, 300)
    assert not each.session.running and each.session.expected == 20


def test_no_guess_runs_beyond_what_the_client_lets_run(models: list[StageModel]) -> None:
    each = Hop(models, "first", limit=23)
    each.prompt()
    each.compute()
    each.next(20, 7, 8, 9, 10, 11)
    assert each.session.expected == 23
    each.compute()
    each.next(23, 12, 13, 14)
    assert each.session.expected == 23 and each.session.parked == (23, (12, 13, 14))
    each.core.handle(events.Asked(each.owner, ExtendSession(each.client.session, 25)), 0.0)
    assert each.session.expected == 25 and each.session.parked is None


def test_a_session_that_wants_no_guesses_gets_none_and_refuses_them(models: list[StageModel]) -> None:
    each = Hop(models, "first", drafts=0)
    each.prompt()
    each.compute()
    assert failures(each.next(20, 7, 8))
