"""`mesh chat` as a user has it: in a terminal, with Ctrl-C and Ctrl-D, and through a pipe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mesh.client.sync import SyncClient
from tests.scenarios.processes import Swarm, World
from tests.scenarios.terminal import CTRL_C, CTRL_D, Terminal

INTERRUPTED = 130


@pytest.fixture(scope="module")
def long_question(swarm: Swarm) -> str:
    """One that the random model has a long answer to, greedily."""
    with SyncClient(peers=[swarm.address]) as client:
        for number in range(20):
            question = f"tell me {number}"
            answer = client.chat("llama", [{"role": "user", "content": question}], max_tokens=400)
            if answer.completion.finish_reason == "length":
                return question
    raise AssertionError("no question has a long answer")


@pytest.fixture
def terminal(swarm: Swarm, world: World) -> Iterator[Terminal]:
    arguments = ["chat", "--model", "llama", "--peers", swarm.address, "--temperature", "0", "--max-tokens", "400"]
    with Terminal(arguments, world.environment) as chat:
        chat.shows("talking with llama: Ctrl-C stops an answer, Ctrl-D ends")
        chat.shows("> ")
        yield chat
    world.assert_nothing_left()


def test_a_conversation_with_an_interrupted_answer(terminal: Terminal, long_question: str):
    for _ in range(2):
        terminal.press(f"{long_question}\n")
        terminal.shows(f"{long_question}\r\n")
        terminal.grows(30)
        terminal.press(CTRL_C)
        terminal.shows("\r\n> ", seconds=5)
    assert "error" not in terminal.screen and "Traceback" not in terminal.screen
    terminal.press("\n")
    terminal.shows("> ")
    terminal.press(CTRL_D)
    assert terminal.ends() == 0
    assert "Traceback" not in terminal.screen


def test_ctrl_c_at_the_prompt_ends_at_once(terminal: Terminal):
    terminal.press(f"half a question{CTRL_C}")
    assert terminal.ends() == INTERRUPTED
    assert "Traceback" not in terminal.screen


def test_ctrl_c_at_the_prompt_after_an_interrupted_answer_ends_at_once(terminal: Terminal, long_question: str):
    terminal.press(f"{long_question}\n")
    terminal.shows(f"{long_question}\r\n")
    terminal.grows(10)
    terminal.press(CTRL_C)
    terminal.shows("\r\n> ", seconds=5)
    terminal.press(CTRL_C)
    assert terminal.ends() == INTERRUPTED
    assert "Traceback" not in terminal.screen


def test_a_question_that_cannot_be_answered_does_not_end_the_conversation(terminal: Terminal, long_question: str):
    terminal.press("why " * 300 + "\n")
    terminal.shows("the prompt has 1")
    terminal.shows("> ")
    terminal.press(f"{long_question}\n")
    terminal.shows(f"{long_question}\r\n")
    terminal.grows(10)
    terminal.press(CTRL_C)
    terminal.shows("\r\n> ", seconds=5)
    terminal.press(CTRL_D)
    assert terminal.ends() == 0


def test_a_conversation_through_a_pipe(swarm: Swarm, world: World):
    arguments = ["chat", "--model", "llama", "--peers", swarm.address, "--temperature", "0", "--max-tokens", "8"]
    done = world.run(*arguments, stdin=b"first\n\xff not UTF-8\nlast without an end")
    assert done.code == 0, done.stderr
    assert done.stderr.splitlines() == [
        "error: the line is not UTF-8: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
    ]
    with SyncClient(peers=[swarm.address]) as client:
        messages = [{"role": "user", "content": "first"}]
        first = client.chat("llama", messages, max_tokens=8)
        messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "last without an end"}]
        second = client.chat("llama", messages, max_tokens=8)
    assert done.stdout.endswith(f"> {first.text}\n> > {second.text}\n> \n")
