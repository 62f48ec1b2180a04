"""All forms that a model's files come in, good ones and bad ones, made from a whole folder with shards of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from shards.checkpoint.index import INDEX_NAME, SINGLE_NAME

Tensors = dict[str, torch.Tensor]
Form = Callable[[Path], None]
"""Changes the folder."""
META: Final = {"format": "pt"}


def _tensors(folder: Path) -> Tensors:
    return load_file(folder / SINGLE_NAME)


def _keep(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / SINGLE_NAME, META)


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _shards(folder: Path) -> dict[str, str]:
    """The whole file as two, and the index."""
    tensors = _tensors(folder)
    (folder / SINGLE_NAME).unlink()
    table: dict[str, str] = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        file = f"model-{number + 1:05}-of-00002.safetensors"
        save_file({name: tensors[name].contiguous() for name in names}, folder / file, META)
        table |= dict.fromkeys(names, file)
    _index(folder, table)
    return table


def _index(folder: Path, table: Mapping[str, str]) -> None:
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))


def whole(folder: Path) -> None:
    """As it is."""


def shards(folder: Path) -> None:
    _shards(folder)


def stale_index(folder: Path) -> None:
    _index(folder, {"model.embed_tokens.weight": "model-00001-of-00009.safetensors"})


def shard_missing(folder: Path) -> None:
    _shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def shards_beside_whole(folder: Path) -> None:
    """Other weights in the shards: the whole file counts."""
    tensors = _tensors(folder)
    _shards(folder)
    _keep(folder, tensors)
    for path in folder.glob("model-*.safetensors"):
        save_file({name: each * 2 for name, each in load_file(path).items()}, path, META)


def index_lacks_a_tensor(folder: Path) -> None:
    table = _shards(folder)
    del table[next(name for name in sorted(table) if ".1." in name and name.endswith(".weight"))]
    _index(folder, table)


def index_names_the_wrong_file(folder: Path) -> None:
    table = _shards(folder)
    first = min(table)
    table[first] = next(file for file in table.values() if file != table[first])
    _index(folder, table)


def without_prefix(folder: Path) -> None:
    _keep(folder, {name.removeprefix("model.").removeprefix("transformer."): t for name, t in _tensors(folder).items()})


def with_prefix_twice(folder: Path) -> None:
    _keep(folder, {f"model.{name}": tensor for name, tensor in _tensors(folder).items()})


def block_missing(folder: Path) -> None:
    _keep(folder, {name: tensor for name, tensor in _tensors(folder).items() if ".1." not in name})


def block_too_many(folder: Path) -> None:
    tensors = _tensors(folder)
    more = {name.replace(".2.", ".3."): tensor.clone() for name, tensor in tensors.items() if ".2." in name}
    _keep(folder, tensors | more)


def tensor_too_many(folder: Path) -> None:
    _keep(folder, _tensors(folder) | {"model.unheard_of.weight": torch.ones(3)})


def buffers_of_old(folder: Path) -> None:
    """Rotary frequencies as older files have them, here wrong ones, which transformers ignores."""
    tensors = _tensors(folder)
    old = {f"model.layers.{block}.self_attn.rotary_emb.inv_freq": torch.ones(4) for block in range(3)}
    _keep(folder, tensors | old)


def _head(folder: Path) -> torch.Tensor:
    tensors = _tensors(folder)
    embedding = next(tensor for name, tensor in tensors.items() if "embed" in name or "wte" in name)
    return torch.randn(embedding.shape, generator=torch.Generator().manual_seed(3))


def head_and_tied(folder: Path) -> None:
    _keep(folder, _tensors(folder) | {"lm_head.weight": _head(folder)})
    _config(folder, tie_word_embeddings=True)


def head_and_not_tied(folder: Path) -> None:
    _keep(folder, _tensors(folder) | {"lm_head.weight": _head(folder)})
    _config(folder, tie_word_embeddings=False)


def head_and_nothing_said(folder: Path) -> None:
    _keep(folder, _tensors(folder) | {"lm_head.weight": _head(folder)})
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "tie_word_embeddings"}))


def _headless(folder: Path) -> None:
    _keep(folder, {name: tensor for name, tensor in _tensors(folder).items() if "lm_head" not in name})


def no_head_and_tied(folder: Path) -> None:
    _headless(folder)
    _config(folder, tie_word_embeddings=True)


def no_head_and_not_tied(folder: Path) -> None:
    _headless(folder)
    _config(folder, tie_word_embeddings=False)


def head_alone_and_tied(folder: Path) -> None:
    """The shared matrix is stored under the head's name."""
    tensors = _tensors(folder) | {"lm_head.weight": _head(folder)}
    _keep(folder, {name: each for name, each in tensors.items() if "embed_tokens" not in name and "wte" not in name})
    _config(folder, tie_word_embeddings=True)


def _in(dtype: torch.dtype) -> Form:
    def change(folder: Path) -> None:
        _keep(folder, {name: tensor.to(dtype) for name, tensor in _tensors(folder).items()})
        _config(folder, dtype=str(dtype).removeprefix("torch."))

    return change


def mixed_dtypes(folder: Path) -> None:
    kinds = (torch.float16, torch.bfloat16, torch.float32)
    _keep(folder, {name: t.to(kinds[number % 3]) for number, (name, t) in enumerate(sorted(_tensors(folder).items()))})


def integers(folder: Path) -> None:
    _keep(folder, {name: (tensor * 8).to(torch.int8) for name, tensor in _tensors(folder).items()})


def eight_bit_floats(folder: Path) -> None:
    _keep(folder, {name: tensor.to(torch.float8_e4m3fn) for name, tensor in _tensors(folder).items()})


def pickled(folder: Path) -> None:
    torch.save(_tensors(folder), folder / "pytorch_model.bin")
    (folder / SINGLE_NAME).unlink()


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def config_alone(folder: Path) -> None:
    (folder / SINGLE_NAME).unlink()


def truncated(folder: Path) -> None:
    path = folder / SINGLE_NAME
    path.write_bytes(path.read_bytes()[:-100])


def adapter_alone(folder: Path) -> None:
    adapter_beside(folder)
    (folder / SINGLE_NAME).unlink()
    (folder / "config.json").unlink()


def adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))
    save_file({"base_model.model.lora_A.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors", META)


def gguf_beside(folder: Path) -> None:
    (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF")


def gguf_alone(folder: Path) -> None:
    empty(folder)
    for name in ("m-Q4_K_M.gguf", "m-Q8_0.gguf"):
        (folder / name).write_bytes(b"GGUF")


def maker_form(folder: Path) -> None:
    (folder / SINGLE_NAME).rename(folder / "consolidated.safetensors")


GOOD: Final[Mapping[str, Form]] = {
    "a whole file": whole,
    "shards with an index": shards,
    "a whole file with an old index beside it": stale_index,
    "a whole file with other shards beside it": shards_beside_whole,
    "a tensor that is not the model's": tensor_too_many,
    "a block more than config.json says": block_too_many,
    "rotary frequencies as older files have them": buffers_of_old,
    "a head of its own where config.json says that it is the embedding": head_and_tied,
    "a head of its own where config.json says so": head_and_not_tied,
    "a head of its own where config.json says nothing": head_and_nothing_said,
    "no head where config.json says that it is the embedding": no_head_and_tied,
    "float16": _in(torch.float16),
    "bfloat16": _in(torch.bfloat16),
    "float64": _in(torch.float64),
    "mixed dtypes": mixed_dtypes,
    "names without prefix": without_prefix,
    "a GGUF file beside": gguf_beside,
}
"""What must be served, as transformers does."""
BAD: Final[Mapping[str, tuple[Form, str]]] = {
    "a shard that is missing": (shard_missing, "model-00002-of-00002.safetensors is missing"),
    "an index that lacks a tensor": (
        index_lacks_a_tensor,
        "block 1 has no|is missing|has no tensor|could not be converted",
    ),
    "an index that names the wrong file": (index_names_the_wrong_file, "but it is not"),
    "a block that is missing": (block_missing, "no tensors for block 1"),
    "no head where config.json says that it has one": (no_head_and_not_tied, "lm_head.*"),
    "integers": (integers, "floats are needed|tensor"),
    "pickled weights alone": (pickled, "never read .*pytorch_model.bin.*save_pretrained"),
    "an empty folder": (empty, "has no config.json"),
    "a config alone": (config_alone, "neither model.safetensors nor"),
    "a truncated file": (truncated, "model.safetensors"),
    "an adapter alone": (adapter_alone, "merge_and_unload"),
    "an adapter beside": (adapter_beside, "merge_and_unload"),
    "GGUF files alone": (gguf_alone, "one of them instead .*m-Q4_K_M.gguf, .*m-Q8_0.gguf"),
    "its maker's form": (maker_form, "consolidated.safetensors"),
}
"""What must be refused, with what the message must say."""
ODD: Final[Mapping[str, Form]] = {
    "the shared matrix under the head's name": head_alone_and_tied,
    "names with the prefix twice": with_prefix_twice,
    "8-bit floats": eight_bit_floats,
}
"""What may be refused, but not be served otherwise than by transformers."""
