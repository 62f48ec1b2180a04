"""Render a stranger's chat template: jinja2's sandbox, plus a budget on work, memory and output.

The conventions (trim and lstrip of blocks, `raise_exception`, `strftime_now`, the plain `tojson`, the
`generation` tag) are those of Hugging Face's chat templates. The sandbox keeps a template away from Python;
it does not stop one that multiplies a string by a billion or loops for a week. So every loop turn, macro
call, built string or list and printed value is charged to a budget, before it is built where it can grow.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from shards.errors import TokenizerError

MAX_TEMPLATE_CHARACTERS = 256 << 10
MAX_PROMPT_CHARACTERS = 4 << 20
MAX_SECONDS = 2.0
MAX_WORK = 32 << 20
"""Characters, list entries and loop turns that one rendering may build, in all."""
MAX_VALUE = 8 << 20
"""The same for a single value."""
MAX_INTEGER_BITS = 256
MAX_JSON_INDENT = 16

_FILTERS = (
    *("abs", "attr", "batch", "bool", "capitalize", "count", "d", "default", "dictsort", "e", "escape"),
    *(
        "first",
        "float",
        "forceescape",
        "groupby",
        "indent",
        "int",
        "items",
        "last",
        "length",
        "list",
        "lower",
    ),
    *("map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select"),
    *("selectattr", "sort", "string", "striptags", "title", "trim", "unique", "upper", "wordcount"),
)
"""jinja2's filters less the random ones, those that pad or format to a width, and those replaced below."""
_WIDENING_METHODS = frozenset(("ljust", "rjust", "center", "zfill", "expandtabs", "translate", "to_bytes"))
_WIDE_FIELD = re.compile(r"\{[^{}]*(?:\{|[:.][^{}]*\d{3})")
_WIDE_PERCENT = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*(?:\*|\d{3})")
"""A field padded to a hundred characters or more, or to a width that comes from an argument."""
_PYTHON_FAILURES = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """A compiled chat template. Raises `TokenizerError` when it is too long or not a template."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise TokenizerError(f"the chat template has {len(source)} characters, more than {MAX_TEMPLATE_CHARACTERS}")
        self._environment = _Environment()
        try:
            with self._environment.metered():  # jinja2 computes constant expressions while compiling
                self._template = self._environment.from_string(source)
        except _PYTHON_FAILURES as error:
            raise TokenizerError(f"the chat template does not compile: {_sentence(error)}") from error

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """The prompt. Raises `TokenizerError` when the template fails, refuses, or exceeds its budget."""
        pieces: list[str] = []
        length = 0
        try:
            with self._environment.metered():
                for piece in self._template.generate(messages=[*messages], **variables):
                    length += len(piece)
                    if length > MAX_PROMPT_CHARACTERS:
                        raise SecurityError(f"the prompt exceeds {MAX_PROMPT_CHARACTERS} characters")
                    pieces.append(piece)
        except _PYTHON_FAILURES as error:
            raise TokenizerError(f"the chat template failed: {_sentence(error)}") from error
        return "".join(pieces)


class _Meter:
    """What one rendering has left; used as a context manager around it."""

    def __init__(self, local: threading.local) -> None:
        self._local = local
        self._left = MAX_WORK
        self._deadline = time.monotonic() + MAX_SECONDS

    def __enter__(self) -> None:
        self._local.meter = self

    def __exit__(self, *_: object) -> None:
        self._local.meter = None

    def charge(self, work: int) -> None:
        self._left -= work
        if self._left < 0 or time.monotonic() > self._deadline:
            raise SecurityError("it does too much work for a chat template")


class _Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with a meter on whatever can grow or repeat."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        self._local = threading.local()
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationTag],
            finalize=self.weighed,
            cache_size=0,
        )
        self.filters = {name: _metered(self, name, FILTERS[name]) for name in _FILTERS if name in FILTERS}
        self.filters["tojson"] = _metered(self, "tojson", _to_json)
        self.filters["join"] = self._join
        self.filters["format"] = self._percent
        self.globals.pop("lipsum", None)
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def metered(self) -> _Meter:
        return _Meter(self._local)

    def charge(self, work: int) -> None:
        """Count work, while a template is compiled or rendered."""
        meter = getattr(self._local, "meter", None)
        if meter is not None:
            meter.charge(work)

    def weighed(self, value: Any) -> Any:
        """The value itself, its size charged. Shared parts count as often as they would be printed."""
        self.charge(self._size(value))
        return value

    def concatenated(self, *values: Any) -> str:
        """`a ~ b`, with each part charged before it is copied."""
        return "".join(str(self.weighed(value)) for value in values)

    def _size(self, value: Any) -> int:
        if isinstance(value, str | bytes):
            return len(value) + 1
        if isinstance(value, Mapping):
            return self._sum(item for pair in value.items() for item in pair)
        if isinstance(value, list | tuple | set | frozenset):
            return self._sum(value)
        return 1

    def _sum(self, values: Iterable[Any]) -> int:
        total = 1
        for value in values:
            total += self._size(value)
            if total > MAX_VALUE:
                raise SecurityError("it builds too large a value")
        return total

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Instrument().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr in _WIDENING_METHODS and isinstance(obj, str | bytes | int):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`+ * ** %` with the size of the result known before it is computed."""
        if isinstance(left, int) and isinstance(right, int):
            bits = {"*": left.bit_length() + right.bit_length(), "**": left.bit_length() * max(0, right)}
            if bits.get(operator, 0) > MAX_INTEGER_BITS:
                raise SecurityError("it computes too large a number")
        elif operator == "%" and isinstance(left, str):
            if isinstance(right, Mapping):
                return self._percent(left, **right)
            return self._percent(left, *(right if isinstance(right, tuple) else (right,)))
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, str | bytes | list | tuple) and isinstance(times, int):
                    self.charge(self._size(sequence) * max(0, times))
        else:
            self.charge(self._size(left) + self._size(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call from the template: growth charged before, the result after."""
        owner = getattr(obj, "__self__", None)
        name = getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "join" and len(args) == 1:
            return self._join(args[0], owner)
        if isinstance(owner, str):
            self.charge_growth(name, (owner, *args), kwargs)
        return self.weighed(super().call(context, obj, *args, **kwargs))

    def charge_growth(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Charge for what a method or filter is about to build; `args` starts with the value it works on."""
        text = args[0] if args else ""
        given = [*args[1:], *kwargs.values()]
        if name == "replace" and given:
            old = str(kwargs.get("old", given[0]))
            self.charge(max(len(str(item)) for item in given) * (str(text).count(old) + 1))
        elif name == "indent" and given:
            width = given[0] if isinstance(given[0], int) else len(str(given[0]))
            self.charge(max(0, width) * (str(text).count("\n") + 1))
        elif name in ("batch", "round") and any(isinstance(item, int) and abs(item) > 64 for item in given):
            raise SecurityError(f"it calls {name} with too large a number")

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format` in jinja2's safe form, without wide fields."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text: str = value.__self__

        def formatted(*args: Any, **kwargs: Any) -> Any:
            fields = text.replace("{{", "").replace("}}", "")
            self._charge_format(text, fields.count("{"), _WIDE_FIELD.search(fields), (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return formatted

    def _percent(self, form: str, *args: Any, **kwargs: Any) -> str:
        """The `format` filter, and `%` on a text, without wide fields."""
        form = str(form)
        fields = form.replace("%%", "")
        given = (*args, *kwargs.values())
        self._charge_format(form, fields.count("%"), _WIDE_PERCENT.search(fields), given)
        return form % (kwargs or args)

    def _charge_format(self, form: str, fields: int, wide: object, given: Sequence[Any]) -> None:
        if wide:
            raise SecurityError("it formats to a width that no chat template needs")
        largest = max((self._size(item) for item in given), default=0)
        self.charge(len(form) + fields * (largest + 100))

    def _join(self, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        pieces: list[str] = []
        for value in values:
            item = value if attribute is None else self.getitem(value, attribute)
            pieces.append(str(self.weighed(item)))
            self.charge(len(str(d)) + 1)
        return str(d).join(pieces)


class _Instrument(NodeTransformer):
    """Adds the charges that jinja2 has no hook for: loop turns, macro calls, `~`, and literal containers."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._charged(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._charged(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._charged(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concatenated", node.nodes, node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _call("weighed", [node], node.lineno)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _call("weighed", [node], node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _call("weighed", [node], node.lineno) if node.ctx == "load" else node

    def _charged(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        text = sum(len(data.data) for part in node.body for data in _data_of(part))
        self.generic_visit(node)
        cost = nodes.Const(text + 16, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(_call("charge", [cost], node.lineno), lineno=node.lineno))
        return node


class _GenerationTag(Extension):
    """`{% generation %}`, which marks the assistant's words for training: here its content, unchanged."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as an instance attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _data_of(node: nodes.Node) -> list[nodes.TemplateData]:
    found = [node] if isinstance(node, nodes.TemplateData) else []
    return [*found, *node.find_all(nodes.TemplateData)]


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    # An attribute of the environment: no name that a template could shadow.
    target = nodes.EnvironmentAttribute(method, lineno=line)
    return nodes.Call(target, arguments, [], None, None, lineno=line)


def _metered(environment: _Environment, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    passes_context = getattr(function, "jinja_pass_arg", None) is not None

    @wraps(function)  # keeps jinja2's mark of what to pass first
    def metered(*args: Any, **kwargs: Any) -> Any:
        environment.charge_growth(name, args[1:] if passes_context else args, kwargs)
        return environment.weighed(function(*args, **kwargs))

    return metered


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(value, Undefined):
        raise TypeError("tojson was given an undefined value")
    if indent is not None and not 0 <= indent <= MAX_JSON_INDENT:
        raise ValueError(f"tojson may indent by up to {MAX_JSON_INDENT}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message)[:500])


def _strftime_now(form: str) -> str:
    if len(form) > 100:
        raise ValueError("strftime_now takes a short format")
    return datetime.now().strftime(form)


def _sentence(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:500]
