"""One audit: fetch what a hop got and gave in a session of ours, have its blocks run again, and compare."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from msgspec import structs

from mesh.client.session_plan import SessionPlan
from mesh.errors import PeerError, PeerFailed, ProtocolViolation
from mesh.swarm.route import Hop
from mesh.transport.port import Transport
from mesh.transport.question import ask
from mesh.verification.commitments import begin_chain, extend_chain, split_rows, token_rows
from mesh.verification.evidence import CAP, likelihood_ratio
from mesh.verification.judge import MARGINS, SAME_MARGIN, Distance, as_floats, distance, outcome
from mesh.verification.proof import SessionProof, agree_on
from mesh.wire.audit import (
    AUDIT_PROTOCOL,
    MAX_REPLAYED,
    AskProfile,
    FetchWork,
    Message,
    ProfileSaid,
    Replay,
    Replayed,
    WorkData,
    decode,
    encode,
)
from mesh.wire.sampling import to_wire
from mesh.wire.tokens import token_payload

ANSWER_SECONDS: Final = 60.0
FEWER: Final = 256
"""Positions that are asked for where the rows of more are too many bytes."""
MOST_DRAWS: Final = 2
"""Draws that may be other ones on other kernels, where a random number falls between two tokens."""


class Replayer(Protocol):
    """Runs blocks again."""

    name: str
    most: int
    """Positions that it runs again at most."""
    completes: bool
    """Whether it runs all blocks, so that it can make up for rows that a hop had from an earlier session."""

    async def replay(self, question: Replay, payload: bytes) -> tuple[Replayed, bytes]:
        """The answer to a question. Raises `PeerError`."""


@dataclass(frozen=True, slots=True)
class Exhibit:
    """What a hop committed itself to, as far as one audit looks at it: its positions from `begin` on.

    `question` is about all positions, `tokens` are those and the one after; of the positions below `begin` nobody has
    rows.
    """

    hop: Hop
    question: Replay
    begin: int
    tokens: Sequence[int]
    ins: bytes
    """Rows that came; none at the first blocks, which got tokens."""
    outs: bytes
    """Rows that went; none at the last blocks, which gave tokens."""

    @property
    def is_last(self) -> bool:
        return not self.outs


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit of a hop has found. `ratio` is p1 ÷ p0 of it, None where it says nothing."""

    hop: Hop
    positions: int
    outcome: str
    auditor: str = ""
    ratio: float | None = None
    found: Distance | None = None
    wrong_tokens: int = 0

    @property
    def text(self) -> str:
        """In words."""
        where = f"blocks {self.hop.span} of {self.hop.peer}, {self.positions} positions"
        if self.found is not None:
            far = f"dRel median {self.found.median:.2e}, largest {self.found.largest:.2e} at {self.found.at}"
            return f"{where}: {self.outcome} ({far})"
        return f"{where}: {self.outcome}" + (f" ({self.wrong_tokens} other tokens)" if self.wrong_tokens else "")


async def exhibit(
    transport: Transport,
    proof: SessionProof,
    hop: Hop,
    plan: SessionPlan,
    answer: Sequence[int],
    n_blocks: int,
    *,
    most: int = MAX_REPLAYED,
    completes: bool = False,
) -> Exhibit | Verdict:
    """What there is to look at, of at most `most` positions; or a verdict already, where the hop shows other rows than
    those it signed, or none."""
    records = proof.records.get(hop.peer, ())
    if not records:
        return Verdict(hop, 0, "withheld: there are no records")
    begin = records[0].begin
    if begin and not completes:
        return Verdict(hop, 0, "not auditable: there are no records from the first position on")
    is_first, is_last = hop.span.start == 0, hop.span.end == n_blocks
    for limit in (most, min(most, begin + FEWER)):
        work = agree_on(proof.records, hop.peer, limit)
        if work is None:
            return Verdict(hop, 0, "not auditable: its records are of too many positions")
        tokens = [*plan.fed, *answer][: work.end + 1]
        if len(tokens) <= work.end:
            return Verdict(hop, 0, "not auditable: it speaks of positions that we do not know")
        count = work.end - begin
        try:
            ins = b"" if is_first else await _rows(transport, hop.peer, proof.session, "in", work.end)
            outs = b"" if is_last else await _rows(transport, hop.peer, proof.session, "out", work.end)
        except PeerError as error:
            if limit == most and count > FEWER:
                continue
            return Verdict(hop, count, f"withheld: {error}")
        root = begin_chain(proof.session, begin)
        try:
            honest = (is_first or extend_chain(root, split_rows(ins, count)) == work.in_root) and (
                is_last or extend_chain(root, split_rows(outs, count)) == work.out_root
            )
        except ValueError:
            honest = False
        if not honest:
            return Verdict(hop, count, "differs: it shows other rows than it has signed", ratio=CAP)
        sampling, bias = to_wire(plan.sampling)
        question = Replay(
            plan.digest,
            hop.span.start,
            hop.span.end,
            work.end,
            plan.wire_dtype,
            plan.prompt_tokens,
            len(plan.fed),
            plan.capacity,
            plan.eos,
            sampling,
            bias,
        )
        return Exhibit(hop, question, begin, tokens, ins, outs)
    return Verdict(hop, 0, "withheld")


async def judge(shown: Exhibit, replayer: Replayer, *, same: bool) -> Verdict:
    """What a replay says of it; `same` says that both compute the same bits. Raises `PeerError` where there is none."""
    hop, count, dtype = shown.hop, shown.question.count - shown.begin, shown.question.wire_dtype
    answer, rows = await _asked(replayer, shown.question, await _payload(shown, replayer))
    if shown.is_last:
        sampled = shown.question.sampling[0] > 0
        if same:
            differs = answer.margin > SAME_MARGIN
        elif sampled:
            differs = answer.wrongs > MOST_DRAWS and dtype == "float32"
        else:
            differs = answer.margin > MARGINS[dtype]
        result = "differs" if differs else "exact" if not answer.wrongs else "within"
        ratio = CAP if differs else 0.0
        return Verdict(hop, count, result, replayer.name, ratio, None, answer.wrongs)
    rows = rows[shown.begin * (len(rows) // shown.question.count) :]
    try:
        came = as_floats(shown.ins, count, dtype) if shown.ins else None
        found = await asyncio.to_thread(
            distance, came, as_floats(shown.outs, count, dtype), as_floats(rows, count, dtype)
        )
    except ValueError as error:
        raise ProtocolViolation(f"{replayer.name} sent rows of another shape: {error}") from error
    ratio = likelihood_ratio(found, dtype, same=same)
    return Verdict(hop, count, outcome(found, dtype, same=same), replayer.name, ratio, found)


async def _payload(shown: Exhibit, replayer: Replayer) -> bytes:
    """What the hop's blocks got of all positions: tokens, or rows, of which those before it began are made here."""
    question, tokens = shown.question, shown.tokens
    if question.start == 0:
        came = b"".join(token_rows(tokens[: question.count]))
    else:
        came = shown.ins
        if shown.begin:
            before = structs.replace(question, start=0, end=question.start, count=shown.begin)
            came = (await _asked(replayer, before, b"".join(token_rows(tokens[: shown.begin]))))[1] + came
    return came + (token_payload(tokens) if shown.is_last else b"")


async def _asked(replayer: Replayer, question: Replay, payload: bytes) -> tuple[Replayed, bytes]:
    answer, rows = await replayer.replay(question, payload)
    if answer.error is not None:
        raise PeerFailed(f"{replayer.name} did not run it again: {answer.error}")
    return answer, rows


class Replica:
    """Another provider of the same blocks, asked over the network."""

    most = MAX_REPLAYED
    completes = False

    def __init__(self, transport: Transport, peer: str) -> None:
        self.name = peer
        self._transport = transport

    async def replay(self, question: Replay, payload: bytes) -> tuple[Replayed, bytes]:
        answer, rows = await ask_audits(self._transport, self.name, question, payload)
        if not isinstance(answer, Replayed):
            raise ProtocolViolation("this answers no replay", peer=self.name)
        return answer, rows


async def ask_profile(transport: Transport, peer: str, *, timeout: float = ANSWER_SECONDS) -> ProfileSaid:
    """How a provider computes. Raises `PeerError`."""
    answer, _ = await ask_audits(transport, peer, AskProfile(), timeout=timeout)
    if not isinstance(answer, ProfileSaid):
        raise ProtocolViolation("this is no profile", peer=peer)
    return answer


async def ask_audits(
    transport: Transport, peer: str, question: Message, payload: bytes = b"", *, timeout: float = ANSWER_SECONDS
) -> tuple[Message, bytes]:
    """One question, and its answer. Raises `PeerError`."""
    frame = await ask(transport, peer, AUDIT_PROTOCOL, encode(question, payload), timeout=timeout)
    return decode(frame), bytes(frame.payload)


async def _rows(transport: Transport, peer: str, session: bytes, side: Literal["in", "out"], end: int) -> bytes:
    answer, rows = await ask_audits(transport, peer, FetchWork(session, side, end))
    if not isinstance(answer, WorkData) or answer.error is not None or not rows:
        reason = answer.error if isinstance(answer, WorkData) else "it answered something else"
        raise PeerFailed(f"{peer} does not show its rows: {reason}", peer=peer)
    return rows
