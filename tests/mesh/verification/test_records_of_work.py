"""Records of work: roots that neighbours share in whatever parts they run, bounds, and what a client makes of them."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from mesh.identity import Identity
from mesh.swarm.route import Hop
from mesh.verification.commitments import Place, begin_chain, extend_chain, token_rows
from mesh.verification.evidence import CAP, CONVICTED, SUSPECT, Evidence, e_value, likelihood_ratio
from mesh.verification.judge import Distance
from mesh.verification.ledger import Retention, WorkLedger
from mesh.verification.proof import SessionProof
from mesh.wire.messages import encode
from mesh.wire.work import Work
from shards.model.span import Span

ID = bytes(range(16))
DIGEST = "ab" * 32
SPANS = (Span(0, 2), Span(2, 4), Span(4, 5))
FED, ANSWER = tuple(range(50, 120)), tuple(range(200, 241))
TOKENS = FED + ANSWER
LENGTH = len(TOKENS) - 1
"""Positions that run: all but the last token's."""


def row(link: int, position: int) -> bytes:
    """What is on a link at a position: tokens before the first hop and after the last one."""
    if link == 0:
        return token_rows([TOKENS[position]])[0]
    if link == len(SPANS):
        return token_rows([TOKENS[position + 1]])[0] if position + 1 >= len(FED) else b""
    return bytes([link]) * 8 + position.to_bytes(4, "big")


class Hops:
    """Three honest hops and what their client hears; each runs the same positions in parts of its own."""

    def __init__(self, seed: int) -> None:
        self.identities = [Identity.generate() for _ in SPANS]
        self.hops = [Hop(each.peer_id, span) for each, span in zip(self.identities, SPANS, strict=True)]
        self.ledgers = [WorkLedger(each, bytes(32)) for each in self.identities]
        self.proof = SessionProof(ID, DIGEST, self.hops, 200)
        self.rng = random.Random(seed)

    def run(self, change: Any = lambda number, rows: rows) -> SessionProof:
        """All of the session; `change` is what a hop writes down of what it gave."""
        for number, (hop, ledger) in enumerate(zip(self.hops, self.ledgers, strict=True)):
            at = 0
            while at < LENGTH:
                prompt = at < len(FED)
                most = min(LENGTH - at, len(FED) - at if prompt else 5)
                count = self.rng.randint(1, most) if prompt else 1 + self.rng.randrange(most)
                kept = count if prompt else self.rng.randint(1, count)
                ins = [row(number, p) if p < at + kept else b"guess" for p in range(at, at + count)]
                outs = [row(number + 1, p) if p < at + kept else b"wrong" for p in range(at, at + count)]
                place = Place(DIGEST, hop.span)
                made = ledger.ran(ID, "client", place, at, ins, change(number, outs), alone=count == 1)
                for work in (*made, *(ledger.close(ID, LENGTH) if at + kept == LENGTH else ())):
                    self.proof.hear(hop.peer, work)
                at += kept
        return self.proof


@pytest.mark.parametrize("seed", range(20))
def test_the_links_of_an_honest_session_hold_in_whatever_parts_its_hops_ran_it(seed: int) -> None:
    hops = Hops(seed)
    proof = hops.run()
    assert proof.whole and proof.broken(FED, ANSWER) == []
    for number, hop in enumerate(hops.hops):
        records = proof.records[hop.peer]
        assert sum(part >> 1 for work in records for part in work.schedule) == LENGTH == records[-1].end
        rows = hops.ledgers[number].kept.rows(ID, "client", "in", LENGTH, 1 << 20)
        assert rows == [row(number, p) for p in range(LENGTH)], "no guess that was wrong is left in it"
        assert extend_chain(begin_chain(ID, 0), rows) == records[-1].in_root


@pytest.mark.parametrize("number", range(3))
def test_a_hop_that_gives_other_rows_breaks_its_link_and_no_other(number: int) -> None:
    hops = Hops(number)

    def change(which: int, rows: list[bytes]) -> list[bytes]:
        return [b"else" if each else each for each in rows] if which == number else rows

    (link,) = hops.run(change).broken(FED, ANSWER)
    assert set(link.peers) == {hop.peer for hop in hops.hops[number : number + 2]}


def test_a_record_that_is_not_signed_or_not_in_order_convicts_its_hop_alone() -> None:
    hops = Hops(3)
    proof = hops.run()
    peer = hops.hops[1].peer
    records = proof.records[peer]
    for wrong in (
        [msgspec.structs.replace(records[0], signature=bytes(64)), *records[1:]],
        [*records[:-1], msgspec.structs.replace(records[-1], signature=bytes(64))],
        records[1:],
        [msgspec.structs.replace(records[0], schedule=(2,)), *records[1:]],
    ):
        proof.records[peer] = wrong
        (link,) = proof.broken(FED, ANSWER)
        assert link.peers == (peer,)


def test_a_token_costs_less_than_sixty_bytes_of_records_over_three_hops() -> None:
    hops = Hops(1)
    place = Place(DIGEST, SPANS[1])
    sent: list[Work] = []
    for at in range(513):
        sent += hops.ledgers[1].ran(ID, "client", place, at, [row(1, 0)], [row(2, 0)], alone=True)
    assert len(sent) == 16
    size = sum(len(encode(work).header) + 12 for work in sent) / 512
    assert 3 * size < 60, f"{3 * size:.1f} bytes a token"


def test_committed_positions_that_come_again_end_the_records_of_the_session() -> None:
    ledger = Hops(1).ledgers[1]
    place = Place(DIGEST, SPANS[1])
    rows = [b"r"] * 64
    assert ledger.ran(ID, "c", place, 0, rows, rows, alone=False) == []
    assert len(ledger.ran(ID, "c", place, 64, rows[:1], rows[:1], alone=True)) == 1
    assert ledger.ran(ID, "c", place, 60, rows, rows, alone=False) == []
    assert ledger.close(ID, 100) == [] and len(ledger) == 0


def test_rows_are_kept_for_their_client_within_the_bound_and_the_oldest_go_first() -> None:
    kept = Retention(100_000)
    for number in range(60):
        session = number.to_bytes(16, "big")
        for begin in (0, 10):
            kept.keep(session, "ann", begin, [bytes(200)] * 10, [bytes(100)] * 10)
            assert kept.size <= 100_000
    there = [isinstance(kept.rows(n.to_bytes(16, "big"), "ann", "in", 20, 1 << 20), list) for n in range(60)]
    assert there == sorted(there) and 0 < sum(there) < 60
    last = (59).to_bytes(16, "big")
    assert isinstance(kept.rows(last, "bob", "in", 20, 1 << 20), str)
    assert isinstance(kept.rows(last, "ann", "in", 21, 1 << 20), str)
    assert isinstance(kept.rows(last, "ann", "in", 20, 1000), str), "more bytes than one answer has"


def test_honest_audits_never_add_up_to_suspicion_and_a_few_of_a_cheat_convict_it() -> None:
    evidence, rng = Evidence(), random.Random(5)
    for dtype, median in (("float32", 4e-7), ("bfloat16", 1e-2)):
        for number in range(5000):
            x = median * rng.lognormvariate(0, 0.2)
            found = Distance(x, 2 * x, 0, exact=False)
            ratio = likelihood_ratio(found, dtype, same=False)
            assert evidence.weigh(dtype, ratio, "", float(number)).evidence < SUSPECT
    assert not evidence.factors(0.0)
    cheat = likelihood_ratio(Distance(1e-3, 2e-3, 0, exact=False), "float32", same=False)
    assert e_value(cheat) == pytest.approx(e_value(CAP))
    audits = 0
    while evidence.weigh("cheat", cheat, "noise", 0.0).evidence < CONVICTED:
        audits += 1
    assert audits < 5 and set(evidence.factors(1.0)) == {"cheat"} and not evidence.factors(1e5)


def test_of_two_neighbours_whose_records_differ_neither_is_routed_around() -> None:
    evidence = Evidence()
    for _ in range(100):
        evidence.link(("ann", "bob"), "they differ", 0.0)
    assert not evidence.factors(0.0) and evidence.known()["ann"].broken == 100
    evidence.link(("ann",), "it contradicts itself", 0.0)
    assert set(evidence.factors(0.0)) == {"ann"}
