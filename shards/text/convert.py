"""Give a folder that has only a slow tokenizer a tokenizer.json, with the help of transformers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from shards.checkpoint.model_folder import exists, read, write
from shards.errors import CheckpointError, TokenizerError
from shards.quiet import hush_transformers
from shards.text.tokenizer import TOKENIZER

_SLOW_FILES = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tiktoken.model",
)
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
        raise TokenizerError(
            f"{folder} has no {TOKENIZER}, nor an older tokenizer that could be made into one, and clients could not "
            "turn text into tokens: put the tokenizer's files there, as the model it was made from has them"
        )
    try:
        with tempfile.TemporaryDirectory() as copy:
            for path in folder.iterdir():
                # transformers would follow links, and what it reads ends up in a file that is served.
                if path.suffix in _READ_SUFFIXES:
                    (Path(copy) / path.name).write_bytes(read(path, MAX_BYTES))
            content = _convert(copy)
    except (OSError, ImportError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise TokenizerError(
            f"{folder} has no {TOKENIZER}, and {found[0]} cannot be converted to it: {str(error)[:300]}"
            f"{_remedy(found[0])}"
        ) from error
    except CheckpointError as error:
        raise TokenizerError(str(error)) from error
    try:
        write(target, content.encode())
    except CheckpointError as error:
        raise TokenizerError(f"{target} cannot be written: {error}") from error
    return target


def _remedy(name: str) -> str:
    if name.endswith(".model"):  # later versions want a protobuf that hivemind does not go with
        return "; if it is a SentencePiece model, install what reads it: pip install sentencepiece==0.2.1"
    return f"; convert it elsewhere (transformers' save_pretrained of the tokenizer writes {TOKENIZER})"


def _convert(folder: str) -> str:
    hush_transformers()
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    content: str = loaded.backend_tokenizer.to_str()
    return content
