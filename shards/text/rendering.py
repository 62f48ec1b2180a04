"""A chat template in jinja2's sandbox; runs in a child process only, whose limits end what grows or never stops.

The conventions (trim and lstrip of blocks, `raise_exception`, `strftime_now`, the plain `tojson`, the `generation`
tag) are those of Hugging Face's chat templates. jinja2's sandbox keeps a template away from Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shards.errors import TokenizerError
from shards.text.limits import MAX_PROMPT_CHARACTERS

_PYTHON_FAILURES = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class Template:
    """A compiled chat template. Raises `TokenizerError` when it is not a template."""

    def __init__(self, source: str) -> None:
        environment = _Environment()
        try:
            self._template = environment.from_string(source)
        except _PYTHON_FAILURES as error:
            raise TokenizerError(f"the chat template does not compile: {_sentence(error)}") from error

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """The prompt. Raises `TokenizerError` when the template fails, refuses, or writes too much."""
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(messages=[*messages], **variables):
                length += len(piece)
                if length > MAX_PROMPT_CHARACTERS:
                    raise SecurityError(f"the prompt exceeds {MAX_PROMPT_CHARACTERS} characters")
                pieces.append(piece)
        except _PYTHON_FAILURES as error:
            raise TokenizerError(f"the chat template failed: {_sentence(error)}") from error
        return "".join(pieces)


class _Environment(ImmutableSandboxedEnvironment):
    # What is intercepted is not computed while a template is compiled.
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag], cache_size=0)
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now


class _GenerationTag(Extension):
    """`{% generation %}`, which marks the assistant's words for training: here its content, unchanged."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as an instance attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(value, Undefined):
        raise TypeError("tojson was given an undefined value")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message)[:500])


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _sentence(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:500]
