"""The sessions that a hop serves: admission and the order of what may arrive (pure).

Every rule that a stranger could break is here, as a synchronous function of the table, the message and the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mesh.errors import ProtocolViolation
from mesh.provider.stage.session import StageSession
from mesh.wire.messages import MAX_REASON, OpenSession, SessionRefused
from shards.errors import CapacityExceeded
from shards.model.paging import PAGE, pages_for
from shards.model.span import Span

FIRST_GUESS_SECONDS = 1.0
MEAN_WEIGHT = 0.1
LEAST_RETRY = 1.0
MOST_RETRY = 30.0
"""Bounds of what a client that is refused is told to wait (seconds)."""
LAPSE_SECONDS = 60.0
"""In which half of what a client let lapse is forgotten."""
SPARE_PART = 8
MOST_LAPSED = 4096
"""Clients of which that is remembered."""
TURN_TOKENS = 32
"""Beyond those that it is fed, before the oldest session gives way to one of another client."""


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What admission needs to know of the stage."""

    digest: str
    span: Span
    n_blocks: int
    vocab_size: int
    context_length: int
    wire_dtype: str
    page_bytes: int
    """Bytes of a page of `PAGE` tokens; a session over a part of the span takes whole pages too."""

    @property
    def is_whole(self) -> bool:
        """The stage has all of the model."""
        return len(self.span) == self.n_blocks


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What a stage gives to sessions: their number (in all, and per client), bytes of pages, seconds of silence.

    A session takes pages for the tokens it was opened with, and one more whenever what it has is full. A new one is
    taken in where its first pages are free and, beside them, a spare one for each session that there is (though never
    more than `1 / SPARE_PART` of all). Who grows when no page is free takes those of the youngest session, which its
    client opens again.
    """

    sessions: int = 256
    sessions_per_client: int = 128
    kv_bytes: int = 1 << 30
    client_share: float = 0.75
    """Of the pages, what one client's sessions may hold when it opens another; a single session may take them all. What
    a client holds beyond that, since its sessions have grown, others can have."""
    idle_seconds: float = 120.0
    """After which a session in which nothing happens ends …"""
    unfed_seconds: float = 60.0
    """… or one that was opened and never got a token …"""
    unfed_grace: float = 2.0
    """… and after which that one has to go already where somebody else needs its place …"""
    idle_grace: float = 30.0
    """… or one in which nothing happens, of a client that holds more than who needs it."""


class NotAdmitted(Exception):
    """The hop says no: `code` for programs, the message for people, when it may change, what capacity it may have."""

    def __init__(self, code: str, reason: str, retry_after: float = 0.0, most: int = 0) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.most = most


def refusal(session: bytes, error: Exception) -> SessionRefused:
    """What the client of a session hears that is not opened: our own no, or what its opening ran into."""
    if not isinstance(error, NotAdmitted):
        busy = isinstance(error, CapacityExceeded | RuntimeError)
        error = NotAdmitted("busy" if busy else "bad_request", str(error), 1.0 * busy)
    return SessionRefused(session, error.code, error.reason[:MAX_REASON], int(error.retry_after * 1000), error.most)


@dataclass(slots=True)
class SessionTable:
    """All sessions of a stage, by id. A session belongs to the client that opened it; nobody else can touch it."""

    facts: StageFacts
    limits: AdmissionLimits
    pages_used: int = 0
    mean_seconds: float = FIRST_GUESS_SECONDS
    """How long a session lives here, on average."""
    _sessions: dict[bytes, StageSession] = field(default_factory=dict)
    _lapsed: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Per client: unused sessions that lapsed, and when that was counted."""

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[StageSession]:
        return iter(tuple(self._sessions.values()))

    def get(self, session: bytes) -> StageSession | None:
        return self._sessions.get(session)

    @property
    def pages(self) -> int:
        """All that the stage has."""
        return self.limits.kv_bytes // self.facts.page_bytes

    @property
    def pages_free(self) -> int:
        """Pages that no session is counted to hold."""
        return max(0, self.pages - self.pages_used)

    @property
    def spare(self) -> int:
        """Pages that a new session leaves to those that there are."""
        return min(len(self._sessions), self.pages // SPARE_PART)

    def admit(self, request: OpenSession, client: str, now: float, free: int | None = None) -> StageSession:
        """Give the session a place, and pages for its first tokens. `free` are the pages that can be had, where they
        are not all that nobody is counted to hold. Raises `NotAdmitted`."""
        span = self._check_shape(request)
        if request.session in self._sessions:
            raise NotAdmitted("duplicate", "a session of this id is already open here")
        if len(self._sessions) >= self.limits.sessions:
            raise NotAdmitted("busy", f"all {self.limits.sessions} sessions are taken", self.until_room())
        if sum(1 for other in self if other.client == client) >= self.limits.sessions_per_client:
            raise NotAdmitted(
                "quota", f"one client may hold {self.limits.sessions_per_client} sessions", self.until_room()
            )
        pages = pages_for(request.fed_tokens)
        held = self.pages_of(client)
        lapses = self.lapses(client, now)
        share = self.limits.client_share / (1 + lapses)
        if (held or lapses) and share < 1 and held + pages > share * self.pages:
            raise NotAdmitted("quota", f"this client may hold {share:.0%} of the cache", self.until_room())
        free = self.pages_free if free is None else free
        if pages + self.spare > free:
            wait = self.until_room()
            raise NotAdmitted("busy", f"it needs {pages} pages and {self.spare} to spare, {free} are free", wait)
        session = StageSession(
            id=request.session,
            client=client,
            span=span,
            previous=request.previous,
            following=request.following,
            prompt_tokens=request.prompt_tokens,
            fed_tokens=request.fed_tokens,
            capacity=request.capacity,
            limit=min(request.limit, request.capacity),
            is_first=span.start == 0,
            is_last=span.end == self.facts.n_blocks,
            drafts=request.drafts,
            pages=pages,
            last_active=now,
            opened=now,
        )
        self._sessions[session.id] = session
        self.pages_used += pages
        return session

    def pages_of(self, client: str) -> int:
        """Pages that a client's sessions hold."""
        return sum(session.pages for session in self if session.client == client)

    def lapses(self, client: str, now: float) -> float:
        """How many sessions a client lately opened and let lapse unused. Each makes its share of the cache smaller."""
        count, at = self._lapsed.get(client, (0.0, now))
        left: float = count * 0.5 ** ((now - at) / LAPSE_SECONDS)
        return left if left > 0.1 else 0.0

    def lapse(self, session: StageSession, now: float) -> None:
        """A session ends because nothing happened in it; one that never got a token counts against its client."""
        if session.expected == 0:
            count = self.lapses(session.client, now) + 1
            self._lapsed.pop(session.client, None)
            self._lapsed[session.client] = (count, now)
            if len(self._lapsed) > MOST_LAPSED:
                del self._lapsed[next(iter(self._lapsed))]

    def in_the_way(self, request: OpenSession, client: str, now: float, free: int | None = None) -> list[StageSession]:
        """Sessions that do nothing and would have to end for `request` to fit; none where that would not help.

        First those that were opened and never got a token, of whoever holds most; so memory that is merely taken is
        no use to an attacker, also under many names. Then silent ones of clients that hold more than `client`. A client
        that let sessions lapse itself pushes nobody out: else attackers would keep each other's sessions young.
        """
        if self.lapses(client, now):
            return []
        missing = self._missing(request, free)
        places = len(self._sessions) + 1 - self.limits.sessions
        if missing is None or (missing <= 0 and places <= 0):
            return []
        held = self._held()
        unfed = [each for each in self if each.expected == 0 and now - each.opened > self.limits.unfed_grace]
        unfed.sort(key=lambda each: (-held[each.client], each.opened))
        silent = [
            each
            for each in self
            if each.expected > 0
            and now - each.last_active > self.limits.idle_grace
            and held[each.client] > held.get(client, 0)
        ]
        silent.sort(key=lambda each: (-held[each.client], each.last_active))
        chosen: list[StageSession] = []
        for each in (*unfed, *silent):
            if missing <= 0 and places <= 0:
                break
            chosen.append(each)
            missing -= each.pages
            places -= 1
        return chosen if missing <= 0 and places <= 0 else []

    def beyond_share(self, request: OpenSession, client: str, free: int | None = None) -> list[StageSession]:
        """Sessions that give up their pages so that `request` fits: the youngest of another client that has grown
        beyond its share, as far as it is beyond it; none where that would not help. The oldest of all has its turn
        first: else two that are larger than a share would end each other before either got on."""
        missing = self._missing(request, free)
        if missing is None or missing <= 0:
            return []
        held = self._held()
        greedy = max(held, key=lambda each: held[each], default=client)
        surplus = held.get(greedy, 0) - self.limits.client_share * self.pages
        if greedy == client:
            return []
        oldest = min(self, key=lambda each: each.opened)
        chosen: list[StageSession] = []
        for each in sorted(self.of_client(greedy), key=lambda each: each.opened, reverse=True):
            has_turn = each is oldest and each.expected < each.fed_tokens + TURN_TOKENS
            if missing <= 0 or surplus <= 0 or has_turn:
                break
            chosen.append(each)
            missing -= each.pages
            surplus -= each.pages
        return chosen if missing <= 0 else []

    def _missing(self, request: OpenSession, free: int | None) -> int | None:
        """How many pages are missing for a session (what it leaves to others included); None where it cannot fit."""
        try:
            self._check_shape(request)
        except NotAdmitted:
            return None
        return pages_for(request.fed_tokens) + self.spare - (self.pages_free if free is None else free)

    def _held(self) -> dict[str, int]:
        held: dict[str, int] = {}
        for each in self:
            held[each.client] = held.get(each.client, 0) + each.pages
        return held

    def close(self, session: bytes, client: str) -> StageSession | None:
        """Forget a session of `client`; None if there is none (closing twice is harmless)."""
        found = self._sessions.get(session)
        if found is None or found.client != client:
            return None
        del self._sessions[session]
        self.pages_used -= found.pages
        lived = max(0.0, found.last_active - found.opened)
        self.mean_seconds += MEAN_WEIGHT * (lived - self.mean_seconds)
        return found

    def until_room(self) -> float:
        """Seconds until a session may be expected to end, from how many there are and how long they live."""
        return min(max(self.mean_seconds / max(1, len(self._sessions)), LEAST_RETRY), MOST_RETRY)

    def prompt(self, session: bytes, client: str, count: int, now: float, start: int = 0) -> StageSession:
        """The client hands the first stage its `count` token ids from `start` on. Raises `ProtocolViolation`."""
        found = self._sessions.get(session)
        if found is None or found.client != client:
            raise ProtocolViolation("a prompt came for a session that is not open", peer=client)
        if not found.is_first:
            raise ProtocolViolation("a prompt came to a stage that is not the first", peer=client)
        if start > found.held:
            raise ProtocolViolation(f"a prompt came from position {start}, {found.held} are held", peer=client)
        if count < 1 or start + count != found.fed_tokens:
            raise ProtocolViolation(
                f"the session announced {found.fed_tokens} tokens, {start + count} came", peer=client
            )
        if found.expected != 0:
            raise ProtocolViolation("a second prompt came for the session", peer=client)
        found.expected = found.fed_tokens
        found.last_active = now
        return found

    def extend(self, session: bytes, client: str, limit: int, now: float) -> StageSession | None:
        """Positions below `limit` may run; None when `client` has no such session at a first stage.

        A sign of life it is not: only tokens are.
        """
        found = self._sessions.get(session)
        if found is None or found.client != client or not found.is_first:
            return None
        found.limit = max(found.limit, min(limit, found.capacity))
        return found

    def arrive(self, session: bytes, sender: str, start: int, count: int, now: float) -> StageSession | None:
        """Tokens `[start, start + count)` arrive over the ring.

        None when the session is gone (in flight while it was closed: harmless). Raises `ProtocolViolation` when
        the sender is not the session's previous hop, or the positions leave a gap or pass the capacity. Earlier
        positions may come again: they replace what was there.
        """
        found = self._sessions.get(session)
        if found is None:
            return None
        if found.previous != sender:
            raise ProtocolViolation("tokens came from a peer that is not the session's previous hop", peer=sender)
        if found.is_first and found.expected < found.fed_tokens:
            raise ProtocolViolation("a next token came before the prompt", peer=sender)
        following = found.expected or found.held
        if start > following:
            raise ProtocolViolation(f"tokens from position {start} came, but {following} was next", peer=sender)
        if start + count > found.capacity:
            raise ProtocolViolation(
                f"tokens up to {start + count} came, but the session's capacity is {found.capacity}", peer=sender
            )
        found.expected = start + count
        grown = max(found.pages, pages_for(found.expected))
        self.pages_used += grown - found.pages
        found.pages = grown
        found.last_active = now
        return found

    def neighbours(self, peer: str) -> list[StageSession]:
        """Sessions that hand to or take from `peer`."""
        return [session for session in self if peer in (session.previous, session.following)]

    def of_client(self, client: str) -> list[StageSession]:
        """Sessions that `client` opened."""
        return [session for session in self if session.client == client]

    def idle(self, now: float) -> list[StageSession]:
        """Sessions in which nothing has happened for too long."""
        silent = self.limits.idle_seconds
        unfed = min(silent, self.limits.unfed_seconds)
        return [session for session in self if now - session.last_active > (silent if session.expected else unfed)]

    def _check_shape(self, request: OpenSession) -> Span:
        facts = self.facts
        if request.digest != facts.digest:
            raise NotAdmitted("wrong_model", f"this stage serves model {facts.digest[:12]}, not {request.digest[:12]}")
        if not request.start < request.end:
            raise NotAdmitted("wrong_blocks", f"{request.start}:{request.end} is not a span")
        span = Span(request.start, request.end)
        if not facts.span.covers(span):
            raise NotAdmitted("wrong_blocks", f"this stage serves blocks {facts.span}, not {span}")
        if request.capacity > facts.context_length:
            raise NotAdmitted(
                "too_long", f"{request.capacity} tokens do not fit the model's context of {facts.context_length}"
            )
        if not request.prompt_tokens <= request.fed_tokens < request.capacity:
            raise NotAdmitted("bad_request", "prompt_tokens <= fed_tokens < capacity must hold")
        if pages_for(request.capacity) > self.pages:
            why = f"{request.capacity} tokens do not fit into all of {self.pages} pages"
            raise NotAdmitted("too_large", why, most=self.pages * PAGE)
        if request.limit < request.fed_tokens:
            raise NotAdmitted("bad_request", "fed_tokens <= limit must hold")
        if request.wire_dtype != facts.wire_dtype:
            raise NotAdmitted("wrong_dtype", f"this stage hands over {facts.wire_dtype}, not {request.wire_dtype}")
        return span
