"""Stop strings: the answer does not depend on how the text is chunked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import InvalidSampling
from shards.text.stop import MAX_STOPS, StopStrings

stop_lists = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def cut(text: str, stops: list[str]) -> str:
    """The definition, in the slowest way: the shortest beginning of the text that ends with a stop string."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


def run(chunks: list[str], stops: list[str]) -> tuple[str, bool]:
    machine = StopStrings(stops)
    shown = ""
    for chunk in chunks:
        emit, stopped = machine.push(chunk)
        shown += emit
        if stopped:
            return shown, True
    return shown + machine.flush(), False


@given(st.lists(st.text("ab\n", max_size=6), max_size=12), stop_lists)
def test_what_is_emitted_is_the_text_up_to_the_first_stop_string(chunks: list[str], stops: list[str]) -> None:
    text = "".join(chunks)
    expected = cut(text, stops)
    assert run(chunks, stops) == (expected, any(stop in text for stop in stops))


@given(st.lists(st.text("ab\n", max_size=6), max_size=12), stop_lists)
def test_nothing_more_than_needed_is_held_back(chunks: list[str], stops: list[str]) -> None:
    machine = StopStrings(stops)
    text = shown = ""
    for chunk in chunks:
        emit, stopped = machine.push(chunk)
        text, shown = text + chunk, shown + emit
        if stopped:
            return
        held = text[len(shown) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_string_over_two_chunks_is_never_shown() -> None:
    machine = StopStrings(["<end>"])
    assert machine.push("hello <e") == ("hello ", False)
    assert machine.push("nd> more") == ("", True)
    assert machine.matched == "<end>"
    assert machine.push("even more") == ("", True)
    assert machine.flush() == ""


def test_a_false_alarm_is_released() -> None:
    machine = StopStrings(["###"])
    assert machine.push("a##") == ("a", False)
    assert machine.push("b") == ("##b", False)


@pytest.mark.parametrize("stops", [[""], ["x" * 5000], ["a"] * (MAX_STOPS + 1)])
def test_absurd_stop_strings_are_refused(stops: list[str]) -> None:
    with pytest.raises(InvalidSampling):
        StopStrings(stops)
