"""Give a folder that has only a slow tokenizer a tokenizer.json, with the help of transformers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from shards.checkpoint.model_folder import exists, read, write
from shards.errors import CheckpointError, TokenizerError
from shards.text.tokenizer import TOKENIZER

_SLOW_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_READ_SUFFIXES = frozenset({".json", ".model", ".txt", ".jinja"})
MAX_BYTES = 128 << 20
"""Of one file that is converted."""


def ensure_fast_tokenizer(folder: Path) -> Path:
    """Path of the folder's tokenizer.json, converting an older tokenizer into it where there is none.

    Runs no code from the folder. Raises `TokenizerError` when there is nothing to convert or it fails.
    """
    target = folder / TOKENIZER
    if exists(target):
        return target
    found = [name for name in _SLOW_FILES if exists(folder / name)]
    if not found:
        raise TokenizerError(f"{folder} holds neither {TOKENIZER} nor an older tokenizer to make it from")
    try:
        with tempfile.TemporaryDirectory() as copy:
            for path in folder.iterdir():
                # transformers would follow links, and what it reads ends up in a file that is served.
                if path.suffix in _READ_SUFFIXES:
                    (Path(copy) / path.name).write_bytes(read(path, MAX_BYTES))
            content = _convert(copy)
    except (OSError, ImportError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise TokenizerError(f"{found[0]} cannot be converted to {TOKENIZER}: {str(error)[:300]}") from error
    except CheckpointError as error:
        raise TokenizerError(str(error)) from error
    try:
        write(target, content.encode())
    except CheckpointError as error:
        raise TokenizerError(f"{target} cannot be written: {error}") from error
    return target


def _convert(folder: str) -> str:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    content: str = loaded.backend_tokenizer.to_str()
    return content
