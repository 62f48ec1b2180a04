"""Server-sent events as OpenAI frames them: `data: …` lines, ended by `data: [DONE]` (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import BaseModel

from mesh.gateway.errors import ApiError

DONE = b"data: [DONE]\n\n"
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would collect the chunks into larger ones otherwise.
    (b"x-accel-buffering", b"no"),
)


def encode(chunks: Iterable[BaseModel]) -> bytes:
    """One event per chunk. Fields that were not set are left out; JSON escapes every line break."""
    return b"".join(b"data: " + chunk.model_dump_json(exclude_unset=True).encode() + b"\n\n" for chunk in chunks)


def encode_error(error: ApiError) -> bytes:
    """The event that ends a stream which failed after it had begun."""
    return b"data: " + json.dumps(error.body(), ensure_ascii=False).encode() + b"\n\n"
