"""What the client library takes and gives back: requests, pieces of an answer, and the `Backend` port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mesh.swarm.route import Hop
from shards.engine.sampling_params import SamplingParams
from shards.grammar.constraint import Constraint
from shards.model.span import Span
from shards.text.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]
Speculate = Literal["auto", "always", "off"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the swarm serves now. `digest` tells two checkpoints of one name apart (hex sha256)."""

    name: str
    digest: str
    n_blocks: int
    context_length: int
    vocab_size: int
    complete: bool
    """True when every block is served by somebody."""
    gaps: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One generation (one session). `prompt` is token ids, already templated and encoded."""

    model: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    shown: tuple[int, ...] = ()
    """Special tokens that become part of the text, such as the one with which a model begins a tool call."""
    ignore_eos: bool = False
    prompt_logprobs: bool = False
    """Also report each prompt token's log-probability (with `sampling.logprobs` alternatives)."""
    shrinks: bool = False
    """Nobody asked for just so many tokens: where every way's memory holds fewer, the answer ends there."""
    resumed: tuple[int, ...] = ()
    """Tokens of the answer that are there already: it goes on after them. `max_tokens` counts them too."""
    resumed_paid: bool = False
    """The prompt and those tokens were run and paid for here before: hops are not paid for running them again."""
    constraint: Constraint | None = None
    """What the answer is held to: JSON of a schema, an expression, a grammar."""
    speculate: Speculate = "auto"
    """Whether the last hop may guess at the next tokens, so that one trip round the ring brings several. `auto`: where
    the tokens are the same to the last bit, which stages on the native kernels make sure of. `always`: on any stages;
    rounding may then decide between tokens that are all but equally likely, as where sessions share passes there."""
    caller: str = ""
    """Who asks, of all that one client asks for: what hops keep of a prompt answers only the same caller's next one,
    else callers could tell from the time it takes what others have said."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A chosen token's log-probability under the model's own distribution (before temperature and filters)."""

    token: int
    logprob: float | None
    """None for the first prompt token, which nothing predicts."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely alternatives, best first: (token id, logprob)."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer: zero or more tokens and the text they completed (never half a character).

    `text` may lag behind `tokens` while bytes of a character or a possible stop string are held back; the
    texts of all deltas concatenated are the answer. Stop strings are not part of it.
    """

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class HopReport:
    """What one hop of the route did for a session."""

    peer: str
    span: Span
    tokens: int
    """Tokens (prompt and generated) it computed."""
    busy_seconds: float
    """Seconds its engine spent on them, batched work counted by share."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.busy_seconds if self.busy_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of a generation: why it ended, what it cost, which way it went."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """Generated now, without those that a resumed answer began with."""
    route: tuple[HopReport, ...]
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    time_to_first_token: float = 0.0
    seconds: float = 0.0
    cached_tokens: int = 0
    """Of the prompt, tokens that were not run again because the route still had them."""
    trips: int = 0
    """Trips round the ring that brought the tokens; fewer than tokens where guesses at them were right."""
    drafted_tokens: int = 0
    """Guesses that the trips checked, right or wrong."""
    accepted_tokens: int = 0
    """Guesses that were right: each saved a trip."""


class Generation(Protocol):
    """A running generation. Iterate it for deltas; afterwards `completion` is set.

    Leaving the `async with` of `Backend.generate` early cancels the session on every hop.
    """

    completion: Completion | None

    @property
    def hops(self) -> Sequence[Hop]:
        """The route that it is on now."""

    @property
    def arrived(self) -> int:
        """Generated tokens that have reached us, on all routes, whether they were read or not."""

    @property
    def cached(self) -> int:
        """Prompt tokens that were not run, because the route had them already; final with the first token."""

    def __aiter__(self) -> AsyncIterator[TextDelta]: ...


class Backend(Protocol):
    """What the gateway needs of the mesh; `mesh.client.Client` is the real one.

    Every method may raise any `MeshError`: `UnknownModel`, `ContextLengthExceeded`, `InvalidRequest`, `NoRoute`,
    `Refused`, `PeerError`; and `ShardError` from the tokenizer.
    """

    async def models(self) -> Sequence[ModelInfo]:
        """The models that the swarm serves now, complete or not."""

    async def tokenizer(self, model: str) -> Tokenizer:
        """The model's tokenizer (fetched from a provider and checked against its record, then kept)."""

    def generate(self, request: GenerateRequest) -> AbstractAsyncContextManager[Generation]:
        """Open a session on every hop of a route; yields once they have all admitted it."""
