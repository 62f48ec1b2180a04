"""What can go wrong with a model, as one tree.

ShardError
├── CheckpointError      a file is missing, truncated, corrupt or does not match its manifest
├── UnsupportedModel     the architecture or an option of it cannot be served
├── TokenizerError       the tokenizer is missing, corrupt or not this model's
├── InvalidSampling      a sampling parameter is out of range
├── BadActivation        hidden states that are non-finite or do not fit the session
└── CapacityExceeded     no room for another session's KV cache
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


class InvalidSampling(ShardError):
    """A sampling parameter is out of range."""


class BadActivation(ShardError):
    """Hidden states that are non-finite or whose shape does not fit the session."""


class CapacityExceeded(ShardError):
    """There is no room for another session's KV cache."""
