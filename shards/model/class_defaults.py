"""What transformers' config classes take for granted of a model's shape, where config.json does not say it (pure).

Generated from the classes, by which `tests/shards/test_spec.py` checks it: importing transformers takes seconds, and
whoever reads a config.json would have to wait for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Dimension:
    """The names of one number, first the one that counts, and what it is where there is none; None: it must be said."""

    names: tuple[str, ...]
    default: int | None


@dataclass(frozen=True, slots=True)
class Shape:
    """How a model_type's class reads blocks, hidden size, vocabulary and context."""

    blocks: Dimension
    hidden: Dimension
    vocab: Dimension
    context: Dimension


_CONTEXTS: Final = ("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length")
_ENDLESS: Final = 2048
"""For models that say nothing of a context, such as those with ALiBi."""


def _shape(
    n_blocks: int | None,
    hidden_size: int | None,
    vocab_size: int | None,
    context_length: int | None,
    *,
    blocks: tuple[str, ...] = ("num_hidden_layers",),
    hidden: tuple[str, ...] = ("hidden_size",),
    vocab: tuple[str, ...] = ("vocab_size",),
    context: tuple[str, ...] = ("max_position_embeddings",),
) -> Shape:
    endless = Dimension(_CONTEXTS, _ENDLESS)
    return Shape(
        Dimension(blocks, n_blocks),
        Dimension(hidden, hidden_size),
        Dimension(vocab, vocab_size),
        endless if context_length is None else Dimension(context, context_length),
    )


GUESSED: Final = _shape(
    None,
    None,
    None,
    None,
    blocks=("num_hidden_layers", "n_layer", "num_layers"),
    hidden=("hidden_size", "n_embd", "d_model"),
)
"""For a model_type that is not known."""

SHAPES: Final[Mapping[str, Shape]] = {
    "afmoe": _shape(32, 2048, 200_192, 16_384),
    "apertus": _shape(32, 4096, 131_072, 65_536),
    "arcee": _shape(32, 2560, 32_000, 4096),
    "aria_text": _shape(32, 4096, 32_000, 2048),
    "axk1": _shape(61, 7168, 163_840, 32_768),
    "axk2": _shape(48, 2048, 163_840, 131_072),
    "bailing_hybrid": _shape(42, 2560, 157_184, 262_144),
    "bamba": _shape(32, 4096, 128_000, 262_144),
    "bart": _shape(12, 1024, 50_265, 1024, hidden=("hidden_size", "d_model")),
    "beam": _shape(52, 5120, 151_936, 8192),
    "bert": _shape(12, 768, 30_522, 512),
    "bert-generation": _shape(24, 1024, 50_358, 512),
    "big_bird": _shape(12, 768, 50_358, 4096),
    "bigbird_pegasus": _shape(16, 1024, 96_103, 4096, hidden=("hidden_size", "d_model")),
    "biogpt": _shape(24, 1024, 42_384, 1024),
    "bitnet": _shape(30, 2560, 128_256, 2048),
    "blenderbot": _shape(2, 2560, 8008, 128, hidden=("hidden_size", "d_model")),
    "blenderbot-small": _shape(8, 512, 50_265, 512, hidden=("hidden_size", "d_model")),
    "bloom": _shape(2, 64, 250_880, None, blocks=("num_hidden_layers", "n_layer"), hidden=("n_embed", "hidden_size")),
    "camembert": _shape(12, 768, 30_522, 512),
    "codegen": _shape(
        28,
        4096,
        50_400,
        2048,
        blocks=("num_hidden_layers", "n_layer"),
        hidden=("hidden_size", "n_embd"),
        context=("max_position_embeddings", "n_positions"),
    ),
    "cohere": _shape(40, 8192, 256_000, 8192),
    "cohere2": _shape(40, 8192, 256_000, 8192),
    "cohere2_moe": _shape(40, 8192, 256_000, 8192),
    "cohere_compass_text": _shape(40, 8192, 256_000, 8192),
    "cpmant": _shape(48, 4096, 30_720, None),
    "ctrl": _shape(
        48,
        1280,
        246_534,
        256,
        blocks=("num_hidden_layers", "n_layer"),
        hidden=("hidden_size", "n_embd"),
        context=("max_position_embeddings", "n_positions"),
    ),
    "cwm": _shape(64, 6144, 128_256, 131_072),
    "data2vec-text": _shape(12, 768, 30_522, 512),
    "dbrx": _shape(
        24,
        2048,
        32_000,
        2048,
        blocks=("num_hidden_layers", "n_layers"),
        hidden=("hidden_size", "d_model"),
        context=("max_position_embeddings", "max_seq_len"),
    ),
    "deepseek_v2": _shape(32, 4096, 102_400, 2048),
    "deepseek_v3": _shape(61, 7168, 129_280, 4096),
    "deepseek_v32": _shape(61, 7168, 129_280, 163_840),
    "deepseek_v4": _shape(43, 4096, 129_280, 1_048_576),
    "diffllama": _shape(16, 2048, 32_000, 2048),
    "doge": _shape(32, 1024, 32_768, 2048),
    "dots1": _shape(62, 4608, 152_064, 2048),
    "dots3_note_text": _shape(46, 5120, 152_064, 524_288),
    "electra": _shape(12, 256, 30_522, 512),
    "ernie": _shape(12, 768, 30_522, 512),
    "ernie4_5": _shape(18, 1024, 103_424, 131_072),
    "ernie4_5_moe": _shape(28, 2560, 103_424, 131_072),
    "exaone4": _shape(32, 4096, 102_400, 2048),
    "exaone_moe": _shape(32, 4096, 102_400, 2048),
    "falcon": _shape(32, 4544, 65_024, 2048, hidden=("n_embed", "hidden_size")),
    "falcon_h1": _shape(32, 4096, 128_000, 8192),
    "falcon_mamba": _shape(32, 768, 50_280, None),
    "flex_olmo": _shape(32, 4096, 100_352, 4096),
    "flint": _shape(49, 2048, 150_144, 262_144),
    "gemma": _shape(28, 3072, 256_000, 8192),
    "gemma2": _shape(26, 2304, 256_000, 8192),
    "gemma3_text": _shape(26, 2304, 262_208, 131_072),
    "gemma3n_text": _shape(35, 2048, 262_400, 32_768),
    "gemma4_text": _shape(30, 2304, 262_144, 131_072),
    "gemma4_unified_text": _shape(30, 2304, 262_144, 262_144),
    "git": _shape(6, 768, 30_522, 1024),
    "glm": _shape(40, 4096, 151_552, 131_072),
    "glm4": _shape(40, 4096, 151_552, 131_072),
    "glm4_moe": _shape(46, 4096, 151_552, 131_072),
    "glm4_moe_lite": _shape(47, 2048, 154_880, 202_752),
    "glm_moe_dsa": _shape(78, 6144, 154_880, 202_752),
    "gpt-sw3": _shape(
        12,
        768,
        50_257,
        1024,
        blocks=("num_hidden_layers", "n_layer"),
        hidden=("hidden_size", "n_embd"),
        context=("max_position_embeddings", "n_positions"),
    ),
    "gpt2": _shape(
        12,
        768,
        50_257,
        1024,
        blocks=("num_hidden_layers", "n_layer"),
        hidden=("hidden_size", "n_embd"),
        context=("max_position_embeddings", "n_positions"),
    ),
    "gpt_bigcode": _shape(
        12,
        768,
        50_257,
        1024,
        blocks=("num_hidden_layers", "n_layer"),
        hidden=("hidden_size", "n_embd"),
        context=("max_position_embeddings", "n_positions"),
    ),
    "gpt_neo": _shape(24, 2048, 50_257, 2048, blocks=("num_hidden_layers", "num_layers")),
    "gpt_neox": _shape(44, 6144, 50_432, 2048),
    "gpt_neox_japanese": _shape(32, 2560, 32_000, 2048),
    "gpt_oss": _shape(36, 2880, 201_088, 131_072),
    "gptj": _shape(
        28,
        4096,
        50_400,
        2048,
        blocks=("num_hidden_layers", "n_layer"),
        hidden=("hidden_size", "n_embd"),
        context=("max_position_embeddings", "n_positions"),
    ),
    "granite": _shape(32, 4096, 32_000, 2048),
    "granite_swa": _shape(24, 2560, 100_352, 8192),
    "granitemoe": _shape(32, 4096, 32_000, 2048),
    "granitemoe_swa": _shape(32, 4096, 32_000, 2048),
    "granitemoehybrid": _shape(32, 4096, 32_000, 2048),
    "granitemoeshared": _shape(32, 4096, 32_000, 2048),
    "helium": _shape(24, 2560, 48_000, 4096),
    "hunyuan_v1_dense": _shape(32, 4096, 290_943, 2048),
    "hunyuan_v1_moe": _shape(32, 4096, 290_943, 2048),
    "hy_v3": _shape(80, 4096, 120_832, 131_072),
    "hy_v4": _shape(34, 2816, 120_832, 262_144),
    "hyperclovax": _shape(32, 4096, 32_000, 2048),
    "inkling2_text": _shape(48, 4608, 201_024, 1_048_576),
    "inkling_text": _shape(66, 6144, 201_024, 131_072),
    "internlm3": _shape(48, 4096, 128_512, 32_768),
    "iquestcoder": _shape(80, 5120, 76_800, 131_072),
    "jais2": _shape(32, 3328, 150_272, 8192),
    "jamba": _shape(32, 4096, 65_536, 262_144),
    "jetmoe": _shape(12, 2048, 32_000, 4096),
    "kimi_linear": _shape(27, 2304, 163_840, 1_048_576),
    "kolibri1": _shape(50, 2560, 128_000, 262_144),
    "laguna": _shape(40, 2048, 100_352, 131_072),
    "lfm2": _shape(32, 2560, 65_536, 128_000),
    "lfm2_moe": _shape(32, 2048, 65_536, 128_000),
    "lfm3": _shape(24, 2048, 128_000, 128_000),
    "llama": _shape(32, 4096, 32_000, 2048),
    "llama4_text": _shape(48, 5120, 202_048, 131_072),
    "longcat_flash": _shape(56, 6144, 131_072, 131_072),
    "mamba": _shape(32, 768, 50_280, None),
    "mamba2": _shape(64, 4096, 32_768, None),
    "marian": _shape(12, 1024, 58_101, 1024, hidden=("hidden_size", "d_model")),
    "mbart": _shape(12, 1024, 50_265, 1024, hidden=("hidden_size", "d_model")),
    "megatron-bert": _shape(24, 1024, 29_056, 512),
    "mellum": _shape(28, 2304, 98_304, 131_072),
    "mimo_v2_flash": _shape(48, 4096, 152_576, 131_072),
    "minicpm3": _shape(62, 2560, 73_448, 32_768),
    "minimax": _shape(32, 4096, 32_000, 131_072),
    "minimax_m2": _shape(62, 3072, 200_064, 196_608),
    "minimax_m3_vl_text": _shape(60, 6144, 200_064, 524_288),
    "ministral": _shape(32, 4096, 32_000, 131_072),
    "ministral3": _shape(34, 4096, 131_072, 262_144),
    "mistral": _shape(32, 4096, 32_000, 131_072),
    "mixtral": _shape(32, 4096, 32_000, 131_072),
    "modernbert-decoder": _shape(22, 768, 50_368, 8192),
    "moshi": _shape(32, 4096, 32_000, 3000),
    "mpt": _shape(
        24,
        2048,
        50_368,
        2048,
        blocks=("num_hidden_layers", "n_layers"),
        hidden=("hidden_size", "d_model"),
        context=("max_seq_len",),
    ),
    "mvp": _shape(12, 1024, 50_267, 1024, hidden=("hidden_size", "d_model")),
    "nanochat": _shape(12, 768, 50_304, 2048),
    "nemotron": _shape(32, 6144, 256_000, 4096),
    "olmo": _shape(32, 4096, 50_304, 2048),
    "olmo2": _shape(32, 4096, 50_304, 2048),
    "olmo3": _shape(32, 4096, 50_304, 2048),
    "olmo_hybrid": _shape(32, 3840, 100_352, 65_536),
    "olmoe": _shape(16, 2048, 50_304, 4096),
    "openai-gpt": _shape(
        12,
        768,
        40_478,
        512,
        blocks=("num_hidden_layers", "n_layer"),
        hidden=("hidden_size", "n_embd"),
        context=("max_position_embeddings", "n_positions"),
    ),
    "opt": _shape(12, 768, 50_272, 2048),
    "pegasus": _shape(12, 1024, 50_265, 1024, hidden=("hidden_size", "d_model")),
    "persimmon": _shape(36, 4096, 262_144, 16_384),
    "phi": _shape(24, 2048, 51_200, 2048),
    "phi3": _shape(32, 3072, 32_064, 4096),
    "phi4_multimodal": _shape(32, 3072, 200_064, 131_072),
    "phimoe": _shape(32, 4096, 32_064, 131_072),
    "plbart": _shape(6, 768, 50_005, 1024, hidden=("hidden_size", "d_model")),
    "prophetnet": _shape(12, 1024, 30_522, 512),
    "qwen2": _shape(32, 4096, 151_936, 32_768),
    "qwen2_moe": _shape(24, 2048, 151_936, 32_768),
    "qwen3": _shape(32, 4096, 151_936, 32_768),
    "qwen3_5_moe_text": _shape(40, 2048, 248_320, 32_768),
    "qwen3_5_text": _shape(32, 4096, 248_320, 32_768),
    "qwen3_moe": _shape(24, 2048, 151_936, 32_768),
    "qwen3_next": _shape(48, 2048, 151_936, 32_768),
    "qwen4_exp_text": _shape(40, 2048, 248_320, 32_768),
    "recurrent_gemma": _shape(26, 2560, 256_000, None),
    "reformer": _shape(6, 256, 320, 4096),
    "rembert": _shape(32, 1152, 250_300, 512),
    "roberta": _shape(12, 768, 50_265, 512),
    "roberta-prelayernorm": _shape(12, 768, 50_265, 512),
    "roc_bert": _shape(12, 768, 30_522, 512),
    "roformer": _shape(12, 768, 50_000, 1536),
    "rwkv": _shape(32, 4096, 50_277, 1024),
    "seed_oss": _shape(64, 4096, 155_136, 524_288),
    "smollm3": _shape(36, 2048, 128_256, 32_768),
    "solar_open": _shape(48, 4096, 196_608, 131_072),
    "stablelm": _shape(32, 2560, 50_304, 4096),
    "starcoder2": _shape(30, 3072, 49_152, 4096),
    "trocr": _shape(12, 1024, 50_265, 512, hidden=("hidden_size", "d_model")),
    "vaultgemma": _shape(26, 2304, 256_000, 8192),
    "whisper": _shape(4, 384, 51_865, None, hidden=("hidden_size", "d_model")),
    "xglm": _shape(
        24, 1024, 256_008, 2048, blocks=("num_hidden_layers", "num_layers"), hidden=("hidden_size", "d_model")
    ),
    "xlm": _shape(12, 2048, 30_145, 512, blocks=("num_hidden_layers", "n_layers")),
    "xlm-roberta": _shape(12, 768, 30_522, 512),
    "xlm-roberta-xl": _shape(36, 2560, 250_880, 514),
    "xlnet": _shape(24, 1024, 32_000, -1, blocks=("num_hidden_layers", "n_layer"), hidden=("hidden_size", "d_model")),
    "xlstm": _shape(32, 4096, 50_304, None),
    "xmod": _shape(12, 768, 30_522, 512),
    "youtu": _shape(32, 2048, 128_256, 131_072),
    "zamba": _shape(76, 3712, 32_000, 4096),
    "zamba2": _shape(54, 2560, 32_000, 4096),
    "zaya": _shape(40, 2048, 262_272, 131_072),
}
"""By model_type, of every decoder that transformers has."""

_COMPOSITES: Final[Mapping[str, str]] = {
    "aria_text": "aria",
    "bart": "florence2",
    "bert": "grounding-dino mm-grounding-dino vision-text-dual-encoder",
    "cohere2": "aya_vision cohere2_vision",
    "cohere_compass_text": "cohere_compass",
    "deepseek_v3": "kimi_k25",
    "dots3_note_text": "dots3_note",
    "exaone4": "exaone4_5",
    "gemma": "paligemma",
    "gemma3_text": "gemma3 shieldgemma2",
    "gemma3n_text": "gemma3n",
    "gemma4_text": "gemma4 gemma4_assistant",
    "gemma4_unified_text": "gemma4_unified gemma4_unified_assistant",
    "granite": "granite_speech granite_speech_plus",
    "hyperclovax": "hyperclovax_vision_v2",
    "inkling2_text": "inkling2",
    "inkling_text": "inkling_mm_model",
    "lfm2": "lfm2_vl",
    "lfm3": "lfm3_vl",
    "llama": (
        "deepseek_vl deepseek_vl_hybrid glmasr idefics3 janus llava llava_next llava_next_video "
        "perception_lm smolvlm video_llava vipllava voxtral"
    ),
    "llama4_text": "llama4",
    "minimax_m3_vl_text": "minimax_m3_vl",
    "mistral": "idefics2 mistral3",
    "opt": "blip-2 instructblip instructblipvideo",
    "persimmon": "fuyu",
    "qwen2": (
        "audioflamingo3 fast_vlm got_ocr2 internvl llava_onevision musicflamingo ovis2 "
        "pp_chart2table qwen2_audio vibevoice vibevoice_asr video_llama_3"
    ),
    "qwen3": "fun_asr_nano lighton_ocr moss_transcribe_diarize qianfan_ocr qwen3_asr",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "qwen3_5_text": "jev minicpm_ocr minicpmv4_6 minicpmv4_7 qwen3_5",
    "qwen4_exp_text": "qwen4_exp",
}
TEXT_PARTS: Final[Mapping[str, str]] = {kind: text for text, kinds in _COMPOSITES.items() for kind in kinds.split()}
"""The model_type of the text part of models that also see or hear, where their `text_config` does not say it."""
