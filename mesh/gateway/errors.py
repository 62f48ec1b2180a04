"""Errors as OpenAI writes them: which HTTP status, type and code each kind of failure gets (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from mesh.errors import (
    Cancelled,
    ContextLengthExceeded,
    DaemonDown,
    InvalidRequest,
    MeshError,
    NoRoute,
    PeerError,
    PeerTimeout,
    Refused,
    StorageUnavailable,
    UnknownModel,
)
from mesh.swarm.route import GAP_RETRY_SECONDS
from shards.errors import (
    BadActivation,
    CapacityExceeded,
    CheckpointError,
    InvalidSampling,
    NotText,
    ShardError,
    TextTooLong,
    TokenizerError,
    TokenizerLimit,
    UnsupportedModel,
)

_MAX_MESSAGE = 500
"""Characters of an error message that go out: some quote what a peer or the client wrote."""

STORAGE_SECONDS = 5.0
"""After which a request that needed a disk without room is worth another try."""

_HTTP_CODES: Mapping[int, tuple[str, str | None]] = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("invalid_request_error", "not_allowed_here"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "body_timeout"),
    413: ("invalid_request_error", "body_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
}


_UNIONS: Mapping[str, str] = {
    "prompt": "prompt must be a string, a list of strings, a list of token ids, or a list of such lists",
    "stop": "stop must be a string or a list of strings",
}
"""Fields of several types: pydantic would name the first of them only."""


@dataclass(frozen=True, slots=True)
class ApiError:
    """One error answer: its HTTP status, the fields of OpenAI's error object, and extra headers."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON body: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class ApiFailure(Exception):
    """A request that failed before the mesh was asked; carries its answer."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def describe(error: BaseException, request_id: str) -> ApiError:
    """The answer to a request that failed with `error`.

    Failures that are not the client's, the swarm's or a peer's are ours: they say nothing but `request_id`,
    by which the operator finds the traceback in the log.
    """
    text = shorten(str(error))
    match error:
        case ApiFailure():
            return error.error
        case UnknownModel():
            return ApiError(404, text, param="model", code="model_not_found")
        case ContextLengthExceeded():
            return ApiError(400, text, param=error.param, code="context_length_exceeded")
        case InvalidRequest():
            return ApiError(400, text, param=error.param, code="invalid_value")
        case InvalidSampling():
            return ApiError(400, text, param=_leading_name(text), code="invalid_value")
        case Refused():
            return _busy(text, error.retry_after)
        case CapacityExceeded():
            return _busy(text, 1.0)
        case NoRoute():
            wait = GAP_RETRY_SECONDS if error.retry_after is None else error.retry_after
            return ApiError(503, text, "server_error", code="no_route", headers=retry_after(wait))
        case StorageUnavailable():
            return _no_storage()
        case Cancelled():
            return ApiError(503, text or "The session was cancelled.", "server_error", code="cancelled")
        case DaemonDown():
            return ApiError(503, text, "server_error", code="node_restarting", headers=retry_after(error.retry_after))
        case PeerTimeout():
            return ApiError(504, text, "server_error", code="peer_timeout")
        case PeerError():
            return ApiError(502, text, "server_error", code="peer_error")
        case TextTooLong():
            return ApiError(400, text, code="context_length_exceeded")
        case NotText():
            return ApiError(400, text, code="invalid_value")
        case TokenizerLimit():
            headers = retry_after(error.retry_after) if error.retry_after else {}
            return ApiError(502, text, "server_error", code="model_error", headers=headers)
        case CheckpointError() | TokenizerError() | UnsupportedModel() | BadActivation():
            return ApiError(502, text, "server_error", code="model_error")
        case TimeoutError():
            return ApiError(504, "The swarm did not answer in time.", "server_error", code="timeout")
        case _:
            return internal(request_id)


def is_ours(error: BaseException) -> bool:
    """True when `error` tells of a bug of ours, so that the log must keep its traceback."""
    return describe(error, "").status == 500


def internal(request_id: str) -> ApiError:
    """A bug of ours: the client learns only under which id the operator can find it."""
    return ApiError(500, f"Internal error; request id {request_id}.", "server_error", code="internal_error")


def from_http(status: int, detail: str, headers: Mapping[str, str] | None = None) -> ApiError:
    """An error of the HTTP layer itself: no such URL, wrong method, no key, body too large."""
    kind, code = _HTTP_CODES.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
    return ApiError(status, shorten(detail), kind, code=code, headers=dict(headers or {}))


def invalid_body(error: ValidationError) -> ApiError:
    """A body that is not JSON, or whose fields have wrong types; names the first field that is wrong."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {shorten(first['msg'])}", code="invalid_json")
    param = str(first["loc"][0]) if first["loc"] else None
    where = ".".join(str(part) for part in first["loc"])
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_type"
    message = f"{where}: {first['msg']}" if where else first["msg"]
    if param is not None and param in _UNIONS and code == "invalid_type":
        message = _UNIONS[param]
    return ApiError(400, shorten(message), param=param, code=code)


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report of several that happened together: a named one before an unforeseen one."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    named = [leaf for leaf in leaves if isinstance(leaf, MeshError | ShardError)]
    return (named or leaves)[0]


def shorten(text: str) -> str:
    """`text`, cut where it is too long to be sent back."""
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…"


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when to try again: whole seconds, 1 to 3600."""
    wait = seconds if math.isfinite(seconds) else 60.0
    return {"Retry-After": str(min(max(math.ceil(wait), 1), 3600))}


def _busy(text: str, wait: float) -> ApiError:
    return ApiError(429, text, "rate_limit_error", code="at_capacity", headers=retry_after(wait))


def _no_storage() -> ApiError:
    """What must be written down first cannot be: which file, the operator's log says."""
    message = "The gateway cannot write its accounts now; nothing was charged for this. Try again in a moment."
    return ApiError(503, message, "server_error", code="storage_unavailable", headers=retry_after(STORAGE_SECONDS))


def _leading_name(text: str) -> str | None:
    """`InvalidSampling` messages begin with the parameter they are about."""
    name = text.split(" ", 1)[0].partition("[")[0]
    return name if name.isidentifier() else None
