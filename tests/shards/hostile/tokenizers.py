"""Tokenizer files that a stranger could announce to take memory or time, or that are simply broken."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

LIMIT, REFUSED, ANSWER, ANY = "limit", "refused", "answer", "any"
"""What comes of it: a limit ends it, it is refused, or answered; or any of these, as the library's version has it."""

LETTERS = {letter: at for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz ")}
WORD = "a" * 40 + "b"


@dataclass(frozen=True)
class Case:
    """Files by name, the text that is encoded, and what must come of it."""

    name: str
    files: dict[str, bytes]
    expected: str
    text: str = WORD
    tokens: tuple[int, ...] = field(default=(0, 1, 2, 0))
    """Decoded when the tokenizer could be loaded."""


def tokenizer(**changes: Any) -> bytes:
    """A small tokenizer of letters, with parts exchanged."""
    content: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": LETTERS, "merges": []},
    }  # fmt: skip
    return json.dumps(content | changes).encode()


def bpe(**changes: Any) -> dict[str, Any]:
    return {"type": "BPE", "vocab": LETTERS, "merges": [], **changes}


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(parts: list[Any], kind: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", kind: parts}


def split(regex: str, behavior: str = "Isolated", *, invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def template(single: list[Any], specials: dict[str, Any]) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": specials}


def added(content: str, token: int = 30, **changes: Any) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": token, "content": content, **flags, **changes}


def _deep(depth: int, opening: str, closing: str, inner: str) -> bytes:
    return (opening * depth + inner + closing * depth).encode()


def _nested(depth: int) -> bytes:
    start = tokenizer(normalizer="HERE").decode()
    inner = _deep(depth, '{"type":"Sequence","normalizers":[', "]}", '{"type":"NFC"}').decode()
    return start.replace('"HERE"', inner).encode()


def cases() -> list[Case]:
    """All of them."""
    return [*_normalizers(), *_regexes(), *_models(), *_processors(), *_decoders(), *_broken(), *_settings()]


def _case(name: str, expected: str, text: str = WORD, **changes: Any) -> Case:
    return Case(name, {"tokenizer.json": tokenizer(**changes)}, expected, text)


def _normalizers() -> list[Case]:
    by_hundred = [replace("a", "a" * 100)] * 6
    return [
        _case("each a becomes a hundred, six times over", LIMIT, normalizer=sequence(by_hundred)),
        _case(
            "an a becomes a hundred kilobytes of a, twice",
            LIMIT,
            normalizer=sequence([replace("a", "a" * 100_000)] * 2),
        ),
        _case(
            "every character becomes ten, nine times", LIMIT, normalizer=sequence([replace(".", "a" * 10, "Regex")] * 9)
        ),
        _case(
            "between all characters a kilobyte, three times", LIMIT, normalizer=sequence([replace("", "a" * 1000)] * 3)
        ),
        _case(
            "a megabyte is put in front, a hundred times",
            LIMIT,
            normalizer=sequence([{"type": "Prepend", "prepend": "a" * 10_000}] * 3000),
        ),
        _case(
            "compatibility forms of a ligature of eighteen letters",
            ANY,
            "\ufdfa" * 10_000,
            normalizer=sequence([{"type": "NFKD"}, *[replace("\u0627", "\ufdfa"), {"type": "NFKD"}] * 8]),
        ),
        _case(
            "a character map of noise",
            REFUSED,
            normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA" * 1000},
        ),
        _case(
            "a character map that is no base64",
            REFUSED,
            normalizer={"type": "Precompiled", "precompiled_charsmap": "é%"},
        ),
        Case("normalizers inside each other, a hundred deep", {"tokenizer.json": _nested(100)}, ANY),
        Case("normalizers inside each other, a hundred thousand deep", {"tokenizer.json": _nested(100_000)}, REFUSED),
    ]


def _regexes() -> list[Case]:
    spoiled = "a" * 5000 + "!"
    return [
        _case("a split that backtracks without end", ANY, spoiled, pre_tokenizer=split(r"(a+)+$")),
        _case("alternatives that are the same", ANY, spoiled, pre_tokenizer=split(r"(a|a)*b")),
        _case("alternatives that overlap", ANY, spoiled, pre_tokenizer=split(r"(a|aa)+$")),
        _case("two runs of one letter", ANY, spoiled, pre_tokenizer=split(r"(a+a+)+y")),
        _case("look-behind at every place", ANY, spoiled, pre_tokenizer=split(r"(?=(a+)+b)")),
        _case("back-references", ANY, "ab" * 3000, pre_tokenizer=split(r"(.*)(.*)(.*)\1\2\3x")),
        _case("a replacement that backtracks", ANY, spoiled, normalizer=replace(r"(a*)*b", "x", "Regex")),
        _case("a counted repetition of repetitions", ANY, spoiled, pre_tokenizer=split(r"((a{1,100}){1,100}){1,100}$")),
        _case("an expression of a megabyte", ANY, pre_tokenizer=split("(a|b)" * 200_000)),
        _case("parentheses a hundred thousand deep", ANY, pre_tokenizer=split("(" * 100_000 + "a" + ")" * 100_000)),
        _case("an expression that is none", REFUSED, pre_tokenizer=split("(")),
        _case("an empty expression", ANY, pre_tokenizer=split("")),
        _case("a split that keeps nothing", ANY, pre_tokenizer=split("a", "Removed")),
    ]


def _models() -> list[Case]:
    pairs = [[f"{a}", f"{b}"] for a in "abcdefgh" for b in "abcdefgh"]
    many = {f"t{number}": number for number in range(300_000)} | {"a": 300_000, "b": 300_001}
    unigram = [["<unk>", 0.0], *([letter, -1.0] for letter in "abc")]
    growing, vocab, merges = "a", dict(LETTERS), []
    while len(growing) < 1 << 20:
        merges.append([growing, growing])
        growing *= 2
        vocab[growing] = len(vocab)
    return [
        _case("a vocabulary of 300,000 tokens", ANSWER, model=bpe(vocab=many)),
        _case("merges of tokens that are not there", REFUSED, model=bpe(merges=pairs)),
        _case("tokens that double up to a megabyte", REFUSED, "a" * 5000, model=bpe(vocab=vocab, merges=merges)),
        _case("a token id that no table could hold", REFUSED, model=bpe(vocab={"a": 2**32 - 2, "b": 1})),
        _case("a token id of two to the thirty-first", REFUSED, model=bpe(vocab={"a": 2**31, "b": 1})),
        _case("a token id that is too large for any", REFUSED, model=bpe(vocab={"a": 2**64, "b": 1})),
        _case("a negative token id", REFUSED, model=bpe(vocab={"a": -1, "b": 1})),
        _case("two tokens of one id", ANY, model=bpe(vocab={"a": 1, "b": 1})),
        _case(
            "bytes as fallback of which there are none", ANY, "éé", model=bpe(byte_fallback=True, unk_token="<0x00>")
        ),
        _case("an unknown token that is not there", ANY, "éé", model=bpe(unk_token="nowhere", fuse_unk=True)),
        _case("a suffix of a megabyte", ANY, model=bpe(end_of_word_suffix="s" * (1 << 20))),
        _case("a prefix of a megabyte", ANY, "a" * 3000, model=bpe(continuing_subword_prefix="p" * (1 << 20))),
        _case("dropout of everything", ANY, model=bpe(dropout=1.0)),
        _case("dropout of more than everything", ANY, model=bpe(dropout=7.5)),
        _case(
            "words as long as there is memory",
            ANY,
            "a" * 60_000,
            model={
                "type": "WordPiece",
                "vocab": {"[UNK]": 0, "a": 1},
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "",
                "max_input_chars_per_word": 2**63,
            },
        ),
        _case(
            "word pieces with no unknown one",
            ANY,
            "é",
            model={
                "type": "WordPiece",
                "vocab": {"a": 1},
                "unk_token": "?",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
            },
        ),
        _case(
            "a unigram model of nothing",
            ANY,
            model={"type": "Unigram", "unk_id": 0, "vocab": [], "byte_fallback": False},
        ),
        _case(
            "a unigram model whose unknown token is elsewhere",
            REFUSED,
            model={"type": "Unigram", "unk_id": 99, "vocab": unigram, "byte_fallback": False},
        ),
        _case(
            "a unigram model with bytes that it lacks",
            ANY,
            "é",
            model={"type": "Unigram", "unk_id": 0, "vocab": unigram, "byte_fallback": True},
        ),
        _case("a kind of model that nobody knows", REFUSED, model={"type": "Oracle", "vocab": LETTERS}),
    ]


def _processors() -> list[Case]:
    special = {"S": {"id": "S", "ids": [0] * 10_000, "tokens": ["a"] * 10_000}}
    once, text = {"SpecialToken": {"id": "S", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return [
        _case(
            "a frame that adds ten thousand tokens ten thousand times",
            LIMIT,
            post_processor=template([once] * 10_000 + [text], special),
        ),
        _case(
            "a frame that repeats the text ten thousand times",
            ANY,
            "a" * 60_000,
            post_processor=template([text] * 10_000, {}),
        ),
        _case("a frame of tokens that are not there", REFUSED, post_processor=template([once, text], {})),
        _case("an added token of a hundred kilobytes", REFUSED, added_tokens=[added("x" * 100_000)]),
        _case("an added token of three megabytes", ANY, added_tokens=[added("x" * (3 << 20))]),
        _case(
            "a hundred thousand added tokens",
            ANSWER,
            added_tokens=[added(f"<{number}>", 30 + number) for number in range(100_000)],
        ),
        _case("an added token that is empty", ANY, added_tokens=[added("")]),
        _case("an added token with a far id", ANY, added_tokens=[added("<far>", 2**32 - 1)]),
        _case(
            "truncation to nothing",
            ANY,
            truncation={"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0},
        ),
        _case(
            "truncation with a stride past its length",
            ANY,
            truncation={"direction": "Right", "max_length": 1, "strategy": "OnlyFirst", "stride": 2**40},
        ),
        _case(
            "padding to a million million tokens",
            ANY,
            padding={
                "strategy": {"Fixed": 10**12},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "a",
            },
        ),
    ]


def _decoders() -> list[Case]:
    return [
        _case("a decoder that makes ten kilobytes of a letter", REFUSED, decoder=replace("a", "a" * 10_000)),
        _case("a decoder that doubles forty times", REFUSED, decoder=sequence([replace("a", "aa")] * 40, "decoders")),
        _case("a decoder that doubles twelve times", REFUSED, decoder=sequence([replace("a", "aa")] * 12, "decoders")),
        _case("a decoder that replaces nothing by much", REFUSED, decoder=replace("", "much")),
        _case("a decoder with a regular expression", REFUSED, decoder=replace("(a+)+$", "", "Regex")),
        _case(
            "a decoder that strips more than there is",
            REFUSED,
            decoder={"type": "Strip", "content": "a", "start": 0, "stop": 2**60},
        ),
        _case(
            "a decoder that strips a little more than there is",
            REFUSED,
            decoder={"type": "Strip", "content": "a", "start": 0, "stop": 50},
        ),
        _case(
            "a decoder with an empty delimiter",
            REFUSED,
            decoder={"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True},
        ),
        _case("a decoder with an empty suffix", REFUSED, decoder={"type": "BPEDecoder", "suffix": ""}),
        _case(
            "decoders inside each other",
            ANY,
            decoder=sequence([sequence([sequence([{"type": "Fuse"}], "decoders")], "decoders")], "decoders"),
        ),
        _case("a thousand decoders", REFUSED, decoder=sequence([{"type": "Fuse"}] * 1000, "decoders")),
    ]


def _broken() -> list[Case]:
    whole = tokenizer()
    contents = {
        "nothing": b"",
        "half of a file": whole[: len(whole) // 2],
        "all but the last byte": whole[:-1],
        "bytes that are no UTF-8": whole.replace(b'"a"', b'"\xff\xfe"'),
        "UTF-16": whole.decode().encode("utf-16"),
        "zeros": bytes(100_000),
        "brackets, a million deep": b"[" * 1_000_000,
        "objects, a hundred thousand deep": _deep(100_000, '{"a":', "}", "1"),
        "a list": b"[1, 2, 3]",
        "a number of a million digits": b"9" * 1_000_000,
        "a vocabulary that is a list": tokenizer(model=bpe(vocab=["a", "b"])),
        "a vocabulary of fractions": tokenizer(model=bpe(vocab={"a": 0.5})),
        "a vocabulary of texts": tokenizer(model=bpe(vocab={"a": "0"})),
        "half a surrogate pair": whole.replace(b'"a"', b'"\\ud800"'),
        "a model that is null": tokenizer(model=None),
        "merges that are numbers": tokenizer(model=bpe(merges=[1, 2])),
        "a normalizer that is a number": tokenizer(normalizer=7),
    }
    return [Case(name, {"tokenizer.json": data}, REFUSED) for name, data in contents.items()]


def _settings() -> list[Case]:
    files = {
        "settings a hundred thousand deep": {"tokenizer_config.json": b"[" * 100_000},
        "settings that are a text": {"tokenizer_config.json": b'"text"'},
        "settings with a number of a million digits": {"tokenizer_config.json": b'{"a": ' + b"9" * 1_000_000 + b"}"},
        "a million end tokens": {"generation_config.json": json.dumps({"eos_token_id": [1] * 300_000}).encode()},
        "an end token that is a truth": {"config.json": b'{"eos_token_id": true}'},
        "a template that is a number": {"tokenizer_config.json": b'{"chat_template": 3}'},
        "a template that is no UTF-8": {"chat_template.jinja": b"\xff\xfe"},
        "a template over its size": {"chat_template.jinja": b"x" * (300 << 10)},
        "a template too long for any file": {"chat_template.jinja": b"x" * (2 << 20)},
    }
    return [Case(name, {"tokenizer.json": tokenizer(), **more}, REFUSED) for name, more in files.items()]
