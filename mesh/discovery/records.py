"""What a provider says of itself: a signed record that expires (pure). The short form is in `mesh.discovery.index`.

    record on the wire = Ed25519 signature (64 bytes) | body (canonical msgpack map, keys sorted)

What is signed is the body behind a prefix that names this use, the peer and the DHT key, so that a signature
is good for nothing else: not under another key, and not as another peer's record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, get_args

from mesh.discovery import fields
from mesh.discovery.fields import Reader, matches
from mesh.errors import BadRecord, InternalError
from mesh.identity import SIGNATURE_SIZE, Identity, verify
from mesh.swarm.view import ProviderView
from shards.model.span import Span

State = Literal["joining", "loading", "serving", "draining", "gone"]
"""`joining` claims a span that it may still change, `loading` has settled on it. `gone` is how a provider
withdraws: it takes the place of its last record until that has expired."""

MAX_RECORD_BYTES: Final = 8 * 1024
MAX_LIFETIME: Final = 3600.0
"""Seconds ahead of now that a record may expire at most."""
MAX_SKEW: Final = 120.0
"""Seconds ahead of now that a record may expire at most where it is stored or found: so far may clocks differ."""
MAX_RATE: Final = 1e9
"""Tokens per second."""
_DOMAIN: Final = b"mesh provider record v1\n"
_FORMAT: Final = 1
_STATES: Final = frozenset(get_args(State))
DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,199}\Z")
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/:=,-]{0,63}\Z")
_MADDR: Final = re.compile(r"/[A-Za-z0-9._:/%-]{1,255}\Z")
_MAX_MADDRS: Final = 16
_MAX_FILES: Final = 16
_MAX_ACCOUNT: Final = 1024


class ModelKey(NamedTuple):
    """A model that providers serve: its name, and the digest that tells two checkpoints of one name apart."""

    name: str
    digest: str


class FileDigest(NamedTuple):
    """What a small file of the model (config, tokenizer) must hash to (sha256, hex), and its size."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """One provider's offer. `sequence` and `expires` are set by the directory that announces it."""

    peer: str
    model: str
    digest: str
    """The model's identity, by its name and its manifest (sha256 in hex)."""
    n_blocks: int
    span: Span
    state: State
    context_length: int
    vocab_size: int
    throughput: float = 0.0
    """Tokens per second that one block computes here; 0 while it is not known."""
    link_rate: float = 0.0
    """Tokens per second whose hidden states its link carries; 0 while it is not known."""
    queue_depth: int = 0
    """Steps that wait for the engine."""
    kv_free_tokens: int = 0
    sessions: int = 0
    max_blocks: int = 0
    """Blocks that it has memory for; 0 for one that stays at its span."""
    maddrs: tuple[str, ...] = ()
    numerics: str = "fp32"
    """The numerics profile."""
    wire_dtype: str = "float32"
    version: str = "0"
    """The software's version."""
    files: Mapping[str, FileDigest] = field(default_factory=dict, hash=False)
    """Files by which all others that the provider hands out can be checked: the manifest."""
    account: bytes = b""
    """Its binding to an account on a chain (`mesh.payment.credit.binding`), or nothing where it serves for free."""
    sequence: int = 0
    expires: float = 0.0
    """Unix time (seconds)."""

    @property
    def model_key(self) -> ModelKey:
        return ModelKey(self.model, self.digest)

    @property
    def gone(self) -> bool:
        """Whether the provider takes its announcement back."""
        return self.state == "gone"

    def view(self, *, load: int = 0) -> ProviderView:
        """The provider for routes and placement. A link whose speed is not known is taken to carry everything."""
        return ProviderView(
            peer=self.peer,
            span=self.span,
            block_rate=self.throughput,
            serving=self.state == "serving",
            load=load,
            max_blocks=self.max_blocks,
            link_rate=self.link_rate or math.inf,
        )


def provider_key(model: ModelKey) -> bytes:
    """The DHT key under which the providers of a model announce themselves."""
    return f"mesh/1/providers/{model.digest}/{model.name}".encode()


def peer_key(peer: str) -> bytes:
    """The DHT key under which one provider alone announces itself: found by who knows its peer id."""
    return f"mesh/1/peer/{peer}".encode()


def withdrawn(record: ProviderRecord) -> ProviderRecord:
    """What takes the place of a record that is taken back: no addresses, no files, no account."""
    return replace(record, state="gone", maddrs=(), files={}, account=b"")


def encode_record(record: ProviderRecord, identity: Identity, *, key: bytes | None = None) -> bytes:
    """Sign a record for the DHT key `key` (default: that of its model).

    Raises `InternalError` for a record that others would refuse, whatever its time.
    """
    if record.peer != identity.peer_id:
        raise InternalError(f"a record of {record.peer} cannot be signed by {identity.peer_id}")
    body = _pack(record)
    try:
        if len(body) + SIGNATURE_SIZE > MAX_RECORD_BYTES:
            raise BadRecord(f"the record has {len(body)} bytes")
        _parse(body, record.peer)
    except BadRecord as error:
        raise InternalError(f"this record would be refused by everybody: {error}") from error
    key = provider_key(record.model_key) if key is None else key
    return identity.sign(_message(record.peer, key, body)) + body


def decode_record(data: bytes, *, peer: str, key: bytes, now: float) -> ProviderRecord:
    """Read and check what `peer` is said to have announced under the DHT key `key`.

    Raises `BadRecord` unless it is well-formed and in bounds, belongs under `key`, is signed by `peer`, and
    expires after `now` (Unix time, seconds) but within `MAX_LIFETIME`.
    """
    body = _body(data)
    record = _parse(body, peer)
    if key not in (peer_key(peer), provider_key(record.model_key)):
        raise BadRecord("the record does not belong under this key", peer=peer)
    if not now < record.expires <= now + MAX_LIFETIME:
        raise BadRecord(f"the record expires {record.expires - now:+.1f} s from now", peer=peer)
    if not verify(peer, _message(peer, key, body), data[:SIGNATURE_SIZE]):
        raise BadRecord("the record is not signed by this peer", peer=peer)
    return record


def claimed_model(data: bytes, *, peer: str) -> ModelKey:
    """The model that an unverified record names: under which key to check it. Raises `BadRecord`."""
    return _parse(_body(data), peer).model_key


class Stamper:
    """Gives a node's records sequence numbers and expiries that only grow, also over a restart."""

    def __init__(self, lifetime: float) -> None:
        """`lifetime` is how long a record lives (seconds)."""
        self._lifetime = lifetime
        self._sequence = 0
        self._expires = 0.0

    def stamp(self, record: ProviderRecord, *, now: float) -> ProviderRecord:
        """`record` with the next sequence number; it expires after the one before, since the DHT keeps the
        value that expires last. One that nobody can have taken does not count: our clock was ahead when it was made."""
        self._sequence = max(self._sequence + 1, int(now * 1000))
        if self._expires > now + MAX_SKEW:
            self._expires = 0.0
        self._expires = max(now + self._lifetime, self._expires + 0.001)
        return replace(record, sequence=self._sequence, expires=self._expires)


def _message(peer: str, key: bytes, body: bytes) -> bytes:
    name = peer.encode()
    return b"".join((_DOMAIN, len(name).to_bytes(2, "big"), name, len(key).to_bytes(2, "big"), key, body))


def _body(data: bytes) -> bytes:
    if not SIGNATURE_SIZE < len(data) <= MAX_RECORD_BYTES:
        raise BadRecord(f"a record of {len(data)} bytes")
    return data[SIGNATURE_SIZE:]


def _pack(record: ProviderRecord) -> bytes:
    values = {
        "account": record.account,
        "context_length": record.context_length,
        "digest": record.digest,
        "expires": float(record.expires),
        "files": {name: [record.files[name].sha256, record.files[name].size] for name in sorted(record.files)},
        "kv_free_tokens": record.kv_free_tokens,
        "link_rate": float(record.link_rate),
        "maddrs": list(record.maddrs),
        "max_blocks": record.max_blocks,
        "model": record.model,
        "n_blocks": record.n_blocks,
        "numerics": record.numerics,
        "queue_depth": record.queue_depth,
        "sequence": record.sequence,
        "sessions": record.sessions,
        "span": [record.span.start, record.span.end],
        "state": record.state,
        "throughput": float(record.throughput),
        "v": _FORMAT,
        "version": record.version,
        "vocab_size": record.vocab_size,
        "wire_dtype": record.wire_dtype,
    }
    return fields.pack(values, "a record")


def _parse(body: bytes, peer: str) -> ProviderRecord:
    """Check every field of a body. Says nothing about the signature, the key or the time."""
    read = fields.unpack(body, peer, "the record")
    read.integer("v", _FORMAT, _FORMAT)
    n_blocks = read.integer("n_blocks", 1, 4096)
    span = read.items("span", 2, lambda bound: type(bound) is int)
    if len(span) != 2 or not 0 <= span[0] < span[1] <= n_blocks:
        raise BadRecord("a span that is empty or outside the model", peer=peer)
    record = ProviderRecord(
        peer=peer,
        model=read.text("model", NAME),
        digest=read.text("digest", DIGEST),
        n_blocks=n_blocks,
        span=Span(span[0], span[1]),
        state=_read_state(read),
        context_length=read.integer("context_length", 1, 1 << 31),
        vocab_size=read.integer("vocab_size", 1, 1 << 31),
        throughput=read.number("throughput", 0.0, MAX_RATE),
        link_rate=read.number("link_rate", 0.0, MAX_RATE),
        queue_depth=read.integer("queue_depth", 0, 1 << 20),
        kv_free_tokens=read.integer("kv_free_tokens", 0, 1 << 40),
        sessions=read.integer("sessions", 0, 1 << 20),
        max_blocks=read.integer("max_blocks", 0, 4096),
        maddrs=tuple(read.items("maddrs", _MAX_MADDRS, lambda maddr: matches(maddr, _MADDR))),
        numerics=read.text("numerics", _WORD),
        wire_dtype=read.text("wire_dtype", _WORD),
        version=read.text("version", _WORD),
        files=_read_files(read),
        account=read.octets("account", _MAX_ACCOUNT),
        sequence=read.integer("sequence", 0, (1 << 64) - 1),
        expires=read.number("expires", 0.0, 1e12),
    )
    # One record has one spelling: this also refuses unknown fields, another order and wide integers.
    if _pack(record) != body:
        raise BadRecord("the record is not in canonical form", peer=peer)
    return record


def _read_state(read: Reader) -> State:
    value = read.raw("state")
    if not isinstance(value, str) or value not in _STATES:
        raise read.bad("state")
    return value  # type: ignore[return-value]


def _read_files(read: Reader) -> dict[str, FileDigest]:
    value = read.raw("files")
    if not isinstance(value, dict) or len(value) > _MAX_FILES:
        raise read.bad("files")
    files = {}
    for name, entry in value.items():
        match entry:
            case [str() as sha256, int() as size] if (
                matches(name, _FILE) and DIGEST.match(sha256) and type(size) is int and 0 <= size < 1 << 31
            ):
                files[name] = FileDigest(sha256, size)
            case _:
                raise read.bad("files")
    return files
