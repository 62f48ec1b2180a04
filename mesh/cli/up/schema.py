"""What may stand in `mesh.toml`: the options of `mesh join`, `mesh gateway` and `mesh relay`, by their own names."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from typer.models import OptionInfo

from mesh.errors import ConfigError

Role = Literal["relay", "provider", "gateway"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""In the order in which they start."""
NODE: Final = "node"
SECTIONS: Final = (NODE, *ROLES)
SHARED: Final = (
    *("peers", "wallet", "password_file", "rpc", "deployment", "yes", "claim", "chain_poll"),
    *("transport", "log_level"),
)
"""What [node] says for all that have such an option."""
LABEL: Final = "label"
"""Of a provider: what it is called, and its key with it."""
_NOT_HERE: Final = {"json", "plan"}
_ENVIRONMENT: Final = {"rpc": "MESH_RPC", "wallet": "MESH_WALLET", "log_level": "MESH_LOG"}
"""Variables of the keys whose option names none, or another."""
IDENTITY_VARIABLE: Final = "MESH_IDENTITY"


@dataclass(frozen=True, slots=True)
class Key:
    """One key, and the option that it becomes."""

    name: str
    flag: str
    off: str | None
    """Of a switch: the option that turns it off; None where there is none."""
    kind: type
    """str, int, float, bool or Path."""
    many: bool
    choices: tuple[str, ...]
    least: float | None
    most: float | None
    default: Any
    """None where the command decides; then `shown` may say how."""
    shown: str
    help: str
    variable: str | None
    """The environment's variable for it in all sections."""

    def check(self, value: Any, where: str) -> Any:
        """The value as it should be. Raises `ConfigError` that begins with `where`."""
        if self.many:
            values = value if isinstance(value, list) else [value]
            return [self._one(each, where) for each in values]
        return self._one(value, where)

    def read(self, text: str, where: str) -> Any:
        """The value from words of a command line or the environment. Raises `ConfigError`."""
        if self.many:
            return [self._one(each, where) for each in text.replace(",", " ").split()]
        if self.kind is bool:
            word = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(text.lower())
            if word is None:
                raise ConfigError(f"{where} is true or false, got {text!r}")
            return word
        if self.kind in (int, float):
            try:
                return self._one(self.kind(text), where)
            except ValueError:
                raise ConfigError(f"{where} is {self._wanted()}, got {text!r}") from None
        return self._one(text, where)

    def arguments(self, value: Any) -> list[str]:
        """The value as a command's arguments."""
        if self.kind is bool:
            return [self.flag] if value else [self.off] if self.off else []
        return [part for each in (value if self.many else [value]) for part in (self.flag, str(each))]

    def _one(self, value: Any, where: str) -> Any:
        wanted = str if self.kind is Path else self.kind
        if wanted is float and type(value) is int:
            value = float(value)
        right = type(value) is wanted and (wanted is not str or value)
        if not right:
            raise ConfigError(f"{where} is {self._wanted()}, got {value!r}")
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"{where} is one of {', '.join(self.choices)}, got {value!r}{nearest(value, self.choices)}"
            )
        small, large = self.least is not None and value < self.least, self.most is not None and value > self.most
        if small or large:
            bounds = f"at least {self.least}" if self.most is None else f"from {self.least} to {self.most}"
            raise ConfigError(f"{where} is {bounds}, got {value!r}")
        return value

    def _wanted(self) -> str:
        words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
        return words[self.kind] + (", or a list of such" if self.many else "")


def nearest(word: str, among: Iterable[str]) -> str:
    """` (did you mean …?)`, where something is like it."""
    found = difflib.get_close_matches(word.lower().replace("-", "_"), list(among), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


@cache
def keys_of(section: str) -> Mapping[str, Key]:
    """What may stand in a section."""
    if section == NODE:
        everything = {name: key for role in reversed(ROLES) for name, key in keys_of(role).items()}
        return {name: everything[name] for name in SHARED}
    return dict(_keys(_commands()[section]))


def find_key(section: str, name: str, where: str) -> Key:
    """That key. Raises `ConfigError` that begins with `where`, and names the nearest one."""
    keys = keys_of(section)
    if name in keys:
        return keys[name]
    known = [*keys, LABEL] if section == "provider" else list(keys)
    raise ConfigError(f"{where}: [{section}] has no key {name!r}{nearest(name, known)}")


def _commands() -> dict[str, Callable[..., None]]:
    from mesh.cli.gateway import gateway
    from mesh.cli.join import join
    from mesh.cli.relay import relay

    return {"relay": relay, "provider": join, "gateway": gateway}


def _keys(command: Callable[..., None]) -> Iterable[tuple[str, Key]]:
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if get_origin(parameter.annotation) is not Annotated:
            continue
        annotation, option = get_args(parameter.annotation)[:2]
        if not isinstance(option, OptionInfo) or option.hidden:
            continue
        # In `Annotated[…]` the first word stands where the default otherwise is.
        flag, _, off = str(option.default).partition("/")
        name = flag.removeprefix("--").replace("-", "_")
        if name in _NOT_HERE:
            continue
        inner = _without_none(annotation)
        many = get_origin(inner) is list
        kind = get_args(inner)[0] if many else inner
        choices: tuple[str, ...] = ()
        if issubclass(kind, Enum):
            choices, kind = tuple(str(each.value) for each in kind), str
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        default = str(default.value) if isinstance(default, Enum) else default
        shown = option.show_default if isinstance(option.show_default, str) else ""
        variable = option.envvar if isinstance(option.envvar, str) else None
        variable = _ENVIRONMENT.get(name, None if variable == IDENTITY_VARIABLE else variable)
        help_text = option.help or ""
        bounds = option.min, option.max
        yield name, Key(name, flag, off or None, kind, many, choices, *bounds, default, shown, help_text, variable)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(each for each in get_args(annotation) if each is not type(None))
    return annotation
