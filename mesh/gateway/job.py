"""One generation request made ready to run: its sessions, and how its answer is written."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pydantic import BaseModel

from mesh.client.types import Completion, GenerateRequest, ModelInfo, TextDelta, TokenLogprob
from mesh.gateway.schemas import Failure, PromptTokensDetails, Usage
from mesh.gateway.sse import Framing


@dataclass(slots=True)
class Answer:
    """What one session has given so far."""

    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    completion: Completion | None = None

    def add(self, delta: TextDelta) -> None:
        self.texts.append(delta.text)
        self.tokens.extend(delta.tokens)
        self.logprobs.extend(delta.logprobs)

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Writer(Protocol):
    """Shapes answers as one endpoint does; choices are numbered as the job's sessions are."""

    framing: Framing

    def opening(self, index: int) -> list[BaseModel]:
        """Chunks that go before a choice's first piece."""

    def piece(self, index: int, delta: TextDelta) -> list[BaseModel]:
        """Chunks for a piece of a choice's text."""

    def closing(self, index: int, answer: Answer) -> list[BaseModel]:
        """Chunks for the end of a choice; the last one has its finish reason."""

    def usage(self, usage: Usage) -> list[BaseModel]:
        """The chunks that end a stream with `include_usage`."""

    def whole(self, answers: Sequence[Answer], usage: Usage, failure: Failure | None = None) -> BaseModel:
        """The body of an answer that is not streamed; a choice that did not reach its end says so."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request ready to run."""

    id: str
    created: int
    model: ModelInfo
    sessions: tuple[GenerateRequest, ...]
    writer: Writer
    prompt_tokens: int
    """Tokens of all prompts, each counted once however many choices it has."""
    stream: bool
    include_usage: bool
    discard_output: bool = False
    """Score only: the one generated token that the backend needs is neither shown nor counted."""

    def asked_by(self, caller: str) -> Job:
        """The same job of this caller."""
        return replace(self, sessions=tuple(replace(session, caller=caller) for session in self.sessions))

    def constrained_by(self, param: str) -> Job:
        """The same job, where this field of its request says what the answers are held to."""
        return replace(self, sessions=tuple(_constrained_by(session, param) for session in self.sessions))

    def usage(self, answers: Sequence[Answer]) -> Usage:
        """What came; of an answer that is not complete, the tokens that were handed out."""
        completed = sum(
            answer.completion.completion_tokens if answer.completion else len(answer.tokens) for answer in answers
        )
        generated = 0 if self.discard_output else completed
        usage = Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=generated,
            total_tokens=self.prompt_tokens + generated,
        )
        cached = sum(answer.completion.cached_tokens for answer in answers if answer.completion)
        if cached:
            usage.prompt_tokens_details = PromptTokensDetails(cached_tokens=min(cached, self.prompt_tokens))
        return usage


def _constrained_by(session: GenerateRequest, param: str) -> GenerateRequest:
    held = session.constraint
    if held is None or held.param != "response_format":
        return session
    return replace(session, constraint=replace(held, param=param))


def new_id(prefix: str) -> str:
    """An id that nobody can guess: who knows it may ask for the request's route."""
    return f"{prefix}-{secrets.token_hex(16)}"


def fingerprint(model: ModelInfo) -> str:
    """OpenAI's `system_fingerprint`: here the checkpoint that answered."""
    return f"fp_{model.digest[:12]}"
