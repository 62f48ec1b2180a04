"""Give a folder that has only a slow tokenizer a tokenizer.json, with the help of transformers."""

from __future__ import annotations

from pathlib import Path

from shards.errors import TokenizerError
from shards.text.fast import TOKENIZER

_SLOW_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")


def ensure_fast_tokenizer(folder: Path) -> Path:
    """Path of the folder's tokenizer.json, converting an older tokenizer into it where there is none.

    Runs no code from the folder. Raises `TokenizerError` when there is nothing to convert or it fails.
    """
    target = folder / TOKENIZER
    if target.is_file():
        return target
    found = [name for name in _SLOW_FILES if (folder / name).is_file()]
    if not found:
        raise TokenizerError(f"{folder} holds neither {TOKENIZER} nor an older tokenizer to make it from")
    try:
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        content: str = loaded.backend_tokenizer.to_str()
    except (OSError, ImportError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise TokenizerError(f"{found[0]} cannot be converted to {TOKENIZER}: {str(error)[:300]}") from error
    partial = folder / f"{TOKENIZER}.partial"
    try:
        partial.write_text(content, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise TokenizerError(f"{target} cannot be written: {error.strerror or error}") from error
    return target
