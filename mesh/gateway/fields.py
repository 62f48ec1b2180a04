"""Fields of requests that we do not serve: refused by name, or passed over with a reason; never ignored (pure)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from pydantic import BaseModel

from mesh.errors import InvalidRequest

HARMLESS: Mapping[str, str] = {
    "user": "names the developer's own user; nothing of the answer depends on it",
    "safety_identifier": "the newer name of user",
    "metadata": "is kept with stored answers only, and none is stored",
    "prompt_cache_key": "a hint: what is cached of a prompt answers the same caller anyway, and no other",
    "prompt_cache_retention": "a hint: how long a prompt is cached is never promised",
    "prompt_cache_options": "a hint, as prompt_cache_retention",
    "spaces_between_special_tokens": "vLLM's; decides how special tokens are spaced, and the text has none",
    "chat_id": "Open WebUI's own bookkeeping",
    "session_id": "Open WebUI's own bookkeeping",
    "guided_decoding_backend": "vLLM's; which library holds an answer to its form is for who serves it to say",
}
"""Whatever their value. A value of a field below that asks for what is done anyway is harmless as well."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    # OpenAI's
    "audio": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM's and its kin's
    "add_special_tokens": (),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "beam_search": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "early_stopping": (False,),
    "ebnf": (),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_whitespace_pattern": (),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "json_schema": (),
    "length_penalty": (1, 1.0),
    "logits_processors": ([],),
    "min_tokens": (0,),
    "mirostat": (0,),
    "priority": (0,),
    "prompt_logprobs": (),
    "regex": (),
    "skip_special_tokens": (True,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "truncate_prompt_tokens": (),
    "typical_p": (1, 1.0),
    "use_beam_search": (False,),
}
"""Known fields that are not served, with the values that ask for nothing; null never does."""


def check_unserved(extra: Mapping[str, Any] | None, served: Collection[str] = ()) -> None:
    """Refuse what a request has besides its schema's fields, and those that are `served` where it came. Raises
    `InvalidRequest`, which names the field."""
    for name, value in (extra or {}).items():
        if value is None or name in HARMLESS or name in served:
            continue
        allowed = NEUTRAL.get(name)
        if allowed is None:
            shown = name if len(name) <= 60 else name[:60] + "…"
            raise InvalidRequest(f"Unrecognized request argument supplied: {shown}", param=shown)
        # 0 and False are equal in Python, and not in JSON.
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed):
            raise InvalidRequest(f"{name} is not supported by this gateway{_but(allowed)}.", param=name)


def _but(allowed: tuple[Any, ...]) -> str:
    return "" if not allowed or not allowed[0] else f", except {allowed[0]!r}, which is what it does"


SHARED: Final = (
    "model", "seed", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "stream",
    "repetition_penalty", "logit_bias", "ignore_eos",
)  # fmt: skip
"""Fields that a chat request has under the name that they have in every API."""


def asked_for(request: BaseModel, rest: dict[str, Any], refused: Mapping[str, tuple[Any, ...]]) -> str | None:
    """The first of the `refused` fields that asks for something, by the values of each that ask for nothing. Those that
    do not ask are taken out of `rest`, what the request has besides its schema's fields."""
    for name, allowed in refused.items():
        value = rest.pop(name, None) if name in rest else getattr(request, name, None)
        if value is not None and not any(value == each and type(value) is type(each) for each in allowed):
            return name
    return None
