"""An in-memory `Backend`: a small genuine language model of bytes, and the ways in which a swarm fails."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mesh.client.types import (
    Completion,
    FinishReason,
    GenerateRequest,
    HopReport,
    ModelInfo,
    TextDelta,
    TokenLogprob,
)
from mesh.errors import ContextLengthExceeded, NoRoute, UnknownModel
from mesh.swarm.route import Hop
from shards.engine.sampling_params import SamplingParams
from shards.model.span import Span
from tests.mesh.gateway.echo_tokenizer import BOS, EOS, VOCAB_SIZE, ByteTokenizer

CORPUS = (
    "the swarm serves the model that none of us could hold alone.",
    "each stage hands the tokens to the next stage and the last one chooses.",
    "a café in Zürich pays for the tokens that the stage has served.",
    "when a stage dies the next one takes the session and the text goes on.",
)


class ByteModel:
    """The next byte from the two before it: counts over `CORPUS`, smoothed by shorter contexts."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[int, int], Counter[int]] = {}
        self._singles: dict[int, Counter[int]] = {}
        for line in CORPUS:
            tokens = [BOS, *line.encode(), EOS]
            for i in range(1, len(tokens)):
                self._singles.setdefault(tokens[i - 1], Counter())[tokens[i]] += 1
                if i > 1:
                    self._pairs.setdefault((tokens[i - 2], tokens[i - 1]), Counter())[tokens[i]] += 1

    def logprobs(self, context: Sequence[int]) -> list[float]:
        """The log-probability of every token after `context` (never empty)."""
        weights = [0.01 + (VOCAB_SIZE - token) * 1e-6 for token in range(VOCAB_SIZE)]
        for token, count in self._singles.get(context[-1], Counter()).items():
            weights[token] += count
        if len(context) > 1:
            for token, count in self._pairs.get((context[-2], context[-1]), Counter()).items():
                weights[token] += 10 * count
        log_total = math.log(sum(weights))
        return [math.log(weight) - log_total for weight in weights]


def choose(logprobs: Sequence[float], context: Sequence[int], generated: Sequence[int], p: SamplingParams) -> int:
    """The next token by `p`: penalties, bias, temperature, filters; random by (seed, position)."""
    scores = list(logprobs)
    seen = Counter(generated)
    for token in set(context) if p.needs_prompt else ():
        score = scores[token]
        scores[token] = score / p.repetition_penalty if score > 0 else score * p.repetition_penalty
    for token, count in seen.items():
        scores[token] -= p.presence_penalty + p.frequency_penalty * count
    for token, bias in p.logit_bias.items():
        scores[token] += bias
    ranked = sorted(range(len(scores)), key=lambda token: -scores[token])
    if p.temperature == 0:
        return ranked[0]
    best = scores[ranked[0]]
    kept = [(token, math.exp((scores[token] - best) / max(p.temperature, 1e-6))) for token in ranked]
    if p.top_k:
        kept = kept[: p.top_k]
    kept = [(token, weight) for token, weight in kept if weight >= p.min_p]
    total = sum(weight for _, weight in kept)
    inside, nucleus = 0.0, []
    for token, weight in kept:
        nucleus.append((token, weight))
        inside += weight / total
        if inside >= p.top_p:
            break
    point = random.Random(p.seed << 20 | len(context)).random() * sum(weight for _, weight in nucleus)
    for token, weight in nucleus:
        point -= weight
        if point <= 0:
            return token
    return nucleus[-1][0]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one of the twin's models behaves."""

    tokenizer: ByteTokenizer
    context_length: int = 512
    gaps: tuple[Span, ...] = ()
    seconds_per_token: float = 0.0
    tokens_per_delta: int = 1
    fails_at: int | None = None
    """Raise `failure` before this token; 0: when the session is to be opened."""
    failure: Callable[[], BaseException] | None = None
    tokens_ahead: int = 0
    """Tokens that have reached the backend when the last one is read."""
    cached: int = 0
    """Prompt tokens that the route has from an earlier request."""
    script: str | None = None
    """What is answered, whatever was asked."""
    stuck: bool = False
    """Admit the session, then never give a token."""


class EchoBackend:
    """Implements `mesh.client.types.Backend`. Thread-safe counters tell how sessions ended."""

    def __init__(self, models: Mapping[str, Behaviour]) -> None:
        self.behaviours = dict(models)
        self.requests: list[GenerateRequest] = []
        self.opened = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        """Released once for each session that was left before its end."""
        self.active = 0
        self.peak = 0
        self._model = ByteModel()

    async def models(self) -> Sequence[ModelInfo]:
        return [
            ModelInfo(
                name=name,
                digest=f"{index:02x}" * 32,
                n_blocks=4,
                context_length=behaviour.context_length,
                vocab_size=VOCAB_SIZE,
                complete=not behaviour.gaps,
                gaps=behaviour.gaps,
            )
            for index, (name, behaviour) in enumerate(self.behaviours.items())
        ]

    async def tokenizer(self, model: str) -> ByteTokenizer:
        return self._behaviour(model).tokenizer

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[EchoGeneration]:
        behaviour = self._behaviour(request.model)
        if behaviour.gaps:
            raise NoRoute(f"blocks {behaviour.gaps[0]} are not served")
        if len(request.prompt) + request.max_tokens > behaviour.context_length:
            raise ContextLengthExceeded("prompt and max_tokens do not fit the context")
        if behaviour.failure and behaviour.fails_at == 0:
            raise behaviour.failure()
        self.requests.append(request)
        self.active += 1
        self.peak = max(self.peak, self.active)
        self.opened.release()
        generation = EchoGeneration(self._model, behaviour, request)
        try:
            yield generation
        finally:
            self.active -= 1
            if generation.completion is None:
                self.cancelled.release()

    def _behaviour(self, model: str) -> Behaviour:
        try:
            return self.behaviours[model]
        except KeyError:
            raise UnknownModel(f"no such model: {model}") from None


class EchoGeneration:
    """Implements `mesh.client.types.Generation`."""

    def __init__(self, model: ByteModel, behaviour: Behaviour, request: GenerateRequest) -> None:
        self.completion: Completion | None = None
        self.arrived = self.cached = 0
        self.hops: tuple[Hop, ...] = ()
        self._model = model
        self._behaviour = behaviour
        self._request = request

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self._run()

    async def _run(self) -> AsyncIterator[TextDelta]:
        request, behaviour = self._request, self._behaviour
        started = time.monotonic()
        first_token = 0.0
        context = list(request.prompt)
        generated: list[int] = []
        text, sent = "", 0
        stream = behaviour.tokenizer.stream()
        pending: list[TokenLogprob] = []
        reason: FinishReason | None = None
        if behaviour.stuck:
            await asyncio.Event().wait()
        while reason is None:
            await asyncio.sleep(behaviour.seconds_per_token)
            if behaviour.failure and behaviour.fails_at == len(generated):
                raise behaviour.failure()
            logprobs = self._model.logprobs(context)
            if behaviour.script is None:
                token = choose(logprobs, context, generated, request.sampling)
            else:
                token = [*behaviour.script.encode(), EOS][len(generated)]
            context.append(token)
            generated.append(token)
            self.cached = behaviour.cached
            self.arrived = len(generated) + behaviour.tokens_ahead
            pending.append(_report(logprobs, token, request.sampling.logprobs))
            first_token = first_token or time.monotonic() - started
            if token == EOS and not request.ignore_eos:
                reason = "stop"
            text += stream.push(token)
            cut = min((at for stop in request.stop if (at := text.find(stop)) >= 0), default=None)
            if cut is not None:
                text, reason = text[:cut], "stop"
            elif reason is None and len(generated) >= request.max_tokens:
                reason = "length"
            if reason is not None and cut is None:
                text += stream.flush()
            held = 0 if reason else max((len(stop) - 1 for stop in request.stop), default=0)
            if reason or len(pending) >= behaviour.tokens_per_delta:
                ready = max(sent, len(text) - held)
                yield TextDelta(
                    text=text[sent:ready],
                    tokens=tuple(entry.token for entry in pending),
                    logprobs=tuple(pending) if request.sampling.logprobs is not None else (),
                )
                sent, pending = ready, []
        self.completion = Completion(
            finish_reason=reason,
            prompt_tokens=len(request.prompt),
            completion_tokens=len(generated),
            cached_tokens=self.cached,
            route=(
                HopReport("peer-a", Span(0, 2), len(context), 0.5),
                HopReport("peer-b", Span(2, 4), len(context), 0.25),
            ),
            prompt_logprobs=self._prompt_logprobs() if request.prompt_logprobs else (),
            time_to_first_token=first_token,
            seconds=time.monotonic() - started,
        )

    def _prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        prompt, count = self._request.prompt, self._request.sampling.logprobs
        rest = (_report(self._model.logprobs(prompt[:i]), prompt[i], count) for i in range(1, len(prompt)))
        return (TokenLogprob(prompt[0], None), *rest)


def _report(logprobs: Sequence[float], token: int, count: int | None) -> TokenLogprob:
    best = sorted(range(len(logprobs)), key=lambda each: -logprobs[each])[: count or 0]
    return TokenLogprob(token, logprobs[token], tuple((each, logprobs[each]) for each in best))
