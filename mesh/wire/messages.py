"""The messages of the mesh, protocol version 1: frozen structs, whose fields say their bounds (pure).

    client ──OpenSession, Prompt, ExtendSession, CloseSession,
             FetchFile, Ping──▶ every hop                                           `/mesh/control/1`
    client ◀──SessionOpened | SessionRefused, NewToken | NewTokens, PromptScores, PromptProgress, Work,
              SessionFailed, SessionClosed, FileData, Pong────────── hop
    gateway ──Hello, Voucher, Compare──▶ hop                                        (where work is paid for)
    gateway ◀──Welcome | Unwelcome, Receipt, Voucher, Compare────── hop
    hop ──Activations (downstream), NextTokens (last to first)──▶ hop               `/mesh/ring/1`

A frame's header is a msgpack map `{"t": kind, field: value …}`; tensors and token ids travel as the frame's raw
payload, whose size and meaning follow from the session's state, never from the message.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from mesh.wire.codec import ANY_SIZE, Code, Codec, Count53, PeerText, ShortText, Wait, WireMessage
from mesh.wire.paying import Compare, Hello, Receipt, Unwelcome, Voucher, Welcome
from mesh.wire.work import Work

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
MAX_DRAFTS: Final = 15
"""Guesses at a session's next tokens that one trip round the ring may check."""
MAX_FORM_BYTES: Final = 64 * 1024
"""Of a schema, expression or grammar, in UTF-8."""
MAX_REASON: Final = 2000
MAX_FILE_BYTES: Final = 48 * 1024 * 1024
PREEMPTED: Final = "preempted"
"""Code of a session that failed because others needed its place: its client may open it again, here or elsewhere."""

SessionId = Annotated[bytes, Meta(min_length=SESSION_BYTES, max_length=SESSION_BYTES)]
Position = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
Count = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
Token = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
Logprob = Annotated[float, Meta(ge=-1e30, le=1e-3)]
Top = Annotated[tuple[tuple[Token, Logprob], ...], Meta(max_length=32)]
DraftCount = Annotated[int, Meta(ge=0, le=MAX_DRAFTS)]
Drafts = Annotated[tuple[Token, ...], Meta(max_length=MAX_DRAFTS)]
FormKind = Literal["json_schema", "regex", "grammar"]
FormText = Annotated[str, Meta(max_length=MAX_FORM_BYTES)]
Digest = Annotated[str, Meta(max_length=64)]
Reason = Annotated[str, Meta(max_length=MAX_REASON)]
Block = Annotated[int, Meta(ge=0, le=MAX_BLOCKS)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Hundred = Annotated[float, Meta(ge=0, le=100)]
Sampling = tuple[
    Hundred,  # temperature
    Annotated[int, Meta(ge=0, le=MAX_TOP_K)],
    Share,  # top_p
    Share,  # min_p
    Hundred,  # repetition_penalty
    Penalty,  # presence
    Penalty,  # frequency
    Annotated[int, Meta(ge=0, le=32)] | None,  # logprobs
    Annotated[int, Meta(ge=0)],  # seed: msgpack has none over 64 bits
]
PageKeys = Annotated[bytes, Meta(max_length=MAX_KEYS * KEY_BYTES)]
LogitBias = Annotated[tuple[tuple[Token, Annotated[float, Meta(ge=-100, le=100)]], ...], Meta(max_length=1024)]


def _check_keys(keys: bytes) -> None:
    if len(keys) % KEY_BYTES:
        raise ValueError(f"keys must be of {KEY_BYTES} bytes")


class OpenSession(WireMessage, frozen=True, tag="open"):
    """Ask a hop to admit a session. The payload holds the fed token ids (int32) for a last hop that needs them.

    The hops form a ring: `previous` of the first is the last, and `following` of the last is the first.
    `prompt_tokens` is the prompt's length; `fed_tokens` how many tokens will be prefilled before the first one is
    sampled (more than the prompt when a session resumes elsewhere); `capacity` prompt and answer together. The first
    hop runs no position from `limit` on until an `ExtendSession` raises it, so that nothing is computed far ahead of
    who reads and pays for it. `keys` names the full pages of the fed tokens, each by a hash of all before it: those
    that the hop still has from an earlier session of this client and this previous hop need not be fed again.
    A trip round the ring may check at most `drafts` guesses at the next tokens; the last hop, which makes them, then
    needs the fed token ids. `form` goes to the last hop alone: what the answer is held to, and how many of the last fed
    tokens are part of that answer already; where there are any, the hop needs the fed token ids as well.
    """

    session: SessionId
    digest: Digest
    start: Block
    end: Annotated[int, Meta(ge=1, le=MAX_BLOCKS)]
    previous: PeerText
    following: PeerText
    prompt_tokens: Count
    fed_tokens: Count
    capacity: Count
    limit: Count
    eos: Annotated[tuple[Token, ...], Meta(max_length=MAX_EOS)]
    prompt_scores: bool
    wire_dtype: Annotated[str, Meta(pattern=r"^(float32|bfloat16|float16)\Z")]
    sampling: Sampling
    logit_bias: LogitBias
    keys: PageKeys = b""
    drafts: DraftCount = 0
    form: tuple[FormKind, FormText, Position] | None = None

    def __post_init__(self) -> None:
        _check_keys(self.keys)
        if self.form is not None and len(self.form[1].encode()) > MAX_FORM_BYTES:
            raise ValueError(f"a form has at most {MAX_FORM_BYTES} bytes")


class SessionOpened(WireMessage, frozen=True, tag="opened"):
    """The hop has taken pages for the session and waits for its first tokens; it has the first `held` already."""

    session: SessionId
    held: Position = 0


class SessionRefused(WireMessage, frozen=True, tag="refused"):
    """The hop will not serve the session; `code` says why, `retry_after_ms` when it may. `most` is not 0 where only
    the capacity is too large for its memory: it would serve one of so many tokens."""

    session: SessionId
    code: Code
    reason: Reason
    retry_after_ms: Wait
    most: Position = 0


class Prompt(WireMessage, frozen=True, tag="prompt"):
    """To the first hop, once every hop has admitted: run the token ids from position `start` on (payload, int32 little
    endian); every hop holds those before it."""

    session: SessionId
    start: Position = 0


class ExtendSession(WireMessage, frozen=True, tag="extend"):
    """To the first hop: positions below `limit` may run."""

    session: SessionId
    limit: Count


class NewToken(WireMessage, frozen=True, tag="token"):
    """From the last hop: the token chosen for `position`; `finish` ends the session."""

    session: SessionId
    position: Position
    token: Token
    finish: Literal["stop", "length"] | None
    logprob: Logprob | None
    top: Top


class NewTokens(WireMessage, frozen=True, tag="tokens"):
    """From the last hop: what a trip with `drafted` guesses has brought: the tokens chosen for `position`,
    `position + 1`, …, each with its log-probability and the alternatives. All but the last were guessed right.
    `finish` ends the session with the last of them."""

    session: SessionId
    position: Position
    tokens: Annotated[tuple[tuple[Token, Logprob | None, Top], ...], Meta(min_length=1, max_length=MAX_DRAFTS + 1)]
    finish: Literal["stop", "length"] | None
    drafted: DraftCount

    def __post_init__(self) -> None:
        if len(self.tokens) > self.drafted + 1:
            raise ValueError(f"{len(self.tokens)} tokens do not come of {self.drafted} guesses")

    def singles(self) -> tuple[NewToken, ...]:
        """The tokens one by one."""
        last = len(self.tokens) - 1
        return tuple(
            NewToken(self.session, self.position + number, token, self.finish if number == last else None, logprob, top)
            for number, (token, logprob, top) in enumerate(self.tokens)
        )


class PromptScores(WireMessage, frozen=True, tag="scores"):
    """From the last hop: log-probabilities of the prompt tokens at `position`, `position + 1`, …"""

    session: SessionId
    position: Position
    scores: Annotated[tuple[tuple[Logprob, Top], ...], Meta(max_length=8192)]


class PromptProgress(WireMessage, frozen=True, tag="progress"):
    """From the last hop: the prompt has been run up to `position`, which is not yet its end."""

    session: SessionId
    position: Position


class SessionFailed(WireMessage, frozen=True, tag="failed"):
    """A hop cannot go on; `blamed` is the peer whose input was at fault, if it was one."""

    session: SessionId
    code: Code
    reason: Reason
    blamed: PeerText | None


class CloseSession(WireMessage, frozen=True, tag="close"):
    """The client is done with (or gives up) the session: free it and say what it took.

    `received` is how many positions it knows to have run: the prompt's and every token's but the last. `keys` name the
    full pages of those, as `OpenSession` does: a session that repeats them need not run them again.
    """

    session: SessionId
    received: Position
    keys: PageKeys = b""

    def __post_init__(self) -> None:
        _check_keys(self.keys)


class SessionClosed(WireMessage, frozen=True, tag="closed"):
    """The session is freed; `tokens` were computed in `busy_us` microseconds of engine time."""

    session: SessionId
    tokens: Count53
    busy_us: Count53


class FetchFile(WireMessage, frozen=True, tag="fetch"):
    """Ask for a small model file (tokenizer, config) by name; the asker checks its hash."""

    request: Count53
    digest: Digest
    name: ShortText


class FileData(WireMessage, frozen=True, tag="file"):
    """The file as payload, or a reason why not."""

    request: Count53
    error: Reason | None


class Ping(WireMessage, frozen=True, tag="ping"):
    """Are you there?"""

    nonce: Count53


class Pong(WireMessage, frozen=True, tag="pong"):
    """Yes."""

    nonce: Count53


class Activations(WireMessage, frozen=True, tag="act"):
    """One micro-batch for the next hop: per part (session, first position, tokens); hidden states as payload."""

    parts: Annotated[tuple[tuple[SessionId, Position, Count], ...], Meta(min_length=1, max_length=MAX_PARTS)]


class NextTokens(WireMessage, frozen=True, tag="next"):
    """Last hop to first: per part (session, position, token) to run next, and of each the guesses at the tokens after
    it, to be run behind it; no lists of guesses at all where there are none."""

    parts: Annotated[tuple[tuple[SessionId, Position, Token], ...], Meta(min_length=1, max_length=MAX_PARTS)]
    drafts: Annotated[tuple[Drafts, ...], Meta(max_length=MAX_PARTS)] = ()

    def __post_init__(self) -> None:
        if self.drafts and len(self.drafts) != len(self.parts):
            raise ValueError(f"guesses for {len(self.drafts)} of {len(self.parts)} parts")


Message = (
    OpenSession
    | SessionOpened
    | SessionRefused
    | Prompt
    | ExtendSession
    | NewToken
    | NewTokens
    | PromptScores
    | PromptProgress
    | SessionFailed
    | Work
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
    | Compare
    | Activations
    | NextTokens
)

_WITH_PAYLOAD: Final = (OpenSession, Prompt, FileData, Activations, Hello)
HEADER_LIMIT: Final = 256 * 1024

_codec: Final = Codec[Message](Message, header_limit=HEADER_LIMIT, payloads=dict.fromkeys(_WITH_PAYLOAD, ANY_SIZE))
encode = _codec.encode
decode = _codec.decode
