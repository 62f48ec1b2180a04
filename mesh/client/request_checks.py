"""What a request must be like for its model, before any provider is asked (pure)."""

from __future__ import annotations

from mesh.client.types import GenerateRequest
from mesh.discovery.records import ProviderRecord
from mesh.errors import ContextLengthExceeded, InvalidRequest
from mesh.wire.messages import MAX_TOKENS


def check_request(request: GenerateRequest, model: ProviderRecord, *, resumed_paid: bool) -> None:
    """Check a request against any record of its model.

    `resumed_paid`: what it resumes was paid for here before, or nothing is paid for. Raises `InvalidRequest`,
    `ContextLengthExceeded`.
    """
    if not request.prompt:
        raise InvalidRequest("the prompt is empty", param="prompt")
    if request.max_tokens < 1:
        raise InvalidRequest(f"max_tokens must be at least 1, got {request.max_tokens}", param="max_tokens")
    if (had := len(request.resumed)) > request.max_tokens:
        raise InvalidRequest(f"the answer resumes from {had} tokens, more than max_tokens", param="resume_token_ids")
    penalised = request.sampling.presence_penalty or request.sampling.frequency_penalty
    if request.resumed and penalised and not resumed_paid:
        why = "an answer with presence or frequency penalties is resumed only with this gateway's resume_ticket"
        raise InvalidRequest(why, param="resume_token_ids")
    if request.resumed and request.prompt_logprobs:
        raise InvalidRequest("a resumed answer scores no prompt", param="resume_token_ids")
    if request.constraint is not None and request.ignore_eos:
        why = f"ignore_eos does not go with {request.constraint.param}: such an answer ends where its form does"
        raise InvalidRequest(why, param="ignore_eos")
    outside = [token for token in (*request.prompt, *request.resumed) if not 0 <= token < model.vocab_size]
    if outside:
        raise InvalidRequest(
            f"token {outside[0]} is outside the vocabulary of {model.vocab_size}: wrong tokenizer?",
            param="prompt",
        )
    biased = [token for token in request.sampling.logit_bias if token >= model.vocab_size]
    if biased:
        raise InvalidRequest(
            f"logit_bias names token {biased[0]}, the vocabulary has {model.vocab_size}", param="logit_bias"
        )
    total = len(request.prompt) + request.max_tokens
    limit = min(model.context_length, MAX_TOKENS)
    if total > limit:
        raise ContextLengthExceeded(
            f"the prompt has {len(request.prompt)} tokens and max_tokens is {request.max_tokens}: together "
            f"{total}, over the model's context of {limit}",
            param="prompt" if len(request.prompt) >= limit else "max_tokens",
        )
