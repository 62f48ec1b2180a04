"""Strangers' tokenizers and chat templates fail by themselves: soon, and without disturbing what else runs here."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shards.checkpoint.source import SHIPPED
from shards.errors import TokenizerError, TokenizerLimit
from shards.text.chat_template import ChatTemplate
from shards.text.fast import FastTokenizer, load_tokenizer, tokenizer_from_files
from tests.profile import sample
from tests.shards.hostile import templates, tokenizers
from tests.shards.hostile.beat import Outcome, beside_a_loop

MAX_STALL = 0.2
MAX_SECONDS = 60.0
"""A call is given 16 to 24 seconds by the clock on a busy machine, and there are up to three."""
MAX_GROWTH = 256 << 20
TALK = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def honest() -> Iterator[tuple[FastTokenizer, list[int], str]]:
    """Another model's tokenizer in the same process: its ids and its prompt, before anything happens."""
    made = load_tokenizer(SHIPPED / "tiny-python")
    yield made, made.encode("def f(x):"), made.apply_chat_template(TALK)


def test_there_are_enough_of_them() -> None:
    assert len(tokenizers.cases()) >= 40 and len(templates.cases()) >= 40
    for cases in (tokenizers.cases(), templates.cases()):
        assert len({case.name for case in cases}) == len(cases)


@pytest.mark.parametrize("case", sample(tokenizers.cases()), ids=lambda case: case.name)
def test_a_tokenizer_ends_soon_and_alone(case: tokenizers.Case, honest: tuple[FastTokenizer, list[int], str]) -> None:
    def use() -> int:
        made = tokenizer_from_files(case.files)
        ids = made.encode(case.text)
        stream = made.stream()
        pieces = [*(stream.push(token) for token in case.tokens), stream.flush()]
        assert "".join(pieces) == made.decode(case.tokens)
        return len(ids)

    outcome = _judged(use, case.expected)
    assert outcome.error is not None or outcome.result < 1 << 22
    _check_honest(honest)


@pytest.mark.parametrize("case", sample(templates.cases()), ids=lambda case: case.name)
def test_a_template_ends_soon_and_alone(case: templates.Case, honest: tuple[FastTokenizer, list[int], str]) -> None:
    outcome = _judged(lambda: ChatTemplate(case.source).render(TALK, bos_token="<s>"), case.expected)
    assert outcome.error is not None or len(outcome.result) <= 4 << 20
    _check_honest(honest)


def test_one_broken_model_is_no_other_models_trouble(honest: tuple[FastTokenizer, list[int], str]) -> None:
    """The same handle goes on after its breaches, until there were too many; others never notice."""
    template = ChatTemplate("{% if messages|length > 1 %}{{ 'a' * 1000000000 }}{% endif %}fine")
    for _ in range(2):
        with pytest.raises(TokenizerLimit, match="memory"):
            template.render([*TALK, *TALK])
        assert template.render(TALK) == "fine"
    with pytest.raises(TokenizerLimit, match="memory"):
        template.render([*TALK, *TALK])
    with pytest.raises(TokenizerLimit, match="set aside for") as caught:
        template.render(TALK)
    assert 0 < caught.value.retry_after <= 30
    assert ChatTemplate("fine").render(TALK) == "fine"
    _check_honest(honest)


def _judged(call: Callable[[], Any], expected: str) -> Outcome:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = beside_a_loop(call)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    error = outcome.error
    if error is not None and not isinstance(error, TokenizerError):
        raise error
    found = tokenizers.ANSWER if error is None else tokenizers.REFUSED
    if isinstance(error, TokenizerLimit):
        found = tokenizers.LIMIT
    assert expected in (found, tokenizers.ANY), f"{found}: {error}"
    assert error is None or 0 < len(str(error)) <= 1000
    assert outcome.stall <= MAX_STALL
    assert outcome.seconds <= MAX_SECONDS
    assert growth <= MAX_GROWTH
    return outcome


def _check_honest(honest: tuple[FastTokenizer, list[int], str]) -> None:
    made, ids, prompt = honest
    assert made.encode("def f(x):") == ids
    assert made.apply_chat_template(TALK) == prompt
