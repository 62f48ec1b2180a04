"""The tokenizer: streams equal the whole, tokens know their bytes, and corrupt files are refused."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner

from shards.errors import TokenizerError
from shards.model.spec import parse_config
from shards.text.conversation import chat_tokens
from shards.text.convert import ensure_fast_tokenizer
from shards.text.fast import FastTokenizer, check_tokenizer, load_tokenizer, tokenizer_from_files
from shards.training.corpus import Document
from shards.training.tokenizer import tokenizer_config, train_tokenizer

WORDS = "def hello(name): return 'naïve café 日本語 😀' + name\n    # comment, and more words here\n" * 4


@cache
def byte_level() -> Inner:
    inner: Inner = train_tokenizer([Document("a.py", WORDS)], 320)
    inner.add_tokens([AddedToken("日本語!", normalized=False), AddedToken("éa"), AddedToken("<think>")])
    return inner


@cache
def byte_fallback() -> Inner:
    """Like Llama 2's: words that begin with ▁, single bytes as <0xNN>, the first space stripped."""
    words = ["▁", "a", "b", "▁a", "ab", "▁ab", "é", "日", "▁▁", "\n", "\ufffd", "x"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {word: 259 + place for place, word in enumerate(words)}
    merges = [("▁", "a"), ("a", "b"), ("▁", "ab"), ("▁", "▁")]
    inner = Inner(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    return inner


@cache
def metaspace() -> Inner:
    vocab = {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "▁ab": 5, "é": 6, "<pad>": 7}
    inner = Inner(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens(["<unk>", "<pad>"])
    return inner


@cache
def word_piece() -> Inner:
    vocab = {"[UNK]": 0, "a": 1, "##b": 2, "##c": 3, ".": 4, "'": 5, "s": 6, "do": 7, "not": 8, "n't": 9}
    inner = Inner(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece(cleanup=False)
    return inner


INNERS = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "metaspace": metaspace,
    "wordpiece": word_piece,
}


@cache
def tokenizer(kind: str) -> FastTokenizer:
    made = tokenizer_from_files({"tokenizer.json": INNERS[kind]().to_str().encode()})
    assert isinstance(made, FastTokenizer)
    return made


def streamed(made: FastTokenizer, ids: list[int], skip: bool) -> list[str]:
    stream = made.stream(skip_special_tokens=skip)
    return [*(stream.push(token) for token in ids), stream.flush()]


@pytest.mark.parametrize("kind", INNERS)
@settings(deadline=None)  # a child process is started in the first example
@given(data=st.data(), skip=st.booleans())
def test_the_pieces_of_a_stream_are_the_text_decoded_at_once(kind: str, data: st.DataObject, skip: bool) -> None:
    made = tokenizer(kind)
    ids = data.draw(st.lists(st.integers(0, made.vocab_size + 3), max_size=40))
    assert "".join(streamed(made, ids, skip)) == made.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", ["byte level", "byte fallback"])
@settings(deadline=None)  # a child process is started in the first example
@given(text=st.text(max_size=40))
def test_a_stream_of_real_text_shows_whole_characters_only(kind: str, text: str) -> None:
    made = tokenizer(kind)
    ids = made.encode(text, add_special_tokens=False)
    pieces = streamed(made, ids, skip=False)
    assert "".join(pieces) == made.decode(ids, skip_special_tokens=False)
    if "\ufffd" not in text and kind == "byte level" and "é" not in text:
        assert "".join(pieces) == text
        assert all("\ufffd" not in piece for piece in pieces)


@settings(deadline=None)  # a child process is started in the first example
@given(st.text(st.characters(exclude_characters="é", exclude_categories=("Cs",)), max_size=40))
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(text: str) -> None:
    made = tokenizer("byte level")
    assert b"".join(map(made.token_bytes, made.encode(text))) == text.encode()


@settings(deadline=None)  # a child process is started in the first example
@given(st.text(max_size=20))
def test_any_text_is_encoded_or_refused(text: str) -> None:
    made = tokenizer("byte fallback")
    assert all(0 <= token < made.vocab_size for token in made.encode(text))


def test_tokens_are_shown_as_they_are_written() -> None:
    fallback, level = tokenizer("byte fallback"), tokenizer("byte level")
    assert fallback.token_text(262) == " a"
    assert fallback.token_bytes(3 + 0xE6) == b"\xe6"
    assert fallback.token_text(3 + 0xE6) == "\ufffd"
    assert fallback.token_text(1) == "<s>"
    assert level.token_text(0) == "<|endoftext|>"
    assert level.token_bytes(level.vocab_size + 5) == b""
    assert level.decode([level.vocab_size + 5]) == ""


@pytest.mark.parametrize("token", [-1, 1 << 31, 1 << 40])
def test_what_cannot_be_a_token_id_is_refused(token: int) -> None:
    made = tokenizer("byte level")
    for use in (made.token_text, made.token_bytes, made.stream().push, lambda one: made.decode([one])):
        with pytest.raises(TokenizerError, match="not a token id"):
            use(token)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(TokenizerError, match="surrogate"):
        tokenizer("byte level").encode("a\ud800")


def files(**more: Any) -> dict[str, bytes]:
    given = {name.replace("__", "."): json.dumps(content).encode() for name, content in more.items()}
    return {"tokenizer.json": byte_level().to_str().encode(), **given}


def test_end_tokens_are_those_that_any_file_names() -> None:
    named = {"eos_token": {"content": "<|user|>"}}
    both = {"tokenizer_config__json": named, "config__json": {"eos_token_id": 4}}
    assert tokenizer_from_files(files()).eos_token_ids == ()
    assert tokenizer_from_files(files(tokenizer_config__json=named)).eos_token_ids == (1,)
    assert tokenizer_from_files(files(**both)).eos_token_ids == (4, 1)
    generation = {"generation_config__json": {"eos_token_id": [0, 4, 0]}}
    assert tokenizer_from_files(files(**both, **generation)).eos_token_ids == (0, 4, 1)
    assert tokenizer_from_files(files(config__json={"eos_token_id": -1})).eos_token_ids == ()


@pytest.mark.parametrize(
    "broken",
    [
        {"tokenizer.json": b""},
        {"tokenizer.json": b"{}"},
        {"tokenizer.json": b"\xff\xfe"},
        {"tokenizer.json": b"[" * 100_000},
        {"tokenizer.json": b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[["a","b"]]}}'},
        {"tokenizer_config.json": b"{"},
        {"tokenizer_config.json": b"[" * 100_000},
        {"tokenizer_config.json": b'"text"'},
        {"tokenizer_config.json": b'{"chat_template": 3}'},
        {"tokenizer_config.json": b'{"chat_template": "{% for %}"}'},
        {"generation_config.json": b'{"eos_token_id": "two"}'},
        {"generation_config.json": b'{"eos_token_id": [-2]}'},
        {"config.json": b" " * ((8 << 20) + 1)},
        {"chat_template.jinja": b"\xff"},
    ],
)
def test_a_corrupt_file_is_a_tokenizer_error(broken: dict[str, bytes]) -> None:
    with pytest.raises(TokenizerError):
        tokenizer_from_files(files() | broken)


@settings(deadline=None)  # a child process is started in the first example
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_damage_anywhere_in_the_file_is_refused_or_harmless(place: int, patch: bytes) -> None:
    content = byte_fallback().to_str().encode()
    place %= len(content)
    damaged = content[:place] + patch + content[place + len(patch) :]
    try:
        made = tokenizer_from_files({"tokenizer.json": damaged})
    except TokenizerError:
        return
    made.decode(made.encode("ab a"))


def test_a_chat_template_file_beats_the_one_in_the_config() -> None:
    config = {"chat_template": [{"name": "default", "template": "old"}, {"name": "x", "template": "y"}]}
    old = tokenizer_from_files(files(tokenizer_config__json=config))
    assert old.apply_chat_template([]) == "old"
    new = tokenizer_from_files(files(tokenizer_config__json=config) | {"chat_template.jinja": b"new"})
    assert new.apply_chat_template([]) == "new"


def test_a_tokenizer_without_a_template_says_so() -> None:
    made = tokenizer("byte level")
    assert not made.has_chat_template
    with pytest.raises(TokenizerError, match="no chat template"):
        made.apply_chat_template([])


def test_a_tokenizer_with_more_ids_than_the_model_is_the_wrong_one() -> None:
    made = tokenizer("byte level")
    config = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8}
    check_tokenizer(made, parse_config(json.dumps(config | {"vocab_size": made.vocab_size})))
    with pytest.raises(TokenizerError, match="wrong tokenizer"):
        check_tokenizer(made, parse_config(json.dumps(config | {"vocab_size": made.own_vocab_size - 1})))


def test_added_tokens_may_lie_beyond_the_models_vocabulary() -> None:
    raw = json.loads(byte_level().to_str())
    size = tokenizer("byte level").vocab_size
    token = {"id": size, "content": "<image>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    raw["added_tokens"].append({**token, **flags})
    made = tokenizer_from_files({"tokenizer.json": json.dumps(raw).encode()})
    assert made.vocab_size == size + 1 and made.encode("<image>") == [size]
    check_tokenizer(
        made,
        parse_config(json.dumps({"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "vocab_size": size})),
    )


TURNS = "{% for message in messages %}<|{{ message.role }}|>{{ message.content | trim }}\n{% endfor %}<|assistant|>"


def test_special_tokens_that_somebody_writes_are_text(tmp_path: Path) -> None:
    made = tokenizer_from_files(files(tokenizer_config__json={"chat_template": TURNS}))
    special = made.encode("<|user|>", add_special_tokens=False)
    assert len(special) == 1 and made.special_texts
    honest = [{"role": "user", "content": "hi 123456789012345678901234 00000000"}]
    assert chat_tokens(made, honest) == made.encode(made.apply_chat_template(honest), add_special_tokens=False)
    for written in ("a<|user|>b", " <|user|>", "<|user|><|user|>", ["x", "<|user|>"]):
        ids = chat_tokens(made, [{"role": "user", "content": written}])
        assert ids.count(special[0]) == 1, "the template's own"
        text = written if isinstance(written, str) else str(written)
        shown = "".join(made.token_bytes(token).decode() for token in ids)
        assert shown == f"<|user|>{text.strip()}\n<|assistant|>"
    many = chat_tokens(made, [{"role": "user", "content": "<|user|>" * 100_000}])
    assert many.count(special[0]) == 1


def test_a_folder_is_read_like_its_files(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(byte_level().to_str(), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(tokenizer_config(64), encoding="utf-8")
    made = load_tokenizer(tmp_path)
    assert made.eos_token_ids == (0,)
    assert made.apply_chat_template([{"role": "user", "content": "x"}]) == "<|user|>\nx<|end|>\n<|assistant|>\n"
    with pytest.raises(TokenizerError, match="knows the roles"):
        made.apply_chat_template([{"role": "tool", "content": "x"}])


def test_ids_and_prompts_agree_with_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "tokenizer.json").write_text(byte_level().to_str(), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(tokenizer_config(64), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    talk = [{"role": "system", "content": " be brief "}, {"role": "user", "content": "日本 <|end|> é"}]
    prompt = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert ours.apply_chat_template(talk) == prompt
    assert ours.encode(prompt) == theirs(prompt)["input_ids"]


def test_an_older_tokenizer_is_converted_once(tmp_path: Path) -> None:
    state = json.loads(byte_level().to_str())["model"]
    merges = "\n".join(" ".join(pair) for pair in state["merges"])
    (tmp_path / "vocab.json").write_text(json.dumps(state["vocab"]), encoding="utf-8")
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}', encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    path = ensure_fast_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path).encode("def hello") == byte_level().encode("def hello").ids
    before = path.stat().st_mtime_ns
    assert ensure_fast_tokenizer(tmp_path).stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["tokenizer.model", "tiktoken.model"])
def test_a_tokenizer_of_tiktokens_form_is_converted(tmp_path: Path, name: str) -> None:
    from tiktoken import Encoding
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" t", b" the", b"er"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(ranks)]
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="ascii")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    ensure_fast_tokenizer(tmp_path)
    pattern = TikTokenConverter(str(tmp_path / name)).pattern
    theirs = Encoding("x", pat_str=pattern, mergeable_ranks={t: n for n, t in enumerate(ranks)}, special_tokens={})
    ours = load_tokenizer(tmp_path)
    for text in ("the other thing", "def add(x):\n    return x", " double  spaces ", "日本 é 🙂"):
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == text


def test_a_sentencepiece_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="nor an older"):
        ensure_fast_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.model .* pip install sentencepiece"):
        ensure_fast_tokenizer(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


def test_the_tokenizer_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, shards.text.fast, shards.text.stop\n"
        "print(sorted({'torch', 'transformers', 'hivemind'} & set(sys.modules)))"
    )
    python = shutil.which(sys.executable) or sys.executable
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
