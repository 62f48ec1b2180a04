"""The model that a simulated swarm serves: one that is all check (see `HashModel`), and its small files."""

from __future__ import annotations

import json
from functools import lru_cache

import tokenizers

from mesh.provider.model_files import ModelFiles
from shards.checkpoint.manifest import MANIFEST_NAME, Manifest, digest_of, model_digest
from shards.model.spec import parse_config
from tests.shards.hash_model import CONTEXT, EOS, HIDDEN, VOCAB, HashModel, reference

__all__ = ["EOS", "NAME", "VOCAB", "HashModel", "model_files", "reference"]

NAME = "hash"


@lru_cache(64)
def model_files(n_blocks: int) -> ModelFiles:
    """The small files of the model, as its providers hand them out."""
    config = {
        "model_type": "llama",
        "num_hidden_layers": n_blocks,
        "hidden_size": HIDDEN,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "eos_token_id": EOS,
        "dtype": "float32",
    }
    words = {f"<{number}>": number for number in range(VOCAB)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<0>"))
    contents = {"config.json": json.dumps(config).encode(), "tokenizer.json": inner.to_str().encode()}
    contents[MANIFEST_NAME] = Manifest({name: digest_of(data) for name, data in contents.items()}).to_bytes()
    digest = model_digest(NAME, digest_of(contents[MANIFEST_NAME]).sha256)
    return ModelFiles(NAME, parse_config(contents["config.json"]), digest, contents)
