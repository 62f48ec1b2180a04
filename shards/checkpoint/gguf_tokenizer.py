"""A GGUF file's tokenizer as the tokenizer.json of the tokenizers library, from its metadata (pure, no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shards.errors import CheckpointError, UnsupportedModel
from shards.shown import shown

_UNKNOWN, _CONTROL, _USER = 2, 3, 4
"""`token_type` of tokens that are found in a text as they are written; of those only a user's are shown."""

_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS: Final[Mapping[str, str]] = {
    "llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST,
    "qwen2": _WORDS + r"\p{N}" + _REST,
}
"""How words are told apart, by the file's `tokenizer.ggml.pre`: facts of Llama 3's and Qwen 2's tokenizers."""
_OWN_SPLIT: Final = frozenset({"default", "gpt-2", "smollm"})
"""Those that part words as GPT-2 does, the last one with every digit by itself."""
_SPACE: Final = "▁"
_KEEPS_SPACES: Final = frozenset({"<unk>", "<s>", "<|endoftext|>"})
"""Of Phi-3's tokens that are found in a text as they are written: the others take the spaces after them along. No file
says so, which llama.cpp makes good in the same way."""

_TURN_ENDS: Final = (("gemma2", "<end_of_turn>"), ("gemma3", "<end_of_turn>"), ("phi3", "<|end|>"))


def tokenizer_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer.json. Raises `UnsupportedModel` for a kind that is not read, `CheckpointError` for a malformed one."""
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _texts(metadata, "tokenizer.ggml.tokens")
    if len(set(tokens)) != len(tokens):
        raise CheckpointError("the file's vocabulary has a token twice")
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens):
        raise CheckpointError("the file's tokenizer.ggml.token_type must have an entry for every token")
    match kind:
        case "gpt2":
            made = _byte_level(metadata, tokens)
        case "llama":
            made = _sentence_piece(metadata, tokens, types)
        case _:
            raise UnsupportedModel(f"the file's tokenizer is of kind {shown(kind)}: only gpt2 and llama are read")
    added = {number: types[number] for number in range(len(tokens)) if types[number] in (_UNKNOWN, _CONTROL, _USER)}
    strips = kind == "llama" and metadata.get("general.architecture") == "phi3"
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": tokens[number],
                "single_word": False,
                "lstrip": False,
                "rstrip": strips and tokens[number] not in _KEEPS_SPACES,
                "normalized": False,
                "special": kind_of != _USER,
            }
            for number, kind_of in added.items()
        ],
        "post_processor": _beginning(metadata, tokens),
        **made,
    }


def settings_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json: the named tokens. Raises `CheckpointError`."""
    tokens = _texts(metadata, "tokenizer.ggml.tokens")
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    numbers = {name: _token(metadata, key, tokens) for name, key in names.items()}
    return {f"{name}_token": tokens[number] for name, number in numbers.items() if number is not None}


def ends_of(metadata: Mapping[str, Any]) -> list[int]:
    """The tokens that end an answer: the file's end of text, of a turn and of a message. Raises `CheckpointError`.

    Files of Gemma and Phi-3 seldom name the one that ends a turn: it is known by its text, as in llama.cpp.
    """
    tokens = _texts(metadata, "tokenizer.ggml.tokens")
    found = [_token(metadata, key, tokens) for key in ("eos", "eot", "eom")]
    kind = metadata.get("general.architecture")
    found += [tokens.index(end) for of, end in _TURN_ENDS if of == kind and end in tokens]
    return sorted({number for number in found if number is not None})


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in _OWN_SPLIT and pre not in _SPLITS:
        known = ", ".join(sorted({*_OWN_SPLIT, *_SPLITS}))
        raise UnsupportedModel(
            f"the file's tokenizer parts words as {shown(pre)}, and only {known} are read: "
            "take the model's safetensors with their tokenizer.json"
        )
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pre in _OWN_SPLIT}
    steps: list[dict[str, Any]] = [bytes_of]
    if pre == "smollm":
        steps.insert(0, {"type": "Digits", "individual_digits": True})
    elif pre in _SPLITS:
        split = {"type": "Split", "pattern": {"Regex": _SPLITS[pre]}, "behavior": "Isolated", "invert": False}
        steps.insert(0, split)
    merges = [line.split(" ") for line in _texts(metadata, "tokenizer.ggml.merges")]
    if any(len(pair) != 2 for pair in merges):
        raise CheckpointError("the file's tokenizer.ggml.merges must be pairs of tokens")
    return {
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _merging(tokens, merges, ignore_merges=pre == "llama-bpe"),
    }


def _sentence_piece(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise CheckpointError("the file's tokenizer.ggml.scores must have an entry for every token")
    unknown = next((tokens[number] for number, kind in enumerate(types) if kind == _UNKNOWN), None)
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    undo = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, {"type": "Prepend", "prepend": _SPACE})
        undo.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": undo},
        "model": _merging(tokens, _merges_by_score(tokens, scores), unknown=unknown, byte_fallback=True),
    }


def _merges_by_score(tokens: Sequence[str], scores: Sequence[float]) -> list[list[str]]:
    """SentencePiece joins the pair whose whole has the highest score: the pairs of all wholes, best first."""
    known = {token: number for number, token in enumerate(tokens)}
    found: list[tuple[float, int, int, int, list[str]]] = []
    for number, token in enumerate(tokens):
        for cut in range(1, len(token)):
            left, right = known.get(token[:cut]), known.get(token[cut:])
            if left is not None and right is not None:
                found.append((-scores[number], number, left, right, [token[:cut], token[cut:]]))
    found.sort(key=lambda item: item[:4])
    return [item[4] for item in found]


def _merging(
    tokens: Sequence[str],
    merges: Sequence[Sequence[str]],
    *,
    unknown: str | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": unknown is not None,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": list(merges),
    }


def _beginning(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any] | None:
    """Text begins with the file's first token where it says so; SentencePiece's and Llama 3's do unless denied."""
    usual = metadata.get("tokenizer.ggml.model") == "llama" or metadata.get("tokenizer.ggml.pre") == "llama-bpe"
    number = _token(metadata, "bos", tokens)
    if metadata.get("tokenizer.ggml.add_eos_token") is True:
        raise UnsupportedModel("the file's tokenizer ends every text with an end token, which is not read")
    if number is None or not metadata.get("tokenizer.ggml.add_bos_token", usual):
        return None
    first, text = {"SpecialToken": {"id": tokens[number], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {tokens[number]: {"id": tokens[number], "ids": [number], "tokens": [tokens[number]]}},
    }


def _texts(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise CheckpointError(f"the file's {key} must be a list of texts")
    return value


def _token(metadata: Mapping[str, Any], key: str, tokens: Sequence[str]) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}_token_id")
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < len(tokens):
        raise CheckpointError(f"the file's {key} token {shown(value)} is not one of {len(tokens)}")
    return value
