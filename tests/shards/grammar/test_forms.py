"""Which tokens may come next in a form: every way through it is valid, and hostile forms are refused at once."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from benchmarks.schema_maker import made
from benchmarks.schema_set import SCHEMAS
from shards.errors import InvalidGrammar
from shards.grammar.closing import ending
from shards.grammar.constraint import Constraint, json_object, json_schema, one_of
from shards.grammar.forms import Forms
from shards.grammar.matcher import Matcher

WORDS = [b'{"', b'":', b', "', b"true", b"null", b"12", b" \n", b"name", b'"}', b"ab", b"</s>"]
TOKENS = [*(bytes([value]) for value in range(256)), *WORDS]
EOS = 266
VOCAB = 272
"""A few more than there are tokens: a model's padding."""


@pytest.fixture
def forms() -> Iterator[Forms]:
    forms = Forms(lambda: (TOKENS, [EOS]), VOCAB)
    yield forms
    forms.close()


def begin(forms: Forms, constraint: Constraint, begun: Sequence[int] = ()) -> Matcher:
    matcher = forms.begin(constraint.kind, constraint.text, begun)
    matcher.start([EOS])
    return matcher


def allowed(matcher: Matcher, length: int | None = None) -> list[int]:
    found: list[int] = matcher.mask(matcher.length if length is None else length).nonzero().flatten().tolist()
    return found


def walk(matcher: Matcher, chance: random.Random, most: int = 3000) -> list[int]:
    """A way through a form by chance; it ends as soon as it may, now and then."""
    tokens: list[int] = []
    while len(tokens) < most:
        found = allowed(matcher)
        if EOS in found and (len(found) == 1 or chance.random() < 0.5):
            return tokens
        # Printing characters, which small models write too: else half of all texts would be control codes.
        some = [token for token in found if token != EOS and (32 <= token < 127 or token > 255)] or found
        tokens.append(chance.choice(some))
        matcher.follow(tokens[-1:])
    raise AssertionError(f"no end after {most} tokens: {text(tokens[-80:])}")


def text(tokens: Sequence[int]) -> str:
    return b"".join(TOKENS[token] for token in tokens).decode()


def test_every_way_through_a_schema_is_valid_under_it(forms: Forms) -> None:
    chance = random.Random(1)
    schemas = [*[*SCHEMAS.items()][::3], *made(20)]
    for name, schema in schemas:
        answer = text(walk(begin(forms, json_schema(schema)), chance))
        checker = Draft202012Validator.FORMAT_CHECKER
        errors = [
            error.message
            for error in Draft202012Validator(schema, format_checker=checker).iter_errors(json.loads(answer))
        ]
        assert not errors, f"{name}: {answer}"


def test_an_end_token_is_allowed_exactly_where_the_answer_may_end(forms: Forms) -> None:
    matcher = begin(forms, one_of(["ab", "abba", 'say "n\\o"\n']))
    ends = []
    for token in b"abba":
        ends.append(EOS in allowed(matcher))
        matcher.follow([token])
    assert ends == [False, False, True, False]
    assert allowed(matcher) == [EOS]


def test_tokens_that_are_forgotten_leave_nothing_behind(forms: Forms) -> None:
    constraint = json_schema(SCHEMAS["invoice"])
    chance = random.Random(2)
    tokens = walk(begin(forms, constraint), chance)
    matcher = begin(forms, constraint)
    masks = []
    for token in tokens:
        masks.append(allowed(matcher))
        matcher.follow([token])
    masks.append(allowed(matcher))
    for _ in range(40):
        length = chance.randrange(matcher.length + 1)
        assert allowed(matcher, length) == masks[length]
        matcher.follow(tokens[length : length + chance.randrange(9)])
    begun = begin(forms, constraint, tokens[:20])
    assert allowed(begun) == masks[20]


def test_guesses_are_cut_where_the_form_does_not_allow_them(forms: Forms) -> None:
    matcher = begin(forms, Constraint("regex", "[0-9]{2}-x"))
    matcher.mask(0)
    assert matcher.allowed(b"12-x") == 4
    assert matcher.allowed(b"12x-") == 2
    assert matcher.allowed(b"x") == 0
    matcher.follow(b"12")
    matcher.mask(2)
    assert bytes(matcher.forced(8)) == b"-x"
    assert bytes(matcher.forced(1)) == b"-"


def test_white_space_is_bounded_so_that_small_models_come_to_an_end(forms: Forms) -> None:
    matcher = begin(forms, json_object())
    matcher.follow(b"{\n" + b" " * 20)
    assert not {ord(" "), ord("\n")} & {*allowed(matcher)}


def test_rows_of_digits_in_json_are_bounded(forms: Forms) -> None:
    matcher = begin(forms, json_schema({"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}))
    matcher.follow(b'{"x":0.' + b"0" * 24)
    assert not set(b"0123456789") & {*allowed(matcher)}
    assert ord("}") in allowed(matcher)
    assert ord("1") in allowed(matcher, matcher.length - 1)
    needed = begin(forms, json_schema({"type": "string", "pattern": "^[0-9]{40}$"}))
    needed.follow(b'"' + b"1" * 40)
    assert allowed(needed) == [ord('"')]


def test_an_answer_that_is_not_of_its_form_is_refused(forms: Forms) -> None:
    with pytest.raises(InvalidGrammar, match="not of its form"):
        begin(forms, one_of(["yes"]), b"no")
    with pytest.raises(InvalidGrammar, match="no end token"):
        forms.begin("regex", "a").start(())


def test_grammars_of_llama_cpp_are_translated(forms: Forms) -> None:
    matcher = begin(forms, Constraint("grammar", 'root ::= "a" digit+ ("," digit+)*\ndigit ::= [0-9]'))
    matcher.follow(b"a12,3")
    assert EOS in allowed(matcher)
    with pytest.raises(InvalidGrammar, match="nowhere"):
        begin(forms, Constraint("grammar", "root ::= nowhere"))


def cut_short(forms: Forms, schema: dict[str, Any], most: int, chance: random.Random) -> list[int]:
    """An answer by chance with room for so many tokens and the end."""
    constraint = json_schema(schema)
    matcher = forms.begin(constraint.kind, constraint.text)
    matcher.start([EOS], most + 1)
    tokens: list[int] = []
    while len(tokens) <= most:
        found = allowed(matcher)
        some = [token for token in found if 32 <= token < 127] or found
        token = chance.choice(some)
        if token == EOS:
            return tokens
        tokens.append(token)
        matcher.follow([token])
    raise AssertionError(f"no end within {most} tokens: {text(tokens)}")


def test_answers_are_brought_to_a_valid_end_before_their_tokens_are_used_up(forms: Forms) -> None:
    chance = random.Random(3)
    for name, schema in [*[*SCHEMAS.items()][::8], *made(6)]:
        answer = text(cut_short(forms, schema, 400, chance))
        checker = Draft202012Validator.FORMAT_CHECKER
        errors = [*Draft202012Validator(schema, format_checker=checker).iter_errors(json.loads(answer))]
        assert not errors, f"{name}: {answer}"


@pytest.mark.parametrize(
    ("schema", "shortest"),
    [
        ({"type": "integer", "minimum": 150, "multipleOf": 7}, 8),
        ({"type": "string", "pattern": "^[a-z]+@[a-z]+[.]org$"}, 16),
        ({"type": "string", "minLength": 30}, 32),
        ({"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}}}}, 2),
        ({"type": "array", "minItems": 3, "items": {"enum": ["red", "blue"]}}, 25),
        ({"anyOf": [{"type": "object", "required": ["a"]}, {"type": "null"}]}, 9),
    ],
)
def test_a_short_end_is_found_for(forms: Forms, schema: dict[str, Any], shortest: int) -> None:
    matcher = begin(forms, json_schema(schema))
    found = ending(matcher._inner, matcher._table.trie, matcher._table.singles)
    assert found is not None
    assert Draft202012Validator(schema).is_valid(json.loads(text(found)))
    assert len(text(found)) <= shortest


def test_an_answer_that_is_taken_up_again_ends_as_it_would_have(forms: Forms) -> None:
    chance = random.Random(4)
    schema = SCHEMAS["invoice"]
    tokens = cut_short(forms, schema, 500, chance)
    constraint = json_schema(schema)
    whole = forms.begin(constraint.kind, constraint.text)
    whole.start([EOS], 501)
    for length, token in enumerate(tokens):
        if length % 50 == 0 or length > len(tokens) - 20:
            again = forms.begin(constraint.kind, constraint.text, tokens[:length])
            again.start([EOS], 501)
            assert allowed(again) == allowed(whole)
        whole.follow([token])
    assert allowed(whole, len(tokens)) == [EOS]


def test_what_an_ending_needs_is_guessed(forms: Forms) -> None:
    constraint = json_schema({"type": "string", "pattern": "^[ab]{8,90}$"})
    matcher = forms.begin(constraint.kind, constraint.text)
    matcher.start([EOS], 30)
    matcher.follow(b'"')
    while len(allowed(matcher)) > 1:
        matcher.follow(b"a")
    assert 15 <= matcher.length < 29
    assert bytes(matcher.forced(8)) == b'"'


def nested(count: int, opens: str, closes: str, middle: str = "true") -> str:
    return opens * count + middle + closes * count


def chain(count: int) -> str:
    rules = "".join(f"a{number}: a{number + 1}\n" for number in range(count))
    return f'start: a0\n{rules}a{count}: "z"\n'


HOSTILE = {
    "too deep": ("json_schema", nested(3000, '{"properties":{"a":', "}}"), "JSON"),
    "deep": ("json_schema", nested(100, '{"properties":{"a":', "}}"), "recursion"),
    "not JSON": ("json_schema", "{", "JSON"),
    "not": ("json_schema", '{"not": {"type": "null"}}', "not"),
    "remote": ("json_schema", '{"$ref": "https://example.com/schema.json"}', "."),
    "recursive": ("json_schema", '{"$ref": "#"}', "."),
    "impossible": ("json_schema", '{"type": "string", "minLength": 4, "maxLength": 2}', "."),
    "references": (
        "json_schema",
        json.dumps(
            {
                "$defs": {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(1500)} | {"a1500": {}},
                "$ref": "#/$defs/a0",
            }
        ),
        "complex",
    ),
    "a large divisor": ("json_schema", '{"type": "integer", "multipleOf": 999983}', "complex"),
    "many patterns": (
        "json_schema",
        json.dumps({"allOf": [{"type": "string", "pattern": f"(.*a.{{{n}}}b.*)"} for n in range(3, 30)]}),
        "complex",
    ),
    "powers": ("regex", nested(10, "(", "{10}){10}", "a"), "complex"),
    "look-ahead": ("regex", "(?=a)b", "look-ahead"),
    "brackets": ("regex", nested(20_000, "(", ")", "a"), "regex"),
    "unclosed": ("regex", "(", "regex"),
    "unit rules": ("grammar", chain(3000), "complex"),
    "deep rules": ("grammar", "start: " + nested(20_000, "(", ")", '"a"'), "nested"),
    "no rules": ("grammar", "what is this", "."),
    "doubling": (
        "grammar",
        "start: A0\n" + "".join(f"A{n}: A{n + 1} A{n + 1}\n" for n in range(40)) + "A40: /ab*/\n",
        "big",
    ),
    "half of gbnf": ("grammar", 'root ::= ("a"', "."),
    "deep gbnf": ("grammar", "root ::= " + nested(5000, "(", ")", '"a"'), "."),
}


def test_hostile_forms_are_refused_soon_and_in_words(forms: Forms) -> None:
    forms.begin("regex", "warm")
    for name, (kind, source, words) in HOSTILE.items():
        began, used = time.monotonic(), time.process_time()
        with pytest.raises(InvalidGrammar, match=f"(?s){words}"):
            begin(forms, Constraint(kind, source)).mask(0)  # type: ignore[arg-type]
            pytest.fail(f"{name} was taken")
        assert time.process_time() - used < 0.3, name
        assert time.monotonic() - began < 8, name  # of a machine that is busy with other things


def test_forms_are_bounded_in_size() -> None:
    with pytest.raises(InvalidGrammar, match="bytes"):
        Constraint("regex", "é" * 40_000)
    with pytest.raises(InvalidGrammar, match="surrogate"):
        Constraint("regex", "\ud800")
    with pytest.raises(InvalidGrammar, match="between 1 and"):
        one_of([])


def test_what_takes_too_long_ends_its_own_session_only(forms: Forms) -> None:
    matcher = begin(forms, json_object())
    matcher.mask(0)
    with matcher._lock:
        with pytest.raises(InvalidGrammar, match="too long"):
            matcher.follow([ord("{")])
        assert matcher.allowed([ord("{")]) == 0
    matcher._slow = True
    matcher.follow([ord("{")])  # found on another thread
    assert ord("}") in allowed(matcher)
    assert matcher.allowed([ord("}")]) == 1
