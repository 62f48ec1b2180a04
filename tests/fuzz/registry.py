"""The table of every decoder of remote or file input."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from tests.fuzz import accounts, apis, files, frames, http, light, money, node, packed, peers, scratch, texts, wire
from tests.fuzz.decoder import Decoder

ROOT: Final = Path(__file__).parents[2]


@cache
def all_decoders() -> tuple[Decoder, ...]:
    """Every decoder, in a fixed order."""
    return tuple(
        each
        for module in (frames, wire, light, peers, money, node, files, texts, packed, http, apis, accounts)
        for each in module.decoders()
    )


@contextmanager
def workshop() -> Iterator[tuple[Decoder, ...]]:
    """The decoders, with what they need while they run: an event loop and a folder."""
    frames.begin()
    scratch.scratch()
    try:
        yield all_decoders()
    finally:
        frames.close()
        scratch.close()


# What reads remote or file input is found by what it calls, or by its name; each must be in the table or here.
PARSERS: Final = frozenset((
    "unpackb", "Unpacker", "loads", "safe_json.parse", "abi.decode", "eth_abi.decode", "model_validate_json", "unpack",
    "from_buffer", "load_der_x509_certificate", "decode_keyfile_json", "frombuffer", "rlp.decode", "FromString",
    "ParseFromString",
))  # fmt: skip
NAMES: Final = re.compile(
    r"_?(decode|parse|recover|verify)(_\w+)?$|read_(header|map|tokens|manifest|spec|reports|binding)$"
)
ON_THE_WIRE: Final = re.compile(r"(read|unpack|from)_")
"""In mesh/wire these names are enough."""
EXEMPT: Final = {
    "mesh.payment.accounts.promises:PayerBooks.recover": "takes a number",
    "mesh.payment.credit.comparison:verify_receipt": "signatures are in «vouchers and receipts»",
    "mesh.transport.libp2p.muxer:Muxer._parse": "its headers are in «yamux frames», its state in test_yamux.py",
    "mesh.payment.accounts.store:AccountStore._recover": "our own database",
    "shards.text.fast:FastTokenizer.decode": "takes our own token ids",
    "shards.text.tokenizer:Tokenizer.decode": "takes our own token ids",
    "shards.text.rendering:_GenerationTag.parse": "jinja's hook; templates are in «tokenizer files»",
    "chain.abi:Artifact._decode_log": "called by decode_log",
    "chain.abi:load": "reads the package's own artifacts",
    "chain.client.actions:Actions._is_imagined": "calls Function.decode",
    "mesh.cli.demo:": "reads the answers of its own gateway",
    "mesh.cli.fork_server:": "reads what its own parent asks for, on a socket that only that one holds",
    "mesh.cli.archive:_parse": "a backup of one's own, whose damages are in test_backup.py",
    "mesh.cli.trying.": "reads what its own commands print",
    "mesh.cli.up.settings:read_file": "the operator's own mesh.toml",
    "mesh.gateway.structured:_schema": "JSON inside a body that has its bounds; forms are tried in a child",
    "shards.grammar.library:": "reads what the library wrote",
    "shards.grammar.matcher:": "takes masks that the library wrote",
    "mesh.gateway.messages:MessageWriter.whole": "reads what «calls of tools» let through",
    "mesh.gateway.responses:ResponseWriter._event": "reads what it has just written",
    "mesh.cli.processes:": "reads the events of its own children",
    "mesh.transport.daemon:Daemon._read_output": "reads the log of its own p2pd",
    "mesh.transport.direct.liveness:silent": "reads the kernel's tcp_info",
    "shards.sandbox.box:Box._exchange": "reads the answers of our own child",
    "shards.sandbox.server:": "runs in the child; its memory and time are bounded",
    "shards.sandbox.fork_server:": "reads numbers from our own child",
    "shards.model.packing:": "takes zeroed memory of our own",
    "shards.checkpoint.file_hashes:": "files that only we can write",
    "shards.training": "runs on a developer's own files",
    "chain.devnet": "a development chain takes no strangers",
    "chain.consensus:": "takes values, not bytes",
    "chain.mining:": "takes values, not bytes",
    "chain.plots:": "takes values, not bytes",
    "mesh.identity:Identity.load": "a file that only we can read; its content is in «identity files»",
}
"""By the beginning of `module:name`, and why."""


def found_decoders() -> dict[str, str]:
    """Every function of the project that looks like a decoder, as `module:name`, and why it does."""
    found = {}
    for package in ("mesh", "shards", "chain"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            tree = ast.parse(path.read_text())
            for name, why in _in_module(tree):
                found[f"{module}:{name}"] = why
            if module.startswith("mesh.wire."):
                for part in tree.body:
                    if isinstance(part, ast.FunctionDef) and ON_THE_WIRE.match(part.name):
                        found[f"{module}:{part.name}"] = "reads what is on the wire"
    return found


def _in_module(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for part in tree.body:
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _in_function(part, part.name)
        elif isinstance(part, ast.ClassDef):
            for inner in part.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from _in_function(inner, f"{part.name}.{inner.name}")
        elif isinstance(part, ast.Assign) and isinstance(part.value, ast.Attribute) and part.value.attr == "decode":
            yield ast.unparse(part.targets[0]), "is a codec's decode"


def _in_function(function: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[tuple[str, str]]:
    if NAMES.match(function.name):
        yield name, "has a decoder's name"
        return
    for call in (each for each in ast.walk(function) if isinstance(each, ast.Call)):
        called = ast.unparse(call.func)
        if called in PARSERS or called.rpartition(".")[2] in PARSERS:
            yield name, f"calls {called}"
            return
