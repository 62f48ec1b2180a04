"""A transaction's life, as decisions: what to do next, given what the journal holds and what the chain shows. Pure.

    SIGNED ──broadcast──▶ SENT ──receipt──▶ MINED ──deep enough──▶ CONFIRMED or FAILED
       ▲                   ▲  │                │
       │                   │  └─ stuck: replaced by the same call with higher fees
       │                   └───── reorganised away: sent again ┘
       └── its nonce was taken by a stranger, deep enough: signed again with another
    REFUSED: the node would not have it, and it was never out of our hands

An intent is in the journal, with the bytes to send, before the first byte leaves. So a process killed anywhere finds
at its next start exactly the transactions that may be on their way, and sends those same bytes again, never others.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from chain.transactions import Fees


class State(enum.StrEnum):
    """Where an intent is in its life; the last three are the end."""

    SIGNED = "signed"
    SENT = "sent"
    MINED = "mined"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    REFUSED = "refused"

    @property
    def final(self) -> bool:
        return self in (State.CONFIRMED, State.FAILED, State.REFUSED)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed transaction for an intent. `sent_at` is None before a node took it; times are Unix seconds."""

    hash: bytes
    raw: bytes
    nonce: int
    fees: Fees
    signed_at: float
    sent_at: float | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that we mean to make once, with every transaction signed for it, oldest first."""

    id: int
    key: str | None
    session: str
    sender: str
    to: bytes
    data: bytes
    value: int
    gas: int
    label: str
    state: State
    nonce: int
    attempts: tuple[Attempt, ...]
    created_at: float
    mined_hash: bytes | None = None
    block_hash: bytes | None = None
    block_number: int | None = None

    @property
    def current(self) -> Attempt:
        return self.attempts[-1]

    @property
    def payload(self) -> tuple[str, bytes, int, bytes]:
        """What makes two intents the same call."""
        return self.sender, self.to, self.value, self.data


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient to be. Times in seconds, fees in wei per gas, depth in blocks (1: the block it is in counts)."""

    confirmations: int = 1
    resend_after: float = 15.0
    stuck_after: float = 60.0
    max_fee: int = 1_000 * 10**9
    max_attempts: int = 12
    renumber_after: float = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A receipt: where an attempt was mined and whether it succeeded."""

    hash: bytes
    block_number: int
    block_hash: bytes
    succeeded: bool


@dataclass(frozen=True, slots=True)
class View:
    """What the chain shows now. Nonces are the sender's: `nonce` at the head, `deep_nonce` at the confirmed depth."""

    head: int
    base_fee: int
    nonce: int
    deep_nonce: int
    receipts: Mapping[bytes, Seen]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do yet."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send these bytes (again)."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Replace:
    """Sign the same call with the same nonce and these fees, and send that."""

    fees: Fees


@dataclass(frozen=True, slots=True)
class Mined:
    """Record where it is; not deep enough yet."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Finish:
    """Record the end."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Lost:
    """It was mined and is no longer: record that, and send it again."""


@dataclass(frozen=True, slots=True)
class Renumber:
    """Its nonce is used up for good by a transaction that is not ours: sign it with another."""


Step = Wait | Broadcast | Replace | Mined | Finish | Lost | Renumber


def decide(intent: Intent, view: View, policy: Policy, now: float) -> Step:
    """The next step for an intent that has not reached its end."""
    seen = next((view.receipts[each.hash] for each in reversed(intent.attempts) if each.hash in view.receipts), None)
    if seen is not None:
        if view.head - seen.block_number + 1 >= policy.confirmations:
            return Finish(seen)
        if intent.state is State.MINED and intent.block_hash == seen.block_hash:
            return Wait()
        return Mined(seen)
    if intent.state is State.MINED:
        return Lost()
    if view.deep_nonce > intent.nonce:
        return Renumber()
    if view.nonce > intent.nonce:
        return Wait()  # used at the head: by us, and the receipt is late, or by a stranger, and not yet for good
    attempt = intent.current
    if attempt.sent_at is None:
        return Broadcast(attempt)
    waiting = now - attempt.sent_at
    if view.nonce == intent.nonce and now - attempt.signed_at >= policy.stuck_after:
        fees = raised(attempt.fees, view.base_fee, policy.max_fee)
        if fees is not None and len(intent.attempts) < policy.max_attempts:
            return Replace(fees)
    if waiting >= policy.resend_after:
        return Broadcast(attempt)
    return Wait()


def first_fees(base_fee: int, tip: int, max_fee: int) -> Fees | None:
    """Fees for a new transaction: room for the base fee to double. None if even the present base fee is too much."""
    if base_fee + tip > max_fee:
        return None
    return Fees(min(max_fee, 2 * base_fee + tip), tip)


def raised(fees: Fees, base_fee: int, max_fee: int) -> Fees | None:
    """Fees of a replacement: an eighth more of both (nodes ask for a tenth) and enough for the base fee now.

    None when that passes `max_fee`.
    """
    tip = fees.priority_fee + max(1, -(-fees.priority_fee // 8))
    most = max(fees.max_fee + max(1, -(-fees.max_fee // 8)), 2 * base_fee + tip)
    needed = fees.max_fee + max(1, -(-fees.max_fee // 8))
    if needed > max_fee:
        return None
    return Fees(min(most, max_fee), tip)


def free_nonce(floor: int, held: Collection[int]) -> int:
    """The lowest nonce from `floor` on that no intent holds."""
    nonce = floor
    while nonce in held:
        nonce += 1
    return nonce


def gap(nonce: int, held: Sequence[int]) -> int | None:
    """The nonce that nobody holds and that later ones wait for: the sender's next one, if there is such a gap."""
    return nonce if held and nonce not in held and any(each > nonce for each in held) else None


class Refusal(enum.Enum):
    """What a node's refusal of a broadcast means."""

    KNOWN = "it has the transaction already"
    NONCE_USED = "the nonce is used: by this transaction, or another"
    UNDERPRICED = "another transaction with this nonce is waiting, and ours does not pay enough more"
    FEE_TOO_LOW = "the fee is below what it takes now"
    FUNDS = "the account cannot pay"
    BUSY = "it has no room now"
    OTHER = "it will never take it"


_WORDS: tuple[tuple[Refusal, tuple[str, ...]], ...] = (
    (Refusal.KNOWN, ("already known", "known transaction", "already imported", "alreadyknown", "already exists")),
    (Refusal.NONCE_USED, ("nonce too low", "nonce is too low", "invalid nonce", "oldnonce", "nonce_too_low")),
    (
        Refusal.UNDERPRICED,
        ("replacement transaction underpriced", "replacement_underpriced", "replacement fee too low"),
    ),
    (
        Refusal.FEE_TOO_LOW,
        ("transaction underpriced", "max fee per gas less than block base fee", "fee too low", "feetoolow"),
    ),
    (Refusal.FUNDS, ("insufficient funds", "insufficient balance")),
    (
        Refusal.BUSY,
        ("txpool is full", "pool is full", "account limit exceeded", "too many transactions", "queue is full"),
    ),
)


def read_refusal(message: str) -> Refusal:
    """The meaning of a node's words; they differ by node and have no codes."""
    lowered = message.lower()
    return next((refusal for refusal, words in _WORDS if any(word in lowered for word in words)), Refusal.OTHER)
