"""The text part of models that also see, written by transformers' own classes, against those classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from shards.checkpoint.index import read_spec
from shards.model.loading import check_servable
from shards.model.span import Span
from tests.shards.adapter_models import scatter
from tests.shards.differential.compare import TOKENS, Refused, ours
from tests.shards.differential.families import COMPOSITES, N_BLOCKS
from tests.shards.quiet import quiet

torch.set_num_threads(1)


@pytest.mark.parametrize("kind", COMPOSITES)
def test_the_text_part_of_a_model_that_also_sees_says_the_same(tmp_path: Path, kind: str):
    with quiet(), torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        config = transformers.CONFIG_MAPPING[kind](**COMPOSITES[kind])
        model = transformers.AutoModelForImageTextToText.from_config(config).eval()
        scatter(model)
        model.save_pretrained(tmp_path)
        expected = model(input_ids=torch.tensor([TOKENS])).logits[0]
    check_servable(tmp_path, read_spec(tmp_path), Span(0, N_BLOCKS))
    for whole in (True, False):
        logits = ours(tmp_path, whole=whole)
        assert not isinstance(logits, Refused), logits
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)
