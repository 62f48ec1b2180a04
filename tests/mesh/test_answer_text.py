"""Tokens and log-probabilities of an answer end where its text ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hypothesis import given
from hypothesis import strategies as st

from mesh.client.text import AnswerText
from mesh.client.types import TokenLogprob
from shards.text.tokenizer import TextStream
from tests.mesh.gateway.echo_tokenizer import ByteTokenizer

WORDS = (" Paris", ".", "\n", "\n", "The", " answer", " is")


class _Words:
    """A stream whose tokens are numbers of `WORDS`."""

    def push(self, token: int) -> str:
        return WORDS[token]

    def flush(self) -> str:
        return ""


class _WordTokenizer(ByteTokenizer):
    def stream(self, *, shown: Collection[int] = ()) -> TextStream:
        return _Words()


def run(stop: list[str], tokens: Sequence[int], resumed: int = 0) -> tuple[str, list[int], list[int], bool]:
    answer = AnswerText(_WordTokenizer(), stop)
    answer.resume(tokens[:resumed])
    text, handed, scored = "", [], []
    for token in tokens[resumed:]:
        delta = answer.push(token, TokenLogprob(token, -1.0))
        text += delta.text
        handed += delta.tokens
        scored += [entry.token for entry in delta.logprobs]
        if answer.stopped:
            return text, handed, scored, True
    if (last := answer.finish()) is not None:
        text += last.text
        handed += last.tokens
        scored += [entry.token for entry in last.logprobs]
    return text, handed, scored, answer.stopped


def test_a_stop_string_takes_the_tokens_away_that_it_takes_the_text_of() -> None:
    assert run(["\nThe a"], range(7)) == (" Paris.\n", [0, 1, 2], [0, 1, 2], True)


def test_a_token_of_which_some_text_is_left_stays() -> None:
    assert run(["ris"], range(7)) == (" Pa", [0], [0], True)


def test_what_was_held_back_for_nothing_comes() -> None:
    whole = ("".join(WORDS), [*range(7)], [*range(7)], False)
    assert run(["\nThe z"], range(7)) == run([" is not"], range(7)) == run([], range(7)) == whole


def test_what_is_resumed_is_not_given_again() -> None:
    assert run(["\nThe z"], range(7), resumed=2) == ("".join(WORDS[2:]), [2, 3, 4, 5, 6], [2, 3, 4, 5, 6], False)


@given(
    tokens=st.lists(st.integers(0, len(WORDS) - 1), max_size=12),
    stop=st.lists(st.sampled_from(["\n", "The", " ans", "s.", ". ", "\n\nT", "ris.\n"]), max_size=2),
)
def test_every_token_begins_within_the_text(tokens: list[int], stop: list[str]) -> None:
    text, handed, scored, stopped = run(stop, tokens)
    assert handed == scored == tokens[: len(handed)]
    whole = "".join(WORDS[token] for token in handed)
    assert whole.startswith(text)
    assert not handed or len(whole) - len(WORDS[handed[-1]]) < len(text)
    if not stopped:
        assert (whole, handed) == (text, tokens)
