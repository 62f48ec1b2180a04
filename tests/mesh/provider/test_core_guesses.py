"""Guesses at one hop of a ring: what an honest neighbour may send, and what a hostile one gets for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace as change

from mesh.errors import BadTensor
from mesh.payment.credit.binding import Binding
from mesh.payment.credit.customers import Bill, Customer
from mesh.payment.credit.line import CreditLine, Pair
from mesh.payment.credit.terms import CreditTerms
from mesh.payment.credit.units import SessionMeter, weighted_tokens
from mesh.provider.stage import events
from mesh.provider.stage.ports import Collector
from mesh.wire.messages import (
    Activations,
    CloseSession,
    ExtendSession,
    NewTokens,
    NextTokens,
    OpenSession,
    Prompt,
    SessionFailed,
    decode,
)
from mesh.wire.tokens import token_payload
from shards.model.stage import StageModel
from tests.mesh.provider.cores import PEERS, SPANS, Swarm, greedy, load_models

torch.set_num_threads(1)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def models(folder: Path) -> list[StageModel]:
    return load_models(folder)


class Hop:
    """A session at one hop, whose neighbours and client the test plays."""

    def __init__(
        self,
        models: list[StageModel],
        hop: str,
        *,
        drafts: int = 5,
        limit: int = 52,
        collectors: Mapping[str, Collector] | None = None,
    ) -> None:
        self.swarm = Swarm(models, 4, pages=64, clients=1, drafts=drafts, collectors=collectors)
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


class Books:
    """A provider's books with one customer, who never pays and has a large credit."""

    terms = CreditTerms(1 << 20)

    def __init__(self, peer: str) -> None:
        binding = Binding("gateway", "g", 1, "0x" + "00" * 20, "0x" + "00" * 20, "g", 1 << 40)
        line = CreditLine(Pair("g", peer, "model"), 1 << 40)
        self.gateway = Customer("g", binding, line, lambda message: None)

    def customer(self, peer: str) -> Customer:
        return self.gateway

    def open(self, customer: Customer, prompt: int, fed: int, blocks: int) -> Bill:
        return Bill(customer, SessionMeter(prompt, fed), blocks)

    def finish(self, bill: Bill, begun: int, done: int) -> None:
        bill.customer.line.finish(begun, done)

    def wait(self, customer: Customer) -> None:
        raise AssertionError("there is credit for all")


@pytest.mark.parametrize("drafts", [0, 4, 15])
def test_hops_count_what_their_client_counts_however_many_guesses_were_right(
    models: list[StageModel], folder: Path, drafts: int
) -> None:
    books = {peer: Books(peer) for peer in PEERS}
    swarm = Swarm(models, 7, pages=64, clients=4, drafts=drafts, collectors=books)
    swarm.texts = {tuple(client.prompt): greedy(folder, client.prompt, {}) for client in swarm.clients}
    swarm.run(faults=0)
    assert bool(swarm.right) == bool(drafts)
    tokens = sum(weighted_tokens(len(client.prompt), len(client.generated)) for client in swarm.clients)
    for peer, span in zip(PEERS, SPANS, strict=True):
        line = books[peer].gateway.line
        assert (line.open, line.running, line.excused) == (tokens * len(span), 0, 0)


def test_guesses_are_counted_when_the_client_has_their_tokens_and_wrong_ones_never(models: list[StageModel]) -> None:
    for received, counted in ((20, 21), (21, 21), (23, 23), (24, 24), (99, 25)):
        books = {peer: Books(peer) for peer in PEERS}
        each = Hop(models, "middle", collectors=books)
        line = books["middle"].gateway.line
        each.hidden(0, 20)
        each.compute()
        each.hidden(20, 5)
        each.compute()
        assert line.open == weighted_tokens(20, 2)
        each.core.handle(events.Asked(each.owner, CloseSession(each.client.session, received)), 0.0)
        assert line.open == weighted_tokens(20, counted - 19)
