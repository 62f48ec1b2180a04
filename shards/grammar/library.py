"""What we use of llguidance: which tokens a form allows next. Nothing else of the project imports it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark, is_lark_syntax

from shards.errors import InvalidGrammar
from shards.grammar import limits
from shards.grammar.constraint import WHITESPACE, ConstraintKind

_MAX_WORDS = 400


class _Words:
    """A vocabulary as `LLTokenizer` takes it. The last id stands for the end of the text."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int]) -> None:
        self.tokens = [*tokens, b""]
        self.eos_token_id = len(tokens)
        self.special_token_ids = [*special, len(tokens)]
        self.trie: Any = None

    def __call__(self, text: str | bytes) -> list[int]:
        data = text if isinstance(text, str) else text.decode("utf-8", "replace")
        found: list[int] = [] if self.trie is None else self.trie.greedy_tokenize(data)
        return found


def vocabulary(tokens: Sequence[bytes], special: Sequence[int] = ()) -> LLTokenizer:
    """The tokens of a model by id, each as its bytes; those without any, and `special` ones, are part of no text.

    One more id than there are tokens stands for the end. Takes some 10 microseconds a token.
    """
    words: Any = _Words(tokens, special)
    trie = LLTokenizer(words, n_vocab=len(words.tokens), slices=LLTokenizer.json_slices())
    words.trie = trie
    return trie


def matcher(trie: LLTokenizer, kind: ConstraintKind, text: str) -> LLMatcher:
    """A form at its beginning. Raises `InvalidGrammar` in words that name what is wrong with it.

    May take long, or end the process, for a form that a child process has not tried (`shards.grammar.inside`).
    """
    bounds = LLParserLimits(
        initial_lexer_fuel=limits.LEXER_FUEL,
        step_lexer_fuel=limits.STEP_FUEL,
        step_max_items=limits.STEP_ITEMS,
        max_lexer_states=limits.LEXER_STATES,
        max_grammar_size=limits.GRAMMAR_SIZE,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )
    made = LLMatcher(trie, grammar(kind, text), log_level=0, limits=bounds)
    if made.is_error():
        raise InvalidGrammar(words(made.get_error()))
    return made


def grammar(kind: ConstraintKind, text: str) -> str:
    """The form as the library takes it. Raises `InvalidGrammar`."""
    match kind:
        case "json_schema":
            try:
                schema = json.loads(text)
            except (ValueError, RecursionError):
                raise InvalidGrammar("the schema is not JSON") from None
            if not isinstance(schema, dict | bool):
                raise InvalidGrammar("a schema is a JSON object")
            if schema is True:
                schema = {}
            if schema is False:
                raise InvalidGrammar("the schema allows nothing")
            # The separators are ours to say, also where a stranger's schema says something else.
            own = schema.pop("x-guidance", None)
            lenient = isinstance(own, dict) and own.get("lenient") is True
            options = {"whitespace_pattern": WHITESPACE, "lenient": lenient}
            try:
                return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)  # type: ignore[arg-type]
            except ValueError as error:
                raise InvalidGrammar(words(str(error))) from error
        case "regex":
            return LLMatcher.grammar_from_regex(text)
        case "grammar":
            return LLMatcher.grammar_from_lark(_lark(text))


def _lark(text: str) -> str:
    """A grammar in Lark; one in llama.cpp's GBNF, whose rules have `::=`, is translated."""
    if "::=" not in text or is_lark_syntax(text):
        return text
    try:
        return gbnf_to_lark(text)
    except GbnfToLarkError as error:
        raise InvalidGrammar(words(str(error))) from error
    except RecursionError:
        raise InvalidGrammar("the grammar is nested too deep") from None
    except Exception as error:
        if type(error) is not Exception:  # what it raises for rules that are not there
            raise
        raise InvalidGrammar(words(str(error))) from error


def words(error: str) -> str:
    """The library's message as one line of bounded length."""
    line = " ".join(error.replace("<non-verbose/>", "").split())
    return line if len(line) <= _MAX_WORDS else line[:_MAX_WORDS] + "…"
