"""What a gateway operator can set: keys, limits and deadlines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.gateway.keys import KeyLimits
from shards.text.tool_format import TOOL_FORMATS


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Limits of one gateway. Sizes in bytes, times in seconds."""

    api_keys: frozenset[str] = frozenset()
    """Keys accepted as `Authorization: Bearer KEY` on /v1 and /mesh; empty: the gateway is open."""
    key_limits: Mapping[str, KeyLimits] = field(default_factory=dict)
    """Of those keys that are limited."""
    max_concurrent: int = 64
    """Generation requests answered at once; the next one gets 429 with Retry-After, as does one of an account that
    runs as many as are left free."""
    sessions_per_request: int = 16
    """Sessions one request may hold at once; its further choices wait for these."""
    max_choices: int = 128
    """Prompts times `n` of one request."""
    max_chat_tokens: int = 4096
    """Length of a chat answer whose request names no limit (less where the context is fuller)."""
    max_body_bytes: int = 10 * 1024 * 1024
    body_timeout: float = 10.0
    """A request body must have arrived by then."""
    lookup_timeout: float = 10.0
    """Deadline for asking the swarm which models there are."""
    models_seconds: float = 1.0
    """So long an answer about the models is good for everybody who asks …"""
    models_stale_seconds: float = 30.0
    """… so long it is told where a new one takes its time …"""
    models_patience: float = 0.1
    """… which is longer than this."""
    request_timeout: float = 600.0
    """Deadline for a whole answer."""
    send_timeout: float = 30.0
    """A streaming client that does not take a chunk for so long is treated as gone."""
    quiet_seconds: float = 5.0
    """A stream that has nothing to say for so long (a long prompt, a queue) sends a comment."""
    remembered_requests: int = 1000
    """Requests whose route /mesh/requests can still tell."""
    max_viewers: int = 64
    """Streams of the dashboard's events open at once."""
    cors_origins: tuple[str, ...] = field(default=())
    """Origins whose pages may call the gateway from a browser; none by default."""
    hosts: tuple[str, ...] = field(default=())
    """Names under which clients may address an open gateway, besides IP addresses and localhost."""

    tool_parser: str | None = None
    """How the models write tool calls (`shards.text.tool_format`), where their templates do not show it."""
    generation_defaults: bool = True
    """Where a request leaves temperature, top_p, top_k or repetition_penalty out, take what the model's
    generation_config.json says; else OpenAI's defaults."""
    access_log: bool = False
    """Log one line for each request: method, path, status, seconds, model, request id. Never bodies or keys."""

    def __post_init__(self) -> None:
        counts = (self.max_concurrent, self.sessions_per_request, self.max_choices, self.max_chat_tokens)
        times = (self.body_timeout, self.lookup_timeout, self.request_timeout, self.send_timeout, self.quiet_seconds)
        looks = (self.models_seconds, self.models_stale_seconds, self.models_patience)
        if (
            min(*counts, self.max_body_bytes, self.remembered_requests, self.max_viewers) < 1
            or min(*times, *looks) <= 0
        ):
            raise ValueError("every limit and deadline of a gateway must be positive")
        if self.tool_parser is not None and self.tool_parser not in TOOL_FORMATS:
            raise ValueError(f"tool_parser must be one of {', '.join(TOOL_FORMATS)}")
        if any(not key for key in self.api_keys):
            raise ValueError("an API key must not be empty")
