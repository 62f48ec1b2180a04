"""What `mesh up` runs: `mesh.toml`, with the environment and the command line over it, and where each value is from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mesh.cli.up.schema import LABEL, NODE, ROLES, SECTIONS, SHARED, Key, Role, find_key, keys_of, nearest
from mesh.errors import ConfigError

MAX_FILE: Final = 1 << 20
MAX_PROVIDERS: Final = 32
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Value:
    """A value, and who said it: a file's name, a variable, or an option."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """One process of the node. `values` are by key; what nobody said is left to its command."""

    label: str
    role: Role
    values: Mapping[str, Value]

    def get(self, name: str) -> Any:
        """The value of a key; None where nobody said one."""
        found = self.values.get(name)
        return None if found is None else found.value

    def arguments(self) -> list[str]:
        """What its command is told, without the peers."""
        keys = keys_of(self.role)
        said = {name: value for name, value in self.values.items() if name != "peers"}
        return [part for name, each in said.items() for part in keys[name].arguments(each.value)]


@dataclass(frozen=True, slots=True)
class Said:
    """What was said beside the file: `options` of [node] by key, `sets` as SECTION.KEY=VALUE, and the environment."""

    options: Mapping[str, str]
    sets: Sequence[str]
    environment: Mapping[str, str]


def read_file(path: Path) -> dict[str, Any]:
    """The document. Raises `ConfigError`."""
    import tomllib

    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}: `mesh config init` writes one, --config names another") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path} is over {MAX_FILE >> 20} MiB")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def settle(document: Mapping[str, Any], path: Path, said: Said) -> list[NodeSettings]:
    """The processes to run, in the order in which they start. Raises `ConfigError` for what makes no sense."""
    tables = _tables(document, path.name)
    sets = _sets(said.sets)
    _check_variables(said.environment)
    found: list[NodeSettings] = []
    for role in ROLES:
        asked = tables.get(role) or ([{}] if sets.get(role) and role != "provider" else [])
        for table in asked:
            shared = (tables.get(NODE) or [{}])[0]
            values = {
                key.name: value
                for key in keys_of(role).values()
                if (value := _value(role, key, table, shared, path, said, sets)) is not None
            }
            if "wallet" not in values and "rpc" in values and "rpc" not in table:
                del values["rpc"]  # it is for those that are paid
            found.append(NodeSettings(_label(role, table, values, found, path.name), role, values))
    _check(found, path.name)
    return found


def _tables(document: Mapping[str, Any], name: str) -> dict[str, list[dict[str, Any]]]:
    """The sections, with every key looked at; of providers there may be several."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for section, content in document.items():
        if section not in SECTIONS:
            raise ConfigError(f"{name}: there is no section {section!r}{nearest(section, SECTIONS)}")
        several = content if isinstance(content, list) and section == "provider" else [content]
        if not all(isinstance(each, dict) for each in several) or len(several) > MAX_PROVIDERS:
            many = f", or [[provider]] for up to {MAX_PROVIDERS}" if section == "provider" else ""
            raise ConfigError(f"{name}: {section} is a section, as [{section}]{many}")
        for table in several:
            for key, value in table.items():
                if (section, key) != ("provider", LABEL):
                    find_key(section, key, name).check(value, f"{name}: {section}.{key}")
        tables[section] = several
    return tables


def _sets(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        section, dot, key = name.partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set takes SECTION.KEY=VALUE, as gateway.port=8001, got {text!r}")
        if section not in SECTIONS:
            raise ConfigError(f"--set: there is no section {section!r}{nearest(section, SECTIONS)}")
        find_key(section, key, "--set")
        found.setdefault(section, {})[key] = value
    return found


def _check_variables(environment: Mapping[str, str]) -> None:
    for name in environment:
        for role in ROLES:
            prefix = f"MESH_{role.upper()}_"
            if name.startswith(prefix):
                find_key(role, name.removeprefix(prefix).lower(), f"the variable {name}")


def _value(
    role: Role,
    key: Key,
    table: Mapping[str, Any],
    shared: Mapping[str, Any],
    path: Path,
    said: Said,
    sets: Mapping[str, Mapping[str, str]],
) -> Value | None:
    """What is said of this node goes before what is said of all; of either, options go before the environment."""
    name, variable = key.name, f"MESH_{role.upper()}_{key.name.upper()}"
    if name in sets.get(role, {}):
        return Value(key.read(sets[role][name], f"--set {role}.{name}"), f"--set {role}.{name}")
    if said.environment.get(variable):
        return Value(key.read(said.environment[variable], variable), variable)
    if name in table:
        return Value(_from_file(key, table[name], path), path.name)
    is_shared = name in SHARED
    if is_shared and name in said.options:
        flag = f"--{name.replace('_', '-')}"
        return Value(key.read(said.options[name], flag), flag)
    if is_shared and name in sets.get(NODE, {}):
        return Value(key.read(sets[NODE][name], f"--set node.{name}"), f"--set node.{name}")
    common = key.variable or (f"MESH_{name.upper()}" if is_shared else None)
    if common is not None and said.environment.get(common):
        return Value(key.read(said.environment[common], common), common)
    if is_shared and name in shared:
        return Value(_from_file(key, shared[name], path), f"{path.name} [node]")
    return None


def _from_file(key: Key, value: Any, path: Path) -> Any:
    """Paths in a file are beside it, and a model may be one."""
    checked = key.check(value, key.name)
    if key.kind is Path:
        return str(path.parent / checked)
    if key.name == "model":
        return [str(there) if (there := path.parent / each).exists() else each for each in checked]
    return checked


def _label(
    role: Role, table: Mapping[str, Any], values: Mapping[str, Value], others: Sequence[NodeSettings], file: str
) -> str:
    """What a process is called, always the same for the same file: its key is kept under that name."""
    given = table.get(LABEL)
    taken = {other.label for other in others}
    if given is not None:
        if not isinstance(given, str) or not _LABEL.fullmatch(given) or given in (*taken, *ROLES):
            raise ConfigError(f"{file}: provider.{LABEL} is letters, digits, . _ and -, each once, got {given!r}")
        return given
    if role != "provider":
        return role
    models = values["model"].value if "model" in values else []
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", Path(models[0]).name).strip(".-_")[:48] if models else ""
    base = f"provider-{stem}" if stem else role
    return next(each for each in (base, *(f"{base}-{n}" for n in range(2, 99))) if each not in taken)


def _check(nodes: Sequence[NodeSettings], file: str) -> None:
    if not nodes:
        raise ConfigError(f"{file} starts nothing: it needs a [[provider]], a [gateway] or a [relay]")
    for node in nodes:
        if node.role == "provider" and not node.get("model"):
            raise ConfigError(f"{file}: a provider needs a model")
        if node.role == "gateway" and not node.get("peers") and len(nodes) == 1:
            raise ConfigError(f"{file}: a gateway alone needs peers, the address of a node of the swarm")
        if node.get("rpc") and not node.get("wallet") and node.values["rpc"].source == file:
            raise ConfigError(f"{file}: {node.role}.rpc says where to be paid, and no wallet is named")
