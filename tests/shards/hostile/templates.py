"""Chat templates that a stranger could announce to take memory or time, or to reach what is none of theirs."""

from __future__ import annotations

from dataclasses import dataclass

from tests.shards.hostile.tokenizers import ANSWER, ANY, LIMIT, REFUSED

HEX = "{% set a = ('f' * 400000)|int(0, 16) %}{% set b = ('e' * 200000)|int(0, 16) %}"
"""Hexadecimal digits are read in no time, and what is computed with such numbers takes the interpreter's lock."""
NEST = "{% for i in range(99999) %}"
GROW = "{%% set ns = namespace(x='ab') %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x }}"
MACROS = "{% macro m0() %}aaaa{% endmacro %}" + "".join(
    f"{{% macro m{i}() %}}{{{{ m{i - 1}() }}}}{{{{ m{i - 1}() }}}}{{% endmacro %}}" for i in range(1, 60)
)


@dataclass(frozen=True)
class Case:
    """A template, and what must come of compiling and rendering it."""

    name: str
    source: str
    expected: str


_CASES = {
    "integers: a division": (HEX + "{{ 1 if a // b else 2 }}", ANY),
    "integers: many divisions": (HEX + NEST + "{{ '' if a // b else '' }}{% endfor %}", LIMIT),
    "integers: many remainders": (HEX + NEST + "{{ '' if a % b else '' }}{% endfor %}", LIMIT),
    "integers: larger divisions": (
        HEX.replace("400000", "4000000").replace("200000", "2000000") + "{{ 1 if a // b else 2 }}",
        LIMIT,
    ),
    "integers: many products": (HEX + NEST + "{{ '' if a * b else '' }}{% endfor %}", LIMIT),
    "integers: a power": ("{{ 1 if 10 ** (10 ** 9) else 2 }}", LIMIT),
    "integers: powers of powers": (
        "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x ** 9 %}{% endfor %}{{ 1 if ns.x }}",
        LIMIT,
    ),
    "integers: as a decimal text": (HEX + "{{ a }}", REFUSED),
    "integers: as a fraction": (HEX + "{{ a / b }}", REFUSED),
    "integers: a shift by format": (HEX + "{{ '%x' % a }}", ANSWER),
    "integers: rounding": ("{{ 3 | round(999999999, 'floor') }}", LIMIT),
    "text: a million millions": ("{{ 'a' * 1000000000000 }}", LIMIT),
    "text: a gigabyte": ("{{ ('a' * 1000000000) | length }}", LIMIT),
    "text: forty times 'ab'": (GROW % "ns.x * 40", LIMIT),
    "text: doubled by ~": (GROW % "ns.x ~ ns.x", LIMIT),
    "text: doubled by +": (GROW % "ns.x + ns.x", LIMIT),
    "text: doubled by join": (GROW % "[ns.x, ns.x] | join", LIMIT),
    "text: doubled by format": (GROW % "'%s%s' | format(ns.x, ns.x)", LIMIT),
    "text: replaced": ("{{ ('a' * 1000000).replace('a', 'b' * 1000000) | length }}", LIMIT),
    "text: replaced between characters": ("{{ ('a' * 1000000) | replace('', 'b' * 1000000) | length }}", LIMIT),
    "text: joined": ("{{ range(99999) | map('string') | join('b' * 1000000) | length }}", LIMIT),
    "text: joined by a method": ("{{ ('b' * 1000000).join(range(99999) | map('string')) | length }}", LIMIT),
    "text: justified": ("{{ 'a'.ljust(10 ** 9) | length }}", LIMIT),
    "text: centred": ("{{ 'a' | center(10 ** 9) | length }}", LIMIT),
    "text: zeros in front": ("{{ '1'.zfill(10 ** 9) | length }}", LIMIT),
    "text: indented": ("{{ ('a\n' * 1000) | indent(999999999) | length }}", LIMIT),
    "text: indented while compiling": ("{{ 'constant' | indent(9999999999, true) }}", LIMIT),
    "text: tabs": ("{{ '\t'.expandtabs(10 ** 9) | length }}", LIMIT),
    "text: comments stripped": ("{{ ('<!---->' * 120000) | striptags | length }}", ANY),
    "text: tags stripped": ("{{ ('<b>' * 120000) | striptags | length }}", ANY),
    "text: links found": ("{{ ('http://a.b/' * 100000) | urlize | length }}", ANY),
    "text: words wrapped": ("{{ ('a ' * 500000) | wordwrap(1) | length }}", ANY),
    "text: five megabytes": ("{{ 'a' * 5000000 }}", REFUSED),
    "format: a width": ("{{ '%1000000000d' % 1 }}", LIMIT),
    "format: a width from an argument": ("{{ '%*d' % (999999999, 1) }}", LIMIT),
    "format: a precision": ("{{ '%.999999999f' | format(1.5) }}", ANY),
    "format: a named width": ("{{ '%(a)999999999d' % {'a': 1} }}", LIMIT),
    "format: braces": ("{{ '{:999999999}'.format(1) }}", LIMIT),
    "format: nested braces": ("{{ '{:{}}'.format(1, 999999999) }}", LIMIT),
    "format: many fields": ("{{ ('{0}' * 1000000).format('a' * 1000000) | length }}", LIMIT),
    "loops: two": (NEST * 2 + "x" + "{% endfor %}" * 2, ANY),
    "loops: five that print nothing": (NEST * 5 + "{% endfor %}" * 5, LIMIT),
    "loops: in a filter": (
        NEST + "{{ range(99999) | sum if false else range(99999) | list | length }}{% endfor %}",
        LIMIT,
    ),
    "loops: recursive": ("{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}", REFUSED),
    "loops: over a loop": (NEST + "{% for b in loop %}{{ b }}{% endfor %}{% endfor %}", ANY),
    "loops: a range over its size": ("{{ range(10 ** 9) | list | length }}", REFUSED),
    "loops: ranges multiplied": ("{{ (range(99999) | list * 9999) | length }}", ANY),
    "loops: cycled without end": (
        NEST * 3 + "{% set c = cycler(1, 2) %}{{ c.next() if false }}" + "{% endfor %}" * 3,
        LIMIT,
    ),
    "lists: a million millions": ("{{ ([1] * 1000000000000) | length }}", LIMIT),
    "lists: doubled": (GROW % "[ns.x, ns.x]", LIMIT),
    "lists: doubled tables": (GROW % "{'a': ns.x, 'b': ns.x}", LIMIT),
    "lists: batches": ("{{ [1] | batch(999999999, 0) | list | length }}", LIMIT),
    "lists: slices": ("{{ [1] | slice(999999999) | list | length }}", LIMIT),
    "lists: as JSON, indented": ("{{ [1, 2, 3, 4] | tojson(indent=99999999) | length }}", LIMIT),
    "macros: doubling": (MACROS + "{{ m59() }}", LIMIT),
    "macros: without end": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", REFUSED),
    "macros: two that call each other": (
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        REFUSED,
    ),
    "macros: called with themselves": ("{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}", REFUSED),
    "macros: blocks of sets": ("{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60 + "{{ x }}", LIMIT),
    "nonsense: latin without end": ("{{ lipsum(n=10000000) | length }}", LIMIT),
    "escapes: the class of a text": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", REFUSED),
    "escapes: globals of a method": ("{{ self.__init__.__globals__ }}", REFUSED),
    "escapes: by format": ("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", REFUSED),
    "escapes: by attr": ("{{ (messages | attr('__class__')).__base__ }}", REFUSED),
    "escapes: by map": ("{{ messages | map(attribute='__class__.__base__') | list }}", ANY),
    "escapes: by a frame": ("{{ lipsum.__globals__['os'].popen('id').read() }}", REFUSED),
    "escapes: by the cycler": ("{{ cycler.__init__.__globals__.os.environ }}", REFUSED),
    "escapes: by a name space": ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.x }}", ANY),
    "escapes: a message changed": ("{{ messages.append(1) }}", REFUSED),
    "other files: included": ("{% include '/etc/passwd' %}", REFUSED),
    "other files: imported": ("{% import '/etc/passwd' as x %}{{ x }}", REFUSED),
    "other files: extended": ("{% extends '/etc/passwd' %}", REFUSED),
    "broken: a loop without a list": ("{% for %}", REFUSED),
    "broken: parentheses": ("{{ " + "(" * 5000, REFUSED),
    "broken: brackets": ("{{ " + "[" * 60_000 + "]" * 60_000 + " }}", REFUSED),
    "broken: conditions": ("{% if 1 %}" * 5000 + "{% endif %}" * 5000, REFUSED),
    "broken: negations": ("{{ " + "not " * 60_000 + "1 }}", REFUSED),
    "broken: a sum of many": ("{{ " + "1+" * 60_000 + "1 }}", REFUSED),
    "broken: half a surrogate pair": ("{{ '\\ud800' }}", REFUSED),
    "broken: too long": ("x" * 300_000, REFUSED),
    "broken: a date of many parts": ("{{ strftime_now('%c' * 100000) | length }}", ANY),
    "broken: a zero": ("{{ 1 // 0 }}", REFUSED),
    "broken: an error of a megabyte": ("{{ raise_exception('a' * 1000000) }}", REFUSED),
}


def cases() -> list[Case]:
    """All of them."""
    return [Case(name, source, expected) for name, (source, expected) in _CASES.items()]
