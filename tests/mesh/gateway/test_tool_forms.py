"""What models write around tool calls is read alike however the text is cut; what is no call stays text."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.gateway.tools.calls import Call
from mesh.gateway.tools.stream import ToolStream, read_calls
from shards.text.tool_format import TOOL_FORMATS, ToolFormat, tool_format

TOOLS = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "units": {"type": ["string", "null"]}},
    },
    "add": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    "search": {
        "type": "object",
        "properties": {"query": {}, "filters": {"type": "object"}, "exact": {"type": "boolean"}},
    },
    "now": {"type": "object", "properties": {}},
    "fs.read": {"type": "object", "properties": {"path": {"type": "string"}}},
}
WEATHER = ("get_weather", {"city": "Zürich"})
ADD = ("add", {"a": 1, "b": -2.5})
NOW = ("now", {})
NESTED = ("search", {"query": 'a "quoted" } ] thing', "filters": {"tags": ["x", {"y": None}]}, "exact": True})


def xml(name: str, **values: str) -> str:
    inside = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"


HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
HERMES_ADD = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": -2.5}}</tool_call>'
NESTED_JSON = json.dumps({"name": NESTED[0], "arguments": NESTED[1]})
LLAMA = '{"name": "get_weather", "parameters": {"city": "Zürich"}}'
LLAMA_ADD = '{"name": "add", "parameters": {"a": 1, "b": -2.5}}'
MISTRAL_LIST = (
    '[{"name": "get_weather", "arguments": {"city": "Zürich"}}, {"name": "add", "arguments": {"a": 1, "b": -2.5}}]'
)

CONVERSATIONS: list[tuple[ToolFormat, str, str, list[tuple[str, dict]]]] = [
    # Form, the model's text, what of it is text, which calls it makes.
    ("hermes", "Hello.", "Hello.", []),
    ("hermes", HERMES, "", [WEATHER]),
    ("hermes", f"Let me look.\n\n{HERMES}", "Let me look.", [WEATHER]),
    ("hermes", f"{HERMES}\n{HERMES_ADD}\n", "", [WEATHER, ADD]),
    ("hermes", HERMES.removesuffix("\n</tool_call>"), "", [WEATHER]),
    ("hermes", f"<tool_call>{NESTED_JSON}</tool_call>", "", [NESTED]),
    ("hermes", f"{HERMES} and {HERMES_ADD}", " and", [WEATHER, ADD]),
    ("hermes", f"{HERMES}Done.", "Done.", [WEATHER]),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', "", [NOW]),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{}"}</tool_call>', "", [NOW]),
    ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', "=", []),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1', "=", []),
    ("hermes", "<tool_call>nonsense</tool_call>", "=", []),
    ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "=", []),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>', "=", []),
    ("hermes", "a <tool_cal", "=", []),
    ("hermes", "  <tool_call>\n {]} then  ", "=", []),
    ("hermes", f"<tool_call>x</tool_call> {HERMES}", "<tool_call>x</tool_call>", [WEATHER]),
    ("qwen_xml", "Hello.", "=", []),
    ("qwen_xml", xml("get_weather", city="Zürich"), "", [WEATHER]),
    ("qwen_xml", f"I look.\n{xml('add', a='1', b='-2.5')}", "I look.", [ADD]),
    ("qwen_xml", xml("get_weather", city="Zürich") + "\n" + xml("now"), "", [WEATHER, NOW]),
    ("qwen_xml", xml("get_weather", city="5", days="5"), "", [("get_weather", {"city": "5", "days": 5})]),
    ("qwen_xml", xml("get_weather", days="five"), "", [("get_weather", {"days": "five"})]),
    ("qwen_xml", xml("get_weather", units="null"), "", [("get_weather", {"units": None})]),
    ("qwen_xml", xml("search", query="a\n<b>\n", exact="true"), "", [("search", {"query": "a\n<b>\n", "exact": True})]),
    ("qwen_xml", xml("now").removesuffix("\n</tool_call>"), "", [NOW]),
    ("qwen_xml", xml("unknown"), "=", []),
    ("qwen_xml", "<tool_call>\n<function=add>\n<parameter=a>1</function>\n</tool_call>", "=", []),
    ("qwen_xml", "<tool_call>\n<function=add>\n<parameter=a>\n1", "=", []),
    ("mistral", "Hello [you].", "=", []),
    ("mistral", f"[TOOL_CALLS]{MISTRAL_LIST}", "", [WEATHER, ADD]),
    ("mistral", f"Sure. [TOOL_CALLS] {MISTRAL_LIST}", "Sure.", [WEATHER, ADD]),
    ("mistral", '[TOOL_CALLS]get_weather{"city": "Zürich"}', "", [WEATHER]),
    ("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Zürich"}[TOOL_CALLS]now[ARGS]{}', "", [WEATHER, NOW]),
    ("mistral", "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}", "", [NOW]),
    ("mistral", "[TOOL_CALLS][]", "=", []),
    ("mistral", '[TOOL_CALLS]unknown{"a": 1}', "=", []),
    ("mistral", "[TOOL_CALLS] " + "x" * 600 + "{}", "=", []),
    ("llama", "The weather is {fine}.", "=", []),
    ("llama", LLAMA, "", [WEATHER]),
    ("llama", f"<|python_tag|>{LLAMA}", "", [WEATHER]),
    ("llama", f"{LLAMA}; {LLAMA_ADD}", "", [WEATHER, ADD]),
    ("llama", f"\n{LLAMA}\n{LLAMA_ADD}\n", "", [WEATHER, ADD]),
    ("llama", '{"answer": 42}', "=", []),
    ("llama", '{"name": "Bob", "parameters": {}}', "=", []),
    ("llama", '{"name": "add", "parameters"', "=", []),
    ("llama", "<|python_tag|>print(1)", "=", []),
    ("llama", f"{LLAMA} There.", " There.", [WEATHER]),
    ("pythonic", "[1, 2] are numbers", "=", []),
    ("pythonic", '[get_weather(city="Zürich")]', "", [WEATHER]),
    ("pythonic", "[get_weather(city='Zürich'), add(a=1, b=-2.5), now()]", "", [WEATHER, ADD, NOW]),
    ("pythonic", "<|python_start|>[now()]<|python_end|>", "", [NOW]),
    (
        "pythonic",
        """[search(query='a "quoted" } ] thing', filters={"tags": ["x", {"y": null}]}, exact=true)]""",
        "",
        [NESTED],
    ),
    ("pythonic", '[fs.read(path="/a")]', "", [("fs.read", {"path": "/a"})]),
    ("pythonic", '[get_weather("Zürich")]', "=", []),
    ("pythonic", "[add(a=1+1)]", "=", []),
    ("pythonic", "[unknown()]", "=", []),
    ("pythonic", "[add(a=1", "=", []),
    ("pythonic", "[" * 80, "=", []),
    ("pythonic", "[now()] is what I would call", "=", []),
]


def expected_of(text: str, shown: str, calls: list[tuple[str, dict]]) -> tuple[str, list[tuple[str, dict]]]:
    return text if shown == "=" else shown, calls


def in_pieces(form: ToolFormat, pieces: list[str]) -> tuple[str, list[Call]]:
    stream = ToolStream(form, TOOLS)
    events = [event for piece in pieces for event in stream.push(piece)] + stream.finish()
    return "".join(e for e in events if isinstance(e, str)), [e for e in events if isinstance(e, Call)]


@pytest.mark.parametrize(("form", "text", "shown", "calls"), CONVERSATIONS)
def test_a_conversation_is_read_whole_and_letter_by_letter(
    form: ToolFormat, text: str, shown: str, calls: list[tuple[str, dict]]
) -> None:
    for read in (read_calls(text, form, TOOLS), in_pieces(form, list(text))):
        assert (read[0], [(call.name, json.loads(call.arguments)) for call in read[1]]) == expected_of(
            text, shown, calls
        )


def test_there_are_conversations_of_every_form() -> None:
    assert len(CONVERSATIONS) >= 40
    assert {form for form, *_ in CONVERSATIONS} == set(TOOL_FORMATS)


PIECES = st.sampled_from(
    ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[ARGS]", "<function=add>", "</function>",
     "<parameter=a>", "</parameter>", "{", "}", "[", "]", "(", ")", '"', "'", "\\", ";", " ", "\n", "a", "now", "=",
     HERMES, LLAMA, "[now()]", MISTRAL_LIST, xml("add", a="1"), "<tool_", "<|python_start|>", "<|python_end|>"]
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(form=st.sampled_from(TOOL_FORMATS), parts=st.lists(PIECES, max_size=12), cuts=st.lists(st.integers(0, 400)))
def test_where_a_text_is_cut_makes_no_difference_and_nothing_is_lost_without_calls(
    form: ToolFormat, parts: list[str], cuts: list[int]
) -> None:
    text = "".join(parts)
    places = [0, *sorted({cut for cut in cuts if cut < len(text)}), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    whole = read_calls(text, form, TOOLS)
    assert in_pieces(form, pieces) == whole
    assert in_pieces(form, list(text)) == whole
    if not whole[1]:
        assert whole[0] == text


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ messages }}", None),
        ("Use your tools! {% for m in messages %}{% endfor %}", None),
        ("{% if tools %}<tool_call>{{ tools }}{% endif %}", "hermes"),
        ("{% if tools %}<tool_call><function=x>{% endif %}", "qwen_xml"),
        ("{%- for tool in tools %}[TOOL_CALLS]{% endfor %}", "mistral"),
        ("{% if tools is not none %}<|python_tag|>{% endif %}", "llama"),
        ("{{ tools }} [func_name1(params_name1=params_value1), func_name2()]", "pythonic"),
        ("{{ tools | tojson }}", "unknown"),
    ],
)
def test_a_template_shows_in_which_form_its_model_calls(template: str, form: str | None) -> None:
    assert tool_format(template) == form
