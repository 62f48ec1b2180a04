"""Server-sent events: how each API frames its streams (pure)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, RootModel

from mesh.gateway.schemas import Failure

COMMENT = b": working on it\n\n"
"""What says that the answer is under way, and nothing else."""
DONE = b"data: [DONE]\n\n"
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would collect the chunks into larger ones otherwise.
    (b"x-accel-buffering", b"no"),
)


class NamedEvent(RootModel[dict[str, Any]]):
    """An event of the APIs that name theirs: its `type` is the event's name too."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream is written: its events, what ends it, and the event of a stream that failed after it had begun."""

    encode: Callable[[Iterable[BaseModel]], bytes]
    failure: Callable[[Failure], bytes]
    done: bytes


def encode(chunks: Iterable[BaseModel]) -> bytes:
    """One event per chunk. Fields that were not set are left out; JSON escapes every line break."""
    return b"".join(b"data: " + chunk.model_dump_json(exclude_unset=True).encode() + b"\n\n" for chunk in chunks)


def encode_named(chunks: Iterable[BaseModel]) -> bytes:
    """The same for `NamedEvent`s, each under its name."""
    return b"".join(
        b"event: " + str(chunk.root["type"]).encode() + b"\ndata: " + chunk.model_dump_json().encode() + b"\n\n"
        for chunk in chunks
        if isinstance(chunk, NamedEvent)
    )


def encode_failure(failure: Failure) -> bytes:
    """The event that ends a stream of chunks which failed after it had begun."""
    body: dict[str, Any] = {"error": failure.error.model_dump()}
    if failure.resume_ticket is not None:
        body["resume_ticket"] = failure.resume_ticket
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


CHUNKS = Framing(encode, encode_failure, DONE)
"""`/v1/completions` and `/v1/chat/completions`."""
