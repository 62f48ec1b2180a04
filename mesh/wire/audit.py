"""Messages of `/mesh/audit/1`: what a hop has kept of a session, and the same blocks run again by another (pure).

The asker sends one question after another on a channel and gets an answer to each.

    client ──FetchWork──▶ the hop whose work is looked at ──WorkData──▶ client
    client ──Replay─────▶ a replica of its blocks         ──Replayed──▶ client
    anybody ──AskProfile─▶ a hop                          ──ProfileSaid─▶

Rows are the bytes that travelled: of hidden states in the session's wire dtype, or of token ids (int32, little endian).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from mesh.wire.codec import Codec, ShortText, WireMessage
from mesh.wire.messages import MAX_EOS, Block, Count, Digest, LogitBias, Position, Reason, Sampling, SessionId, Token
from mesh.wire.work import Hash

AUDIT_PROTOCOL: Final = "/mesh/audit/1"
HEADER_LIMIT: Final = 64 * 1024
MAX_ROWS_BYTES: Final = 16 << 20
"""Of rows in one question or answer: an audit looks at as many positions from a session's first on as fit."""
MAX_REPLAYED: Final = 2048
"""Positions that one question may have run again."""


class FetchWork(WireMessage, frozen=True, tag="fetch_work"):
    """To a hop, by the client whose session it was: the rows that came or that went of the positions below `end`, from
    the first one on that the hop ran (of those before it had the pages already)."""

    session: SessionId
    side: Literal["in", "out"]
    end: Position


class WorkData(WireMessage, frozen=True, tag="work_data"):
    """The rows as payload, one after another, or why there are none."""

    error: Reason | None = None


class Replay(WireMessage, frozen=True, tag="replay"):
    """To a provider of the same model: run these `count` positions, from the first on, over blocks `[start, end)`.

    The payload is what they got. Where the blocks are the model's last, the tokens of all positions, and of the one
    after them, follow (int32): the replica says which of those that were chosen it would not have chosen.
    """

    digest: Digest
    start: Block
    end: Block
    count: Annotated[int, Meta(ge=1, le=MAX_REPLAYED)]
    wire_dtype: Annotated[str, Meta(pattern=r"^(float32|bfloat16|float16)\Z")]
    prompt_tokens: Count
    fed_tokens: Count
    capacity: Count
    eos: Annotated[tuple[Token, ...], Meta(max_length=MAX_EOS)]
    sampling: Sampling
    logit_bias: LogitBias


class Replayed(WireMessage, frozen=True, tag="replayed"):
    """The rows that go on from there as payload; at the last blocks instead the first position whose token is another
    one (None: all are right), which one, and by how much it is likelier than the one that was claimed (in nats)."""

    error: Reason | None = None
    wrong: Position | None = None
    token: Token = 0
    margin: Annotated[float, Meta(ge=0, le=1e30)] = 0.0
    wrongs: Annotated[int, Meta(ge=0, le=MAX_REPLAYED)] = 0
    """Tokens that are other ones; nobody looks for more than a few."""


class AskProfile(WireMessage, frozen=True, tag="ask_profile"):
    """How do you compute?"""


class ProfileSaid(WireMessage, frozen=True, tag="profile"):
    """The numerics profile in words, and its hash, which records of work name; the root of the self-test of blocks
    `[start, end)`, which is equal on all that compute the same bits."""

    text: ShortText
    profile: Hash
    start: Block
    end: Block
    golden: Hash


Message = FetchWork | WorkData | Replay | Replayed | AskProfile | ProfileSaid
MAX_QUESTION_BYTES: Final = MAX_ROWS_BYTES + 4 * (MAX_REPLAYED + 1)

_codec: Final = Codec[Message](
    Message,
    header_limit=HEADER_LIMIT,
    payloads={WorkData: MAX_ROWS_BYTES, Replayed: MAX_ROWS_BYTES, Replay: MAX_QUESTION_BYTES},
)
encode = _codec.encode
decode = _codec.decode
