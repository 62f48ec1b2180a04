"""The messages of the mesh, protocol version 1: frozen dataclasses and their strict decoding (pure).

    client ──OpenSession, Prompt, ExtendSession, CloseSession,
             FetchFile, Ping──▶ every hop                                           `/mesh/control/1`
    client ◀──SessionOpened | SessionRefused, NewToken, PromptScores, PromptProgress,
              SessionFailed, SessionClosed, FileData, Pong────────── hop
    gateway ──Hello, Voucher──▶ hop     hop ──Welcome | Unwelcome, Receipt──▶ gateway     (where work is paid for)
    hop ──Activations (downstream), NextTokens (last to first)──▶ hop               `/mesh/ring/1`

A frame's header is a msgpack map `{"t": kind, field: value …}`; tensors and token ids travel as the frame's raw
payload, whose size and meaning follow from the session's state, never from the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from mesh.wire import fields as f
from mesh.wire.codec import ANY_SIZE, Codec, Schema
from mesh.wire.paying import PAYMENT_SCHEMA, Hello, Receipt, Unwelcome, Voucher, Welcome

CONTROL_PROTOCOL: Final = "/mesh/control/1"
RING_PROTOCOL: Final = "/mesh/ring/1"

SESSION_BYTES: Final = 16
KEY_BYTES: Final = 16
MAX_KEYS: Final = 8192
MAX_TOKENS: Final = 1 << 24
MAX_TOP_K: Final = 1 << 31
MAX_EOS: Final = 64
MAX_BLOCKS: Final = 1 << 16
MAX_PARTS: Final = 4096
MAX_REASON: Final = 2000
MAX_FILE_BYTES: Final = 48 * 1024 * 1024
PREEMPTED: Final = "preempted"
"""Code of a session that failed because others needed its place: its client may open it again, here or elsewhere."""

_session = f.octets(SESSION_BYTES)
_position = f.integer(0, MAX_TOKENS)
_count = f.integer(1, MAX_TOKENS)
_token = f.integer(0, (1 << 31) - 1)
_logprob = f.number(-1e30, 1e-3)
_top = f.items(f.record(_token, _logprob), 32)
_digest = f.text(64)
_reason = f.text(MAX_REASON)


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Ask a hop to admit a session. The payload holds the fed token ids (int32) for a last hop that needs them.

    The hops form a ring: `previous` of the first is the last, and `following` of the last is the first.
    `prompt_tokens` is the prompt's length; `fed_tokens` how many tokens will be prefilled before the first one is
    sampled (more than the prompt when a session resumes elsewhere); `capacity` prompt and answer together. The first
    hop runs no position from `limit` on until an `ExtendSession` raises it, so that nothing is computed far ahead of
    who reads and pays for it. `keys` names the full pages of the fed tokens, each by a hash of all before it: those
    that the hop still has from an earlier session of this client and this previous hop need not be fed again.
    """

    kind: ClassVar[str] = "open"
    session: bytes
    digest: str
    start: int
    end: int
    previous: str
    following: str
    prompt_tokens: int
    fed_tokens: int
    capacity: int
    limit: int
    eos: tuple[int, ...]
    prompt_scores: bool
    wire_dtype: str
    sampling: tuple[Any, ...]
    logit_bias: tuple[tuple[int, float], ...]
    keys: bytes = b""


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The hop has taken pages for the session and waits for its first tokens; it has the first `held` already."""

    kind: ClassVar[str] = "opened"
    session: bytes
    held: int = 0


@dataclass(frozen=True, slots=True)
class SessionRefused:
    """The hop will not serve the session; `code` says why, `retry_after_ms` when it may. `most` is not 0 where only
    the capacity is too large for its memory: it would serve one of so many tokens."""

    kind: ClassVar[str] = "refused"
    session: bytes
    code: str
    reason: str
    retry_after_ms: int
    most: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """To the first hop, once every hop has admitted: run the token ids from position `start` on (payload, int32 little
    endian); every hop holds those before it."""

    kind: ClassVar[str] = "prompt"
    session: bytes
    start: int = 0


@dataclass(frozen=True, slots=True)
class ExtendSession:
    """To the first hop: positions below `limit` may run."""

    kind: ClassVar[str] = "extend"
    session: bytes
    limit: int


@dataclass(frozen=True, slots=True)
class NewToken:
    """From the last hop: the token chosen for `position`; `finish` ends the session."""

    kind: ClassVar[str] = "token"
    session: bytes
    position: int
    token: int
    finish: str | None
    logprob: float | None
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class PromptScores:
    """From the last hop: log-probabilities of the prompt tokens at `position`, `position + 1`, …"""

    kind: ClassVar[str] = "scores"
    session: bytes
    position: int
    scores: tuple[tuple[float, tuple[tuple[int, float], ...]], ...]


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """From the last hop: the prompt has been run up to `position`, which is not yet its end."""

    kind: ClassVar[str] = "progress"
    session: bytes
    position: int


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """A hop cannot go on; `blamed` is the peer whose input was at fault, if it was one."""

    kind: ClassVar[str] = "failed"
    session: bytes
    code: str
    reason: str
    blamed: str | None


@dataclass(frozen=True, slots=True)
class CloseSession:
    """The client is done with (or gives up) the session: free it and say what it took.

    `received` is how many positions it knows to have run: the prompt's and every token's but the last.
    """

    kind: ClassVar[str] = "close"
    session: bytes
    received: int


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session is freed; `tokens` were computed in `busy_us` microseconds of engine time."""

    kind: ClassVar[str] = "closed"
    session: bytes
    tokens: int
    busy_us: int


@dataclass(frozen=True, slots=True)
class FetchFile:
    """Ask for a small model file (tokenizer, config) by name; the asker checks its hash."""

    kind: ClassVar[str] = "fetch"
    request: int
    digest: str
    name: str


@dataclass(frozen=True, slots=True)
class FileData:
    """The file as payload, or a reason why not."""

    kind: ClassVar[str] = "file"
    request: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?"""

    kind: ClassVar[str] = "ping"
    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Yes."""

    kind: ClassVar[str] = "pong"
    nonce: int


@dataclass(frozen=True, slots=True)
class Activations:
    """One micro-batch for the next hop: per part (session, first position, tokens); hidden states as payload."""

    kind: ClassVar[str] = "act"
    parts: tuple[tuple[bytes, int, int], ...]


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Last hop to first: per part (session, position, token) to run next."""

    kind: ClassVar[str] = "next"
    parts: tuple[tuple[bytes, int, int], ...]


Message = (
    OpenSession
    | SessionOpened
    | SessionRefused
    | Prompt
    | ExtendSession
    | NewToken
    | PromptScores
    | PromptProgress
    | SessionFailed
    | CloseSession
    | SessionClosed
    | FetchFile
    | FileData
    | Ping
    | Pong
    | Hello
    | Welcome
    | Unwelcome
    | Receipt
    | Voucher
    | Activations
    | NextTokens
)

_sampling = f.record(
    f.number(0, 100),  # temperature
    f.integer(0, MAX_TOP_K),
    f.number(0, 1),  # top_p
    f.number(0, 1),  # min_p
    f.number(0, 100),  # repetition_penalty
    f.number(-2, 2),  # presence_penalty
    f.number(-2, 2),  # frequency_penalty
    f.optional(f.integer(0, 32)),  # logprobs
    f.integer(0, (1 << 64) - 1),  # seed
)

_SCHEMA: Final[Schema] = {
    OpenSession: {
        "session": _session,
        "digest": _digest,
        "start": f.integer(0, MAX_BLOCKS),
        "end": f.integer(1, MAX_BLOCKS),
        "previous": f.peer_id,
        "following": f.peer_id,
        "prompt_tokens": _count,
        "fed_tokens": _count,
        "capacity": _count,
        "limit": _count,
        "eos": f.items(_token, MAX_EOS),
        "prompt_scores": f.boolean,
        "wire_dtype": f.choice("float32", "bfloat16", "float16"),
        "sampling": _sampling,
        "logit_bias": f.items(f.record(_token, f.number(-100, 100)), 1024),
        "keys": f.keys(KEY_BYTES, MAX_KEYS),
    },
    SessionOpened: {"session": _session, "held": _position},
    SessionRefused: {
        "session": _session,
        "code": f.text(64),
        "reason": _reason,
        "retry_after_ms": f.integer(0, 3_600_000),
        "most": _position,
    },
    Prompt: {"session": _session, "start": _position},
    ExtendSession: {"session": _session, "limit": _count},
    NewToken: {
        "session": _session,
        "position": _position,
        "token": _token,
        "finish": f.optional(f.choice("stop", "length")),
        "logprob": f.optional(_logprob),
        "top": _top,
    },
    PromptScores: {
        "session": _session,
        "position": _position,
        "scores": f.items(f.record(_logprob, _top), 8192),
    },
    PromptProgress: {"session": _session, "position": _position},
    SessionFailed: {
        "session": _session,
        "code": f.text(64),
        "reason": _reason,
        "blamed": f.optional(f.peer_id),
    },
    CloseSession: {"session": _session, "received": _position},
    SessionClosed: {
        "session": _session,
        "tokens": f.integer(0, 1 << 53),
        "busy_us": f.integer(0, 1 << 53),
    },
    FetchFile: {"request": f.integer(0, 1 << 53), "digest": _digest, "name": f.text(200)},
    FileData: {"request": f.integer(0, 1 << 53), "error": f.optional(_reason)},
    Ping: {"nonce": f.integer(0, 1 << 53)},
    Pong: {"nonce": f.integer(0, 1 << 53)},
    **PAYMENT_SCHEMA,
    Activations: {"parts": f.items(f.record(_session, _position, _count), MAX_PARTS, least=1)},
    NextTokens: {"parts": f.items(f.record(_session, _position, _token), MAX_PARTS, least=1)},
}

_WITH_PAYLOAD: Final = (OpenSession, Prompt, FileData, Activations, Hello)
HEADER_LIMIT: Final = 256 * 1024

_codec: Final = Codec[Message](_SCHEMA, header_limit=HEADER_LIMIT, payloads=dict.fromkeys(_WITH_PAYLOAD, ANY_SIZE))
encode = _codec.encode
decode = _codec.decode
