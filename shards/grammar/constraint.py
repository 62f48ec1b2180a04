"""The form that an answer is held to, as it is asked for and as it travels (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from shards.errors import InvalidGrammar

ConstraintKind = Literal["json_schema", "regex", "grammar"]
KINDS: tuple[ConstraintKind, ...] = get_args(ConstraintKind)
MAX_CONSTRAINT_BYTES = 64 * 1024
MAX_CHOICES = 2048
WHITESPACE = r"[ ]|\n[ ]{0,20}"
"""What may stand between the parts of JSON, where anything does: a space, or a line's end and what indents the next.
Small models that may write any number of spaces write them until their tokens are used up."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A form. `text` is a JSON Schema (draft 2020-12), a regular expression that the whole answer matches, or a context
    free grammar in llguidance's variant of Lark. `param` is what the request calls it.

    Raises `InvalidGrammar` when it is too large.
    """

    kind: ConstraintKind
    text: str
    param: str = "constraint"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidGrammar(f"{self.param}: an answer is held to one of {', '.join(KINDS)}")
        try:
            size = len(self.text.encode())
        except UnicodeEncodeError:
            raise InvalidGrammar(f"{self.param} holds half a surrogate pair, which is not Unicode") from None
        if size > MAX_CONSTRAINT_BYTES:
            raise InvalidGrammar(f"{self.param} has {size} bytes, more than {MAX_CONSTRAINT_BYTES}")


def json_schema(schema: Mapping[str, Any] | bool, param: str = "constraint") -> Constraint:
    """JSON that is valid under a schema. Raises `InvalidGrammar`."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError):
        raise InvalidGrammar(f"{param} is not JSON") from None
    return Constraint("json_schema", text, param)


def json_object(param: str = "constraint") -> Constraint:
    """Any JSON object."""
    return json_schema({"type": "object"}, param)


def one_of(choices: Sequence[str], param: str = "constraint") -> Constraint:
    """One of these texts. Raises `InvalidGrammar`."""
    if not choices or len(choices) > MAX_CHOICES or not all(choices):
        raise InvalidGrammar(f"{param} must be between 1 and {MAX_CHOICES} texts, none of them empty")
    return Constraint(
        "grammar", "start: " + " | ".join(json.dumps(each, ensure_ascii=False) for each in choices), param
    )
