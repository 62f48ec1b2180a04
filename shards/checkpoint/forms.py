"""What a folder or hub model holds in place of a checkpoint that is read, and what to do about it (pure)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from shards.checkpoint.gguf_header import SUFFIX
from shards.checkpoint.index import CONFIG_NAME, INDEX_NAME, SINGLE_NAME
from shards.errors import CheckpointError, UnsupportedModel

ADAPTER_CONFIG: Final = "adapter_config.json"
_MOST_NAMES: Final = 8
_PICKLED: Final = "pickled weights, which are never read because reading them runs their code"
_OTHER_FORMS: Final = (
    (re.compile(r".*\.(bin|pt|pth|ckpt)"), _PICKLED),
    (re.compile(r"consolidated.*\.safetensors"), "weights under their maker's own names"),
    (re.compile(r".*\.msgpack"), "weights for Flax"),
    (re.compile(r".*\.h5"), "weights for TensorFlow"),
    (re.compile(r".*\.onnx"), "weights for ONNX"),
)


def check_form(where: str, names: Collection[str]) -> None:
    """Whether files of these names are a checkpoint that is read; `where` they are: a path or a hub name.

    Raises `CheckpointError` and `UnsupportedModel` with what to do. An adapter is refused also beside a whole model:
    transformers applies it where peft is installed, and without it the answers would be the base model's.
    """
    if ADAPTER_CONFIG in names:
        raise _adapter(where)
    if CONFIG_NAME not in names:
        raise _gguf(where, names) or CheckpointError(
            f"{where} has no {CONFIG_NAME}: it is not a checkpoint. Give what has {CONFIG_NAME}, tokenizer.json and "
            f"{SINGLE_NAME}: a folder or a hub name (owner/model), or a GGUF file"
        )
    if SINGLE_NAME not in names and INDEX_NAME not in names:
        raise _gguf(where, names) or _other_form(where, names)


def _adapter(where: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{where} is or has an adapter ({ADAPTER_CONFIG}), and only whole models are served. Merge it into its base "
        f'model with `python -c "from peft import AutoPeftModelForCausalLM as M; '
        f"M.from_pretrained({where!r}).merge_and_unload().save_pretrained('merged')\"`, put the tokenizer's files "
        f"beside it, and serve that folder; or remove {ADAPTER_CONFIG} to serve the base model as it is"
    )


def _gguf(where: str, names: Collection[str]) -> UnsupportedModel | None:
    files = sorted(name for name in names if name.endswith(SUFFIX))
    if not files:
        return None
    return UnsupportedModel(f"{where} holds GGUF files: give the path of one of them instead ({_listed(files)})")


def _other_form(where: str, names: Collection[str]) -> CheckpointError | UnsupportedModel:
    for pattern, form in _OTHER_FORMS:
        found = min((name for name in names if pattern.fullmatch(name)), default=None)
        if found is not None:
            return UnsupportedModel(
                f"{where} has no {SINGLE_NAME}, but {form} ({found}): only safetensors are read. Convert what you "
                'trust with `python -c "from transformers import AutoModelForCausalLM as M; '
                f"M.from_pretrained({where!r}, dtype='auto').save_pretrained('converted')\"`, put the tokenizer's "
                "files beside it, and serve that folder"
            )
    return CheckpointError(
        f"{where} has neither {SINGLE_NAME} nor {INDEX_NAME}: only safetensors are read, so download them, or give "
        "another copy of the model that has them"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
