"""Server-sent events as OpenAI frames them: `data: …` lines, ended by `data: [DONE]` (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

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


def encode(chunks: Iterable[BaseModel]) -> bytes:
    """One event per chunk. Fields that were not set are left out; JSON escapes every line break."""
    return b"".join(b"data: " + chunk.model_dump_json(exclude_unset=True).encode() + b"\n\n" for chunk in chunks)


def encode_failure(failure: Failure) -> bytes:
    """The event that ends a stream which failed after it had begun."""
    body: dict[str, Any] = {"error": failure.error.model_dump()}
    if failure.resume_ticket is not None:
        body["resume_ticket"] = failure.resume_ticket
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
