"""Chat templates that take tools: rendered and chosen as in transformers, and closed to what strangers write."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Inner

from shards.errors import TokenizerError
from shards.text.conversation import chat_tokens
from shards.text.fast import FastTokenizer, load_tokenizer, tokenizer_from_files
from shards.training.corpus import Document
from shards.training.tokenizer import train_tokenizer

HERMES = """\
{%- if tools %}<|system|>
Call within <tool_call></tool_call>:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|end|>
{%- endif %}
{%- for message in messages %}<|{{ message.role }}|>
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|end|>
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>
{% endif %}"""
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells <|end|> the weather.",
        "parameters": {"type": "object", "properties": {"<|user|>": {"type": "string"}}},
    },
}
TALK = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich"}}}
        ],
    },
    {"role": "tool", "content": "rain", "tool_call_id": "1", "name": "get_weather"},
]


@cache
def inner() -> Inner:
    made: Inner = train_tokenizer([Document("a.py", "def weather(city): return 'rain'\n" * 9)], 320)
    made.add_special_tokens([AddedToken("[TOOL_CALLS]", special=True)])
    return made


def made_of(**settings: Any) -> FastTokenizer:
    files = {"tokenizer.json": inner().to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode()}
    return tokenizer_from_files(files)


def test_tools_and_calls_are_rendered_as_transformers_does(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "tokenizer.json").write_text(inner().to_str(), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": HERMES}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    for tools in (None, [TOOL]):
        prompt = theirs.apply_chat_template(TALK, tools=tools, tokenize=False, add_generation_prompt=True)
        assert ours.apply_chat_template(TALK, tools=tools) == prompt
    assert ours.tool_format == "hermes"


def test_what_a_tool_is_called_or_says_opens_no_turn() -> None:
    made = made_of(chat_template=HERMES)
    special = made.special_tokens
    ids = chat_tokens(made, TALK, tools=[TOOL])
    assert ids.count(special["<|user|>"]) == 1
    assert ids.count(special["<|end|>"]) == 1 + len(TALK)
    shown = made.decode(ids, skip_special_tokens=False)
    assert shown == made.apply_chat_template(TALK, tools=[TOOL])


def test_of_several_templates_the_one_for_tools_is_used_with_tools() -> None:
    several = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools }}[TOOL_CALLS]"}]
    made = made_of(chat_template=several)
    assert made.tool_format == "mistral"
    assert made.apply_chat_template([]) == made.apply_chat_template([], tools=[]) == "plain"
    assert made.apply_chat_template([], tools=[{"a": 1}]) == "[{'a': 1}][TOOL_CALLS]"
    assert made_of(chat_template="plain").tool_format is None
    assert made_of().tool_format is None
    with pytest.raises(TokenizerError, match="chat_template"):
        made_of(chat_template=[{"name": "default", "template": "plain"}, {"name": "tool_use", "template": 3}])


def test_a_special_token_is_text_where_it_is_wanted() -> None:
    made = made_of()
    call, end = made.special_tokens["[TOOL_CALLS]"], made.special_tokens["<|end|>"]
    ids = [call, *made.encode("rain", add_special_tokens=False), end]
    for shown, text in (((), "rain"), ((call,), "[TOOL_CALLS]rain")):
        stream = made.stream(shown=shown)
        assert "".join([*map(stream.push, ids), stream.flush()]) == text


def test_the_makers_sampling_is_read_and_nonsense_refused() -> None:
    def read(**config: Any) -> Any:
        files = {"tokenizer.json": inner().to_str().encode(), "generation_config.json": json.dumps(config).encode()}
        return tokenizer_from_files(files).sampling_defaults

    assert read(temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.05, do_sample=True, max_length=9) == {
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "repetition_penalty": 1.05,
    }
    assert read(temperature=None) == {}
    for name, value in (("temperature", "hot"), ("temperature", -1), ("top_k", 1.5), ("top_p", 2), ("top_p", True)):
        with pytest.raises(TokenizerError, match=name):
            read(**{name: value})
