"""Chat templates: Hugging Face's conventions hold, and a hostile template is stopped in time."""

from __future__ import annotations

import time

import pytest

from shards.errors import TokenizerError
from shards.text.chat_template import MAX_TEMPLATE_CHARACTERS, ChatTemplate

TALK = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yo"}]
GROW = "{%% set ns = namespace(x='ab') %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x }}"
DOUBLING_MACROS = "{% macro m0() %}aaaa{% endmacro %}" + "".join(
    f"{{% macro m{i}() %}}{{{{ m{i - 1}() }}}}{{{{ m{i - 1}() }}}}{{% endmacro %}}" for i in range(1, 60)
)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "{% for m in messages %}\n  {% if true %}\n<{{ m.role }}>{% endif %}\n{% endfor %}",
            "<user><assistant>",
        ),
        ("{{ messages[0]['content'] | trim }}{{ missing }}|", "hi|"),
        ("{% generation %}{{ 'a' ~ 1 }}{% endgeneration %}", "a1"),
        ("{% for m in messages %}{{ loop.index }}{% break %}{% endfor %}", "1"),
        ("{{ {'b': ['é', none, '<']} | tojson }}", '{"b": ["é", null, "<"]}'),
        ("{{ messages | map(attribute='role') | join(', ') }}", "user, assistant"),
        ("{{ 'a-b'.split('-') | join('+') }}{{ '/'.join(['x', 'y']) }}", "a+bx/y"),
        ("{{ 'aXb'.replace('X', '--') }}{{ 'abc'[::-1] }}{{ 7 % 3 }}{{ 'ab' * 2 }}", "a--bcba1abab"),
        ("{% macro f(a, b=2) %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f('x', b=3) }}", "[12][x3]"),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "2",
        ),
        ("{% for k, v in {'a': 1} | items %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{{ 'yes' if messages[0].role in ('user', 'tool') else 'no' }}", "yes"),
        ("{{ '%s=%d%%' | format('a', 3) }}{{ '%02d' % 7 }}{{ '%s' % 'x' }}", "a=3%07x"),
        ("{{ '{}-{n:>3}|{{}}'.format('a', n=3) }}", "a-  3|{}"),
        ("{{ bos_token }}{% if add_generation_prompt %}GO{% endif %}", "<s>GO"),
    ],
)
def test_ordinary_templates_render_as_elsewhere(source: str, expected: str) -> None:
    assert ChatTemplate(source).render(TALK, bos_token="<s>", add_generation_prompt=True) == expected


def test_a_template_can_tell_the_date() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}").render(TALK) == time.strftime("%Y")


def test_a_template_can_refuse_with_its_own_words() -> None:
    with pytest.raises(TokenizerError, match="roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render(TALK)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 1000000000000 }}",
        "{{ [1] * 1000000000000 }}",
        "{{ 10 ** (10 ** 9) }}",
        "{{ 3 | round(999999999, 'floor') }}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%.999999999f' | format(1.5) }}",
        "{{ '%(a)999999999d' % {'a': 1} }}",
        "{{ '{:{}}'.format(1, 999999999) }}",
        "{{ '{0:>{1}}'.format(1, 999999999) }}",
        "{{ ('%s' * 1000000) % ('a' * 1000000) }}",
        "{{ ('{0}' * 1000000).format('a' * 1000000) }}",
        "{{ ('a' * 1000000) | replace('', 'b' * 1000000) }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
        "{{ range(99999) | map('string') | join('b' * 1000000) }}",
        "{{ ('b' * 1000000).join(range(99999) | map('string')) }}",
        "{{ ('a\n' * 1000) | indent(999999999) }}",
        "{{ 'constant' | indent(9999999999, true) }}",
        "{{ messages | tojson(indent=99999999) }}",
        GROW % "ns.x ~ ns.x",
        GROW % "ns.x + ns.x",
        GROW % "[ns.x, ns.x]",
        GROW % "{'a': ns.x, 'b': ns.x}",
        GROW % "(ns.x, ns.x)",
        GROW % "dict(a=ns.x, b=ns.x)",
        "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60 + "{{ x }}",
        DOUBLING_MACROS + "{{ m59() }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ range(99999) | list | length }}{% endfor %}",
    ],
)
def test_a_template_that_grows_without_end_is_stopped_in_time(source: str) -> None:
    started = time.monotonic()
    with pytest.raises(TokenizerError):
        ChatTemplate(source).render(TALK)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ missing.attribute.of.it }}",
        "{{ 1 / 0 }}",
        "{{ messages[0] + 1 }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_is_a_tokenizer_error(source: str) -> None:
    with pytest.raises(TokenizerError):
        ChatTemplate(source).render(TALK)


@pytest.mark.parametrize("source", ["{% for %}", "{{ " + "(" * 5000, "x" * (MAX_TEMPLATE_CHARACTERS + 1)])
def test_what_is_not_a_template_is_refused_at_once(source: str) -> None:
    with pytest.raises(TokenizerError):
        ChatTemplate(source)


def test_a_failed_rendering_does_not_spoil_the_next() -> None:
    template = ChatTemplate("{% if messages %}{{ 'a' * 1000000000 }}{% endif %}fine")
    with pytest.raises(TokenizerError):
        template.render(TALK)
    assert template.render([]) == "fine"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ '{0[0].__class__}'.format(messages) }}",
        "{{ messages | map(attribute='__class__') | join }}",
        "{{ messages | attr('__class__') }}",
    ],
)
def test_what_the_sandbox_hides_is_an_empty_text(source: str) -> None:
    assert ChatTemplate(source).render(TALK) == ""
