"""Read Python source as a training corpus: file selection, held-out split, conversations (no torch here)."""

from __future__ import annotations

import ast
import hashlib
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ENDOFTEXT = "<|endoftext|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
SYSTEM = "<|system|>"
END = "<|end|>"
SPECIAL_TOKENS = (ENDOFTEXT, USER, ASSISTANT, SYSTEM, END)

MAX_FILE_BYTES = 1 << 20
MAX_FUNCTION_CHARACTERS = 1800
MAX_TABLE_SHARE = 0.25
HELD_OUT_PER_MILLE = 30
SYSTEM_EVERY = 6
"""One conversation in this many opens with a system message (its module's own docstring)."""

_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "node_modules", ".git"})
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_SKIPPED_FILES = frozenset({"pydoc_data/topics.py"})
"""Prose and tables wrapped in Python literals: it teaches nothing about Python."""


@dataclass(frozen=True, slots=True)
class Document:
    """One source file: its path relative to the corpus, with `/`, and its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in path order; no text is on both sides of the split."""

    training: tuple[Document, ...]
    held_out: tuple[Document, ...]


def read_corpus(folder: Path, *, tests: bool = True) -> Corpus:
    """Read every usable `.py` file below `folder` and split it by the hash of its content.

    Left out: installed packages, files over 1 MiB, files that are not UTF-8 or hold a special token, files
    that are mostly digits and escapes (code tables), exact duplicates, and test folders unless `tests`.
    Raises `ValueError` when nothing is left for training or for the held-out part.
    """
    training: list[Document] = []
    held_out: list[Document] = []
    seen: set[bytes] = set()
    for path in sorted(folder.rglob("*.py"), key=lambda item: item.relative_to(folder).as_posix()):
        relative = path.relative_to(folder)
        if not _wanted(relative, tests=tests) or not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            continue
        data = path.read_bytes()
        digest = hashlib.sha256(data).digest()
        text = _usable_text(data)
        if text is None or digest in seen:
            continue
        seen.add(digest)
        side = held_out if int.from_bytes(digest[:8], "big") % 1000 < HELD_OUT_PER_MILLE else training
        side.append(Document(relative.as_posix(), text))
    if not training or not held_out:
        raise ValueError(f"{folder} holds too few Python files to train on and to hold out")
    return Corpus(tuple(training), tuple(held_out))


def _wanted(relative: Path, *, tests: bool) -> bool:
    folders = set(relative.parts[:-1])
    if folders & _SKIPPED_FOLDERS or relative.as_posix() in _SKIPPED_FILES:
        return False
    return tests or not folders & _TEST_FOLDERS


def _usable_text(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").expandtabs(8)
    if not text.strip() or any(token in text for token in SPECIAL_TOKENS):
        return None
    table = sum(character.isdigit() or character == "\\" for character in text)
    return None if table > MAX_TABLE_SHARE * len(text) else text


def conversations(documents: Iterable[Document]) -> Iterator[str]:
    """Functions with docstrings as conversations: the docstring's first line asks, the function answers.

    Every `SYSTEM_EVERY`-th opens with the first line of the module's docstring (where it has one) as a
    system message. Files that do not parse (tests hold some on purpose) give none.
    """
    count = 0
    for document in documents:
        tree = _parsed(document.text)
        if tree is None:
            continue
        module = _first_line(tree)
        lines = document.text.splitlines(keepends=True)
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            request = _first_line(node)
            source = _source(lines, node)
            if request is None or len(source) > MAX_FUNCTION_CHARACTERS:
                continue
            system = module if count % SYSTEM_EVERY == 0 else None
            count += 1
            yield render_conversation(request, source, system)


def render_conversation(request: str, answer: str, system: str | None = None) -> str:
    """One exchange in the model's chat format, the same as its chat template writes."""
    opening = "" if system is None else f"{SYSTEM}\n{system}{END}\n"
    return f"{opening}{USER}\n{request}{END}\n{ASSISTANT}\n{answer}{END}\n"


def _parsed(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the corpus are no concern of ours
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _first_line(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    docstring = ast.get_docstring(node)
    line = (docstring or "").strip().split("\n", 1)[0].strip()
    return line if 8 <= len(line) <= 160 else None


def _source(lines: list[str], node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
    return textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).strip("\n")
