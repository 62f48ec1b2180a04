"""What can go wrong with a model, as one tree.

ShardError
├── CheckpointError      a file is missing, truncated, corrupt or does not match its manifest
├── UnsupportedModel     the architecture or an option of it cannot be served
├── TokenizerError       the tokenizer is missing, corrupt or not this model's
│   ├── TokenizerLimit   it, or the chat template, took more time or memory than it may
│   ├── TextTooLong      the text is longer than any model's context
│   └── NotText          it is not Unicode: no tokenizer takes it
├── SandboxBreach        work in a child process broke its limits
├── SandboxRefusal       work in a child process ended with an error of its own
├── InvalidSampling      a sampling parameter is out of range
│   └── InvalidGrammar   the form that an answer is to have cannot be used, and why
├── BadActivation        hidden states that are non-finite or do not fit the session
└── CapacityExceeded     no room for a session's keys and values
    └── Preempted        its pages were needed for others: it may be fed again
"""

from __future__ import annotations


class ShardError(Exception):
    """Base of everything that `shards` raises on purpose."""


class CheckpointError(ShardError):
    """A checkpoint file is missing, truncated, corrupt or does not match its manifest."""


class UnsupportedModel(ShardError):
    """The architecture, or an option in its config, cannot be served."""


class TokenizerError(ShardError):
    """The tokenizer is missing, corrupt, or not the one the model was trained with."""


class TokenizerLimit(TokenizerError):
    """The model's tokenizer or chat template broke the limits of time or memory; `retry_after` in seconds, or 0."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TextTooLong(TokenizerError):
    """The text is longer than what any model's context holds."""


class NotText(TokenizerError):
    """The text is not Unicode (half a surrogate pair): no tokenizer takes it."""


class SandboxBreach(ShardError):
    """Work in a child process broke its limits; `retry_after` seconds it is set aside, or 0."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SandboxRefusal(ShardError):
    """Work in a child process ended with an error of its own."""


class InvalidSampling(ShardError):
    """A sampling parameter is out of range."""


class InvalidGrammar(InvalidSampling):
    """A schema, expression or grammar that answers cannot be held to: it is wrong, not supported, or takes too much."""


class BadActivation(ShardError):
    """Hidden states that are non-finite or whose shape does not fit the session."""


class CapacityExceeded(ShardError):
    """There is no room for a session's keys and values."""


class Preempted(CapacityExceeded):
    """The session's pages were needed for others: it may be fed again from its first token."""
