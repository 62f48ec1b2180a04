"""Write text with a model in training: for the model card only, so without a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shards.training.model import Llama


def generate(
    model: Llama, prompt: Sequence[int], length: int, *, temperature: float, seed: int, stop: Sequence[int]
) -> list[int]:
    """Up to `length` new ids; temperature 0 is greedy; ends before a `stop` id or at the context's end."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < min(len(prompt) + length, model.shape.context):
            logits = model(torch.tensor([ids], device=device))[0, -1].float().cpu()
            if temperature == 0:
                token = int(logits.argmax())
            else:
                chances = torch.softmax(logits / temperature, dim=-1)
                token = int(torch.multinomial(chances, 1, generator=generator))
            if token in stop:
                break
            ids.append(token)
    return ids[len(prompt) :]
