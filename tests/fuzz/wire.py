"""Decoders of what is in frames: messages, tensors, token ids, session openings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from random import Random
from typing import Any

import torch
from msgspec import Struct

from mesh.errors import BadTensor, ProtocolViolation
from mesh.provider.stage.admission import AdmissionLimits, NotAdmitted, SessionTable, StageFacts
from mesh.provider.stage.frames import WIRE_DTYPES, hidden_payload, split_hidden
from mesh.provider.stage.opening import sampler_for
from mesh.verification.judge import as_floats
from mesh.verification.replay import ReplayRun
from mesh.wire import audit, direct, knock, leaves, messages, pairs
from mesh.wire.frame import Frame
from mesh.wire.sampling import from_wire, to_wire
from mesh.wire.tokens import read_tokens, token_payload
from shards.engine.sampling_params import SamplingParams
from shards.errors import BadActivation, InvalidSampling
from shards.model.span import Span
from shards.model.spec import ModelSpec
from tests.fuzz.decoder import Decoder
from tests.fuzz.frames import PEER
from tests.fuzz.mutate import mutate_bytes, mutate_msgpack, pack
from tests.mesh.wire.messages import SAMPLES

LONGEST_TEXT = 2000
VOCAB, CONTEXT = 300, 512

# --- messages ---


def sound(value: Any, where: str = "message") -> str | None:
    """What is wrong with a decoded message, however it was read: types, finite numbers, bounded texts."""
    if isinstance(value, Struct) or is_dataclass(value):
        names = value.__struct_fields__ if isinstance(value, Struct) else [each.name for each in fields(value)]
        return next((p for name in names if (p := sound(getattr(value, name), name))), None)
    if isinstance(value, tuple):
        if len(value) > 8192:
            return f"{where} has {len(value)} items"
        return next((p for item in value if (p := sound(item, where))), None)
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} is {value}"
    if isinstance(value, int):
        return None if -1 <= value < 1 << 64 else f"{where} is {value}"
    if isinstance(value, str):
        return None if len(value) <= LONGEST_TEXT else f"{where} has {len(value)} characters"
    if isinstance(value, bytes):
        return None if len(value) <= direct.MAX_CERTIFICATE else f"{where} has {len(value)} bytes"
    return None if value is None else f"{where} is a {type(value).__name__}"


def _comes_back(
    encode: Callable[[Any], Frame], decode: Callable[[Frame], Any]
) -> Callable[[bytes, bytes, Any], str | None]:
    def wrong(sample: bytes, data: bytes, result: Any) -> str | None:
        if decode(encode(result)) != result:
            return "it is another message when it is encoded again"
        return sound(result)

    return wrong


def codec_decoder(name: str, module: Any, samples: Sequence[Any], covers: Sequence[str]) -> Decoder:
    """A family of messages."""
    return Decoder(
        f"messages of {name}",
        lambda: [bytes(module.encode(message).header) for message in samples],
        lambda data: module.decode(Frame(data)),
        (ProtocolViolation,),
        _comes_back(module.encode, module.decode),
        (f"{module.__name__}:decode", *covers),
        mutate_msgpack,
    )


DIRECT = (
    direct.Introduce(b"c" * 300),
    direct.Introduced(b"c" * 300, (("127.0.0.1", 4001), ("2001:db8::1", 65535)), "m" + "0f" * 16, 600.0),
    direct.Hello("/mesh/ring/1"),
    direct.Accepted(),
    direct.Start(),
    direct.Declined("too many channels are open"),
)
LEAVES = (
    leaves.FetchDocument("leaves", "gate", 5, 7),
    leaves.DocumentPart(0, 1000, None),
    leaves.DocumentPart(0, 0, "there are no such leaves here"),
)
KNOCKS = (
    knock.Knock(("/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001")),
    knock.KnockAnswer(("192.0.2.1",), (knock.Knocked("/ip4/192.0.2.1/tcp/4001", "open"),)),
)
PAIRS = (
    pairs.PairState(PEER, "direct", 3, 0.001, 0.002, None),
    pairs.PairState(PEER, "relayed", 1, None, 0.25, "it gave no address"),
)


# --- openings ---

FIXED, BIAS = to_wire(SamplingParams(temperature=0.7, top_k=40, top_p=0.9, seed=5, logit_bias={3: 1.5}, logprobs=2))
OPENING = messages.OpenSession(
    bytes(range(16)), "ab" * 32, 2, 5, PEER, PEER, 5, 7, 40, 12, (1, 2), False, "float32", FIXED, BIAS
)
SPEC = ModelSpec("llama", 5, 48, VOCAB, CONTEXT, (1,), "float32", {})
FACTS = StageFacts("ab" * 32, Span(1, 5), 5, VOCAB, CONTEXT, "float32", 64)
FED = token_payload((5, 6, 7, 8, 9, 10, 11))


HASH = bytes(range(32))
ROWS = 6
REPLAYS = (
    audit.Replay("ab" * 32, 2, 5, ROWS, "float32", 3, 4, 40, (1, 2), FIXED, BIAS),
    audit.Replay("ab" * 32, 0, 3, ROWS, "bfloat16", 3, 4, 40, (), FIXED, ()),
)
AUDITS = (
    audit.FetchWork(bytes(16), "in", 64),
    audit.WorkData("none are kept"),
    audit.Replayed(None, 17, 5, 0.25, 2),
    audit.AskProfile(),
    audit.ProfileSaid("1.0 float32/cpu", HASH, 0, 5, HASH),
    *REPLAYS,
)


def _replayed(question: audit.Replay) -> bytes:
    header = bytes(audit.encode(question).header)
    rows = ROWS * (4 if question.start == 0 else SPEC.hidden_size * 4)
    tokens = 4 * (ROWS + 1) if question.end == SPEC.n_blocks else 0
    return len(header).to_bytes(4, "big") + header + bytes(rows + tokens)


def _replay(data: bytes) -> ReplayRun:
    size = int.from_bytes(data[:4], "big")
    frame = Frame(data[4 : 4 + size], data[4 + size :])
    question = audit.decode(frame)
    if not isinstance(question, audit.Replay):
        raise ProtocolViolation("another message")
    return ReplayRun(question, frame.payload, SPEC)


def _openings() -> list[bytes]:
    plain = bytes(messages.encode(OPENING).header)
    return [len(plain).to_bytes(4, "big") + plain + FED, len(plain).to_bytes(4, "big") + plain]


def _mutate_opening(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    size = int.from_bytes(data[:4], "big")
    header, payload = data[4 : 4 + size], data[4 + size :]
    if rng.random() < 0.8:
        header = mutate_msgpack(header, rng)
    else:
        payload = mutate_bytes(payload, rng)
    return len(header).to_bytes(4, "big") + header + payload


def _open(data: bytes) -> tuple[Any, Any]:
    size = int.from_bytes(data[:4], "big")
    frame = Frame(data[4 : 4 + size], data[4 + size :])
    request = messages.decode(frame)
    if not isinstance(request, messages.OpenSession):
        raise ProtocolViolation("another message")
    session = SessionTable(FACTS, AdmissionLimits(kv_bytes=1 << 16)).admit(request, PEER, 0.0)
    return session, sampler_for(request, frame.payload, SPEC)


def _open_wrong(sample: bytes, data: bytes, result: tuple[Any, Any]) -> str | None:
    session, _ = result
    if not (FACTS.span.covers(session.span) and 0 < session.fed_tokens < session.capacity <= CONTEXT):
        return f"{session.span}, {session.fed_tokens} fed, capacity {session.capacity}"
    if not session.fed_tokens <= session.limit <= session.capacity or session.pages * FACTS.page_bytes > 1 << 16:
        return f"limit {session.limit}, {session.pages} pages"
    return None


def _from_wire(data: bytes) -> SamplingParams:
    message = messages.decode(Frame(data))
    if not isinstance(message, messages.OpenSession):
        raise ProtocolViolation("another message")
    return from_wire(message.sampling, message.logit_bias)


def _sampling_wrong(sample: bytes, data: bytes, result: SamplingParams) -> str | None:
    return None if from_wire(*to_wire(result)) == result else "another sampling when it is encoded again"


# --- tensors, tokens, documents ---

COUNTS = (3, 1, 4)
WIDTH = 16


def _hidden(dtype: str) -> Decoder:
    torch_dtype = WIRE_DTYPES[dtype]

    def wrong(sample: bytes, data: bytes, result: list[torch.Tensor]) -> str | None:
        shapes = [tuple(piece.shape) for piece in result]
        if shapes != [(count, WIDTH) for count in COUNTS] or any(piece.dtype != torch_dtype for piece in result):
            return f"shapes {shapes}"
        return None if bytes(hidden_payload(result)) == data else "other bytes"

    return Decoder(
        f"hidden states, {dtype}",
        lambda: [bytes(hidden_payload([torch.full((sum(COUNTS), WIDTH), 0.5, dtype=torch_dtype)]))],
        lambda data: split_hidden(data, COUNTS, WIDTH, torch_dtype),
        (BadTensor,),
        wrong,
        ("mesh.provider.stage.frames:split_hidden",),
    )


def _document(data: bytes) -> bytes:
    """A document out of parts: `length u32 | header | length u32 | payload` each."""
    assembly = leaves.Assembly(limit=100_000)
    at = 0
    while at < len(data):
        pieces = []
        for _ in range(2):
            size = int.from_bytes(data[at : at + 4], "big")
            pieces.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        part = leaves.decode(Frame(pieces[0], pieces[1]))
        if not isinstance(part, leaves.DocumentPart):
            raise ProtocolViolation("a request")
        if assembly.add(part, pieces[1]):
            return assembly.body
    raise ProtocolViolation("not whole")


def _documents() -> list[bytes]:
    body = bytes(range(256)) * 10
    out = b""
    for at in range(0, len(body), 1000):
        header, payload = bytes(leaves.encode(leaves.DocumentPart(at, len(body), None)).header), body[at : at + 1000]
        out += len(header).to_bytes(4, "big") + header + len(payload).to_bytes(4, "big") + payload
    return [out]


def decoders() -> list[Decoder]:
    """All of this module."""
    refused = (ProtocolViolation,)
    return [
        codec_decoder(
            "control and ring",
            messages,
            SAMPLES,
            ("mesh.wire.codec:Codec.decode", "mesh.wire.codec:read"),
        ),
        codec_decoder("direct connections", direct, DIRECT, ()),
        codec_decoder("leaves", leaves, LEAVES, ()),
        codec_decoder("knocks", knock, KNOCKS, ()),
        codec_decoder("audits", audit, AUDITS, ()),
        Decoder(
            "replays",
            lambda: [_replayed(question) for question in REPLAYS],
            _replay,
            (ProtocolViolation, BadTensor, BadActivation, InvalidSampling),
            lambda sample, data, run: None if 0 < run.count <= audit.MAX_REPLAYED else f"{run.count} positions",
            ("mesh.verification.replay:ReplayRun.__init__",),
            _mutate_opening,
        ),
        Decoder(
            "rows in float32",
            lambda: [bytes(ROWS * 64)],
            lambda data: as_floats(data, ROWS, "float32"),
            (ValueError,),
            lambda sample, data, rows: None if rows.shape[0] == ROWS and rows.nbytes == len(data) else "other rows",
            ("mesh.verification.judge:as_floats",),
        ),
        Decoder(
            "messages of pairs",
            lambda: [bytes(pairs.encode(PAIRS).header), pack({"t": "pairs", "pairs": []})],
            lambda data: pairs.decode(Frame(data)),
            refused,
            _comes_back(pairs.encode, pairs.decode),
            ("mesh.wire.pairs:decode",),
            mutate_msgpack,
        ),
        Decoder(
            "documents in parts",
            _documents,
            _document,
            refused,
            lambda sample, data, result: sound(()) if len(result) <= 100_000 else "over the limit",
            ("mesh.wire.leaves:Assembly.add",),
        ),
        Decoder(
            "session openings",
            _openings,
            _open,
            (ProtocolViolation, NotAdmitted, InvalidSampling, BadActivation),
            _open_wrong,
            ("mesh.provider.stage.opening:sampler_for", "mesh.provider.stage.admission:SessionTable.admit"),
            _mutate_opening,
        ),
        Decoder(
            "sampling parameters",
            lambda: [bytes(messages.encode(OPENING).header)],
            _from_wire,
            (ProtocolViolation, InvalidSampling),
            _sampling_wrong,
            ("mesh.wire.sampling:from_wire",),
            mutate_msgpack,
        ),
        Decoder(
            "token ids",
            lambda: [FED],
            lambda data: read_tokens(data, 7, VOCAB),
            (BadTensor,),
            lambda sample, data, ids: None if token_payload(ids) == data and max(ids) < VOCAB else "other ids",
            ("mesh.wire.tokens:read_tokens",),
        ),
        *(_hidden(dtype) for dtype in WIRE_DTYPES),
    ]
