"""Small random checkpoints of every lean family, written with transformers, for tests of any level.

Run as a program it writes one: `python tests/shards/models.py FOLDER llama --shard-size 100KB`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 300
MIXTURES = ("mixtral", "qwen3-moe", "gpt-oss")
FAMILIES = (
    "llama", "llama-tied", "llama3", "llama-linear", "llama-biased", "mistral", "qwen2", "qwen3",
    "gemma2", "gemma3", "phi3", "phi3-long", *MIXTURES,
)  # fmt: skip
BOS, EOS = 0, 1
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_GEMMA: dict[str, Any] = {"head_dim": 12, "query_pre_attn_scalar": 17, "sliding_window": 24}
_CORPUS = (
    "the provider serves blocks of the model and the gateway pays for every token",
    "a span is half-open, a route covers every block once, a session holds its cache",
    "def add(left, right):\n    return left + right\n",
)


def make_checkpoint(
    folder: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    hidden_size: int = 48,
    n_heads: int = 6,
    n_kv_heads: int = 2,
    n_blocks: int = 5,
    intermediate_size: int = 80,
    context_length: int = 512,
    max_shard_size: str = "10GB",
    dtype: torch.dtype = torch.float32,
    fused: bool = False,
    **overrides: Any,
) -> Path:
    """Write a random checkpoint of one of `FAMILIES` with a tokenizer; returns `folder`.

    The weights are scaled so that greedy output wanders over the vocabulary. `max_shard_size` such as
    "60KB" makes several safetensors files and an index. `fused` writes all experts of a layer in one tensor, as
    transformers keeps them, rather than as the families' own files have them. `overrides` go to the config class.
    The same arguments give the same weights.
    """
    config = _config(
        family,
        {
            "hidden_size": hidden_size,
            "num_attention_heads": n_heads,
            "num_key_value_heads": n_kv_heads,
            "num_hidden_layers": n_blocks,
            "intermediate_size": intermediate_size,
            "max_position_embeddings": context_length,
            "vocab_size": VOCAB_SIZE,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            **overrides,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=_attention(config))
        _scatter(model)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size, save_original_format=not fused)
    write_tokenizer(folder)
    return folder


def reference(folder: Path) -> transformers.PreTrainedModel:
    """The checkpoint as transformers runs it, in float32."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=_attention(config)
    )
    return model.eval()


def _attention(config: transformers.PretrainedConfig) -> str:
    return "eager" if config.model_type in ("gpt_oss", "gemma2") else "sdpa"  # torch's has no sinks and no caps


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer of `VOCAB_SIZE` entries and a chat template; every id decodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} entries, not {VOCAB_SIZE}")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def _config(family: str, shape: dict[str, Any]) -> transformers.PretrainedConfig:
    match family:
        case "llama":
            return transformers.LlamaConfig(**shape)
        case "llama-tied":
            return transformers.LlamaConfig(tie_word_embeddings=True, **shape)
        case "llama3":
            scaling = {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
            return transformers.LlamaConfig(rope_parameters=scaling, **shape)
        case "llama-linear":
            scaling = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
            return transformers.LlamaConfig(rope_parameters=scaling, **shape)
        case "llama-biased":
            return transformers.LlamaConfig(attention_bias=True, mlp_bias=True, **shape)
        case "mistral":
            return transformers.MistralConfig(**{"sliding_window": 24, **shape})
        case "qwen2":
            return transformers.Qwen2Config(**shape)
        case "qwen3":
            return transformers.Qwen3Config(**{"head_dim": 20, **shape})
        case "gemma2":
            return transformers.Gemma2Config(
                **{**_GEMMA, "attn_logit_softcapping": 8.0, "final_logit_softcapping": 3.0, **shape}
            )
        case "gemma3":
            ropes = {
                "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            }
            return transformers.Gemma3TextConfig(
                **{**_GEMMA, "sliding_window_pattern": 3, "rope_parameters": ropes, **shape}
            )
        case "phi3":
            return transformers.Phi3Config(**{"sliding_window": 24, "pad_token_id": None, **shape})
        case "phi3-long":
            frequencies = shape["hidden_size"] // shape["num_attention_heads"] * 3 // 8
            scaling = {
                "rope_type": "longrope",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0 + 0.3 * i for i in range(frequencies)],
                "long_factor": [1.0 + 2.0 * i for i in range(frequencies)],
            }
            return transformers.Phi3Config(
                **{"rope_parameters": scaling, "original_max_position_embeddings": 200, "pad_token_id": None, **shape}
            )
        case "mixtral":
            own = {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 24}
            return transformers.MixtralConfig(**{**own, **shape})
        case "qwen3-moe":
            own = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "mlp_only_layers": [1]}
            return transformers.Qwen3MoeConfig(**{"head_dim": 20, "norm_topk_prob": True, **own, **shape})
        case "gpt-oss":
            own = {"num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 16, "sliding_window": 24}
            return transformers.GptOssConfig(**{**own, **shape})
        case _:
            raise ValueError(f"no family {family!r}: one of {', '.join(FAMILIES)}")


@torch.no_grad()
def _scatter(model: transformers.PreTrainedModel) -> None:
    """Weights large enough that blocks, norms and biases all change what is said."""
    # What is looked up is multiplied with this, and would say itself again and again.
    scale = model.config.hidden_size**0.5 if model.config.model_type.startswith("gemma") else 1.0
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.3)
        elif parameter.ndim >= 2:
            embedding = "embed" in name or "lm_head" in name
            turned = parameter.ndim == 3 and model.config.model_type == "gpt_oss"
            parameter.normal_(std=0.7 if embedding else 1.6 / parameter.shape[1 if turned else -1] ** 0.5)
            if turned:
                parameter.mul_(0.7)  # one is added to `up`: values, and how they magnify rounding, grow with it
            if "embed" in name:
                parameter /= scale
        else:
            parameter.uniform_(0.6, 1.4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("family", nargs="?", default="llama", choices=FAMILIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-size", default="10GB")
    arguments = parser.parse_args()
    make_checkpoint(arguments.folder, arguments.family, seed=arguments.seed, max_shard_size=arguments.shard_size)
