"""`POST /v1/completions`: from the request to a job, and the shape of its answers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from mesh.client.types import GenerateRequest, ModelInfo, TextDelta
from mesh.errors import InvalidRequest
from mesh.gateway import sampling, sse, structured
from mesh.gateway.fields import check_unserved
from mesh.gateway.job import Answer, Job, fingerprint, new_id
from mesh.gateway.logprobs import Offsets, completion_logprobs, join
from mesh.gateway.schemas import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
    Failure,
    FinishReason,
    Usage,
)
from shards.engine.sampling_params import SEED_BITS
from shards.text.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its ids, and its text as `echo` gives it back."""

    tokens: tuple[int, ...]
    text: str


def prepare(request: CompletionRequest, info: ModelInfo, tokenizer: Tokenizer, *, max_choices: int) -> Job:
    """The request as a job. Encodes text, so it may take long. Raises `InvalidRequest` and its kin."""
    check(request)
    prompts = read_prompts(request, info, tokenizer, max_choices)
    n = sampling.choices(request.n, len(prompts), max_choices)
    echo = bool(request.echo)
    asked = request.max_completion_tokens if request.max_tokens is None else request.max_tokens
    if request.max_completion_tokens not in (None, asked):
        raise InvalidRequest("max_completion_tokens differs from max_tokens", param="max_completion_tokens")
    asked = sampling.named_length(asked)
    unlimited = sampling.named_length(request.max_tokens) is None and request.max_tokens is not None
    score_only = echo and asked == 0
    logprobs = sampling.top_logprobs(request.logprobs, "logprobs")
    stop = sampling.stop_strings(request.stop)
    resumed = sampling.resumed(request, n * len(prompts))
    if resumed and echo:
        raise InvalidRequest("an answer that is resumed has no echo", param="resume_token_ids")
    constraint = structured.read_constraint(request.model_extra, None)
    sessions = []
    for prompt in prompts:
        length = sampling.answer_length(
            1 if score_only else asked,
            info.context_length if unlimited else DEFAULT_MAX_TOKENS,
            len(prompt.tokens),
            info.context_length,
            "max_tokens",
        )
        # Two prompts without a seed must not share one; with a seed each prompt answers as it would alone.
        seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
        for choice in range(n):
            sessions.append(
                GenerateRequest(
                    model=info.name,
                    prompt=prompt.tokens,
                    max_tokens=length,
                    sampling=sampling.sampling_params(request, info, seed=seed + choice, logprobs=logprobs),
                    stop=() if score_only else stop,
                    ignore_eos=bool(request.ignore_eos),
                    constraint=constraint,
                    shrinks=asked is None,
                    prompt_logprobs=echo and logprobs is not None,
                    resumed=resumed,
                )
            )
    writer = CompletionWriter(
        id=new_id("cmpl"),
        created=int(time.time()),
        model=info,
        tokenizer=tokenizer,
        prompts=tuple(prompt for prompt in prompts for _ in range(n)),
        echo=echo,
        logprobs=logprobs is not None,
        discard_output=score_only,
        token_ids=bool(request.return_token_ids),
        resumed=resumed,
    )
    return Job(
        id=writer.id,
        created=writer.created,
        model=info,
        sessions=tuple(sessions),
        writer=writer,
        prompt_tokens=sum(len(prompt.tokens) for prompt in prompts) + len(resumed),
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        discard_output=score_only,
    )


def check(request: CompletionRequest) -> None:
    """Raise `InvalidRequest` for what we do not offer."""
    check_unserved(request.model_extra, structured.FIELDS)
    if request.suffix:
        raise InvalidRequest("suffix is not supported", param="suffix")
    if request.best_of is not None and request.best_of != (1 if request.n is None else request.n):
        raise InvalidRequest("best_of is supported only when it equals n", param="best_of")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options needs stream to be true", param="stream_options")


def read_prompts(request: CompletionRequest, info: ModelInfo, tokenizer: Tokenizer, max_choices: int) -> list[Prompt]:
    """The request's prompts, encoded where they are text. Raises `InvalidRequest`."""
    given = request.prompt
    prompts: list[str | list[int]]
    if isinstance(given, str):
        prompts = [given]
    elif given and isinstance(given[0], int):
        prompts = [[token for token in given if isinstance(token, int)]]
    else:
        prompts = [prompt for prompt in given if not isinstance(prompt, int)]
    # Before anything is encoded: a body can hold a million short prompts.
    sampling.choices(request.n, len(prompts), max_choices)
    if not prompts:
        raise InvalidRequest("prompt must not be empty", param="prompt")
    special = request.add_special_tokens is not False
    return [read_prompt(prompt, info, tokenizer, add_special_tokens=special) for prompt in prompts]


def read_prompt(
    prompt: str | list[int], info: ModelInfo, tokenizer: Tokenizer, *, add_special_tokens: bool = True
) -> Prompt:
    """One prompt. Raises `InvalidRequest` when it has no tokens or names one that the model lacks."""
    if isinstance(prompt, str):
        tokens, text = tokenizer.encode(prompt, add_special_tokens=add_special_tokens), prompt
    else:
        if prompt and not 0 <= min(prompt) <= max(prompt) < info.vocab_size:
            raise InvalidRequest(
                f"prompt has a token id outside of this model's 0 to {info.vocab_size - 1}", param="prompt"
            )
        # Checked before decoding, which is not free for a million tokens.
        sampling.answer_length(None, 1, len(prompt), info.context_length, "max_tokens")
        tokens, text = prompt, tokenizer.decode(prompt)
    if not tokens:
        raise InvalidRequest("prompt must not be empty", param="prompt")
    return Prompt(tuple(tokens), text)


class CompletionWriter:
    """Writes `/v1/completions` answers; whole answers and chunks have the same shape."""

    def __init__(
        self,
        *,
        id: str,
        created: int,
        model: ModelInfo,
        tokenizer: Tokenizer,
        prompts: tuple[Prompt, ...],
        echo: bool,
        logprobs: bool,
        discard_output: bool,
        token_ids: bool,
        resumed: tuple[int, ...],
    ) -> None:
        self.framing = sse.CHUNKS
        self.id = id
        self.created = created
        self._model = model
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._echo = echo
        self._logprobs = logprobs
        self._discard = discard_output
        # The prompt's log-probabilities are known at the end only, and come first in the answer.
        self._at_once = echo and logprobs
        self._offsets = [Offsets(tokenizer) for _ in prompts] if logprobs and not echo else []
        for offsets in self._offsets:
            offsets.of(resumed)
        self._token_ids = token_ids
        self._resumed = resumed

    def opening(self, index: int) -> list[BaseModel]:
        if not self._echo or self._at_once:
            return []
        return [self._chunk(index, self._prompts[index].text)]

    def piece(self, index: int, delta: TextDelta) -> list[BaseModel]:
        if self._at_once or self._discard:
            return []
        table = None
        if self._logprobs and delta.logprobs:
            table = completion_logprobs(delta.logprobs, self._tokenizer, self._offsets[index])
        if not (delta.text or table or (self._token_ids and delta.tokens)):
            return []
        return [self._chunk(index, delta.text, table, delta.tokens)]

    def closing(self, index: int, answer: Answer) -> list[BaseModel]:
        choice = self._choice(index, answer)
        if not self._at_once:
            choice = CompletionChoice(index=index, text="", logprobs=None, finish_reason=choice.finish_reason)
        return [self._response([choice])]

    def usage(self, usage: Usage) -> list[BaseModel]:
        return [self._response([], usage)]

    def whole(self, answers: Sequence[Answer], usage: Usage, failure: Failure | None = None) -> BaseModel:
        response = self._response([self._choice(index, answer) for index, answer in enumerate(answers)], usage)
        if failure is not None:
            failure.mark(response)
        return response

    def _choice(self, index: int, answer: Answer) -> CompletionChoice:
        prompt = self._prompts[index]
        text = "" if self._discard else answer.text
        choice = CompletionChoice(
            index=index,
            text=prompt.text + text if self._echo else text,
            logprobs=self._table(prompt, answer) if self._logprobs else None,
            finish_reason=_finish_reason(answer, self._discard),
        )
        if self._token_ids:
            choice.token_ids = list(answer.tokens)
        return choice

    def _table(self, prompt: Prompt, answer: Answer) -> CompletionLogprobs:
        tables = []
        start = 0
        if self._echo and answer.completion:
            start = len(prompt.text)
            entries = answer.completion.prompt_logprobs
            tables.append(completion_logprobs(entries, self._tokenizer, Offsets(self._tokenizer)))
        if not self._discard:
            offsets = Offsets(self._tokenizer, start)
            offsets.of(self._resumed)
            tables.append(completion_logprobs(answer.logprobs, self._tokenizer, offsets))
        return join(tables)

    def _chunk(
        self, index: int, text: str, table: CompletionLogprobs | None = None, tokens: Sequence[int] = ()
    ) -> CompletionResponse:
        choice = CompletionChoice(index=index, text=text, logprobs=table, finish_reason=None)
        if self._token_ids:
            choice.token_ids = list(tokens)
        return self._response([choice])

    def _response(self, choices: list[CompletionChoice], usage: Usage | None = None) -> CompletionResponse:
        response = CompletionResponse(
            id=self.id,
            object="text_completion",
            created=self.created,
            model=self._model.name,
            system_fingerprint=fingerprint(self._model),
            choices=choices,
        )
        if usage is not None:
            response.usage = usage
        return response


def _finish_reason(answer: Answer, discard_output: bool) -> FinishReason:
    if answer.completion is None:
        return "error"
    return "length" if discard_output else answer.completion.finish_reason
