"""A node's answers: which belongs to which request, what is a refusal, and numbers and bytes read strictly. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chain import safe_json
from chain.client.retry import is_rate_limit
from chain.errors import BadAnswer, RateLimited, RpcRefused

MAX_MESSAGE = 4_000
"""Characters that are kept of a node's own words."""


def parse(raw: bytes) -> dict[str, Any] | list[Any] | None:
    """The JSON object or array in a body; None for anything else."""
    try:
        value = safe_json.parse(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None


def match(requests: Sequence[Any], answers: dict[str, Any] | list[Any], shown: str) -> list[dict[str, Any]]:
    """One well-formed JSON-RPC answer a request, in the order of the requests, with `result` or `error`.

    Raises `BadAnswer` for one that is missing or neither, `RateLimited` where the node wants us to slow down. `shown`
    is how to name the node.
    """
    listed = answers if isinstance(answers, list) else [answers]
    by_id = {
        each["id"]: each for each in listed if isinstance(each, dict) and isinstance(each.get("id"), int | str | float)
    }
    found: list[dict[str, Any]] = []
    for request in requests:
        method = request["method"]
        answer = by_id.get(request["id"])
        if answer is None and isinstance(answers, dict) and "error" in answers:
            answer = answers  # the whole batch was refused
        if answer is None:
            raise BadAnswer(f"{shown} left {method} unanswered")
        envelope = {"jsonrpc": "2.0", "id": request["id"]}
        error = answer.get("error")
        if error is not None:
            plain = _error(error)
            if is_rate_limit(plain["code"], plain["message"]):
                raise RateLimited(f"{shown}: {plain['message']}")
            found.append({**envelope, "error": plain})
        elif "result" in answer:
            found.append({**envelope, "result": answer["result"]})
        else:
            raise BadAnswer(f"{shown} answered {method} with neither result nor error")
    return found


def refusal(error: dict[str, Any]) -> RpcRefused:
    """The exception for an `error` that `match` let through."""
    return RpcRefused(error["message"], code=error["code"], data=error.get("data"))


def _error(error: Any) -> dict[str, Any]:
    if not isinstance(error, dict):
        return {"code": 0, "message": error[:MAX_MESSAGE] if isinstance(error, str) else safe_json.shown(error)}
    code, message = error.get("code"), error.get("message", "")
    return {
        "code": code if isinstance(code, int) else 0,
        "message": message[:MAX_MESSAGE] if isinstance(message, str) else safe_json.shown(message),
        "data": error.get("data"),
    }


def seconds(header: str | None) -> float | None:
    """A Retry-After header that gives seconds, at most an hour; our own backoff will do for a date."""
    try:
        value = float(header) if header is not None else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < 3600 else None


def quantity(value: Any) -> int:
    """An integer from a node's hex quantity. Raises `BadAnswer`."""
    if isinstance(value, str) and value.startswith("0x") and len(value) <= 66:
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise BadAnswer(f"a quantity was expected, got {safe_json.shown(value)}")


def data(value: Any) -> bytes:
    """Bytes from a node's hex data. Raises `BadAnswer`."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise BadAnswer(f"hex data was expected, got {safe_json.shown(value)}")
