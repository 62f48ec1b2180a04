"""`mesh.toml` as text: the commented file that `mesh config init` writes, and what `mesh config show` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from mesh.cli.up.schema import LABEL, NODE, Key, keys_of
from mesh.cli.up.settings import NodeSettings

WIDTH = 96
HEAD = """\
# What `mesh up` runs on this machine. Every key is an option of `mesh join`, `mesh gateway` or `mesh relay`.
# Over this file goes the environment (MESH_PEERS; MESH_GATEWAY_PORT for a key of one section), and over that
# `mesh up --set gateway.port=8001`. `mesh config show` prints what comes out, and where each value is from.
# Paths are beside this file. What stands behind a # has its default.
"""
SAID = {
    NODE: "What holds for all below.",
    "relay": "A way into the swarm, for machines behind a NAT. Wants a public address.",
    "provider": "Serves blocks of a model. May be repeated, each with its own label.",
    "gateway": "The OpenAI-compatible API, and the page that shows the swarm.",
}
SET = {("provider", "model"): ["tiny-python"], ("provider", "max_blocks"): 8, ("gateway", "port"): 8000}


def commented() -> str:
    """A file that starts a provider of the model that ships and a gateway, with all keys explained."""
    lines = [HEAD]
    for section in (NODE, "provider", "gateway", "relay"):
        off = "# " if section == "relay" else ""
        title = f"[[{section}]]" if section == "provider" else f"[{section}]"
        lines += ["", f"# {SAID[section]}", f"{off}{title}"]
        if section == "provider":
            lines += ["", "# Its name here, under which its key is kept.", f"# {LABEL} = "]
        for key in keys_of(section).values():
            if section != NODE and key.name in keys_of(NODE):
                continue
            lines += ["", *(f"# {line}" for line in wrap(_explained(key), WIDTH))]
            given = SET.get((section, key.name))
            lines.append(f"{key.name} = {toml(given)}" if given is not None else f"# {key.name} = {_default(key)}")
    return "\n".join(lines) + "\n"


def _explained(key: Key) -> str:
    choices = f" One of {', '.join(key.choices)}." if key.choices else ""
    return f"{key.help}{choices}" + (f" [{key.shown}]" if key.shown else "")


def _default(key: Key) -> str:
    """What stands after the sign of a key that nobody set: its default, or a value of its kind."""
    if type(key.default) in (int, float, bool, str):
        return toml(key.default)
    return "[]" if key.many else '""' if key.kind in (str, Path) else ""


def shown(nodes: Sequence[NodeSettings], *, with_defaults: bool = False) -> str:
    """What is run, as TOML whose comments say where each value is from."""
    lines: list[str] = []
    for node in nodes:
        lines += [f"[[{node.role}]]" if node.role == "provider" else f"[{node.role}]"]
        if node.role == "provider":
            lines.append(f"{LABEL} = {toml(node.label)}")
        for key in keys_of(node.role).values():
            if (value := node.values.get(key.name)) is not None:
                lines.append(f"{key.name} = {toml(value.value)}  # {value.source}")
            elif with_defaults:
                default = f" = {_default(key)}" if key.default is not None else f": {key.shown or 'none'}"
                lines.append(f"# {key.name}{default}")
        lines.append("")
    return "\n".join(lines)


def toml(value: Any) -> str:
    """A text, number, switch or list of texts as TOML writes it, which for these is nearly as JSON does."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
