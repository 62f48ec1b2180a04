"""Every form that a model's files come in is served as transformers serves it, or refused with a way out."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from shards.checkpoint.index import read_spec
from shards.checkpoint.source import resolve
from shards.errors import ShardError
from shards.model.loading import check_servable
from shards.model.span import Span
from tests.profile import sample
from tests.shards.differential.compare import Outcome, Refused, compare, ours
from tests.shards.differential.families import N_BLOCKS, make
from tests.shards.differential.forms import BAD, GOOD, ODD

torch.set_num_threads(1)
WHOLE = Span(0, N_BLOCKS)
NATIVE = ("llama", "qwen3")
ADAPTER = ("gemma2", "gpt2", "mixtral", "olmo2")
LATE = ("an index that names the wrong file", "integers")
"""What only the weights themselves tell."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    return cache(lambda family: make(tmp_path_factory.mktemp("families") / family, family))


def cases(forms) -> list[tuple[str, str]]:
    """All forms of the first native family, and a sample of those of the others."""
    others = [(family, form) for family in (*NATIVE, *ADAPTER) if family != NATIVE[0] for form in forms]
    return [(NATIVE[0], form) for form in forms] + sorted(sample(sorted(sample(others))))


@pytest.mark.parametrize(("family", "form"), cases(GOOD))
def test_a_good_form_is_served_as_transformers_serves_it(made, tmp_path: Path, family: str, form: str):
    folder = Path(shutil.copytree(made(family), tmp_path / "copy"))
    GOOD[form](folder)
    check_servable(resolve(str(folder)), read_spec(folder), WHOLE)
    result = compare(folder)
    assert result.outcome is Outcome.EQUAL, result


@pytest.mark.parametrize(("family", "form"), cases(ODD))
def test_an_odd_form_is_not_served_otherwise_than_by_transformers(made, tmp_path: Path, family: str, form: str):
    folder = Path(shutil.copytree(made(family), tmp_path / "copy"))
    ODD[form](folder)
    result = compare(folder)
    assert result.outcome.allowed, result


@pytest.mark.parametrize(("family", "form"), cases(BAD))
def test_a_bad_form_is_refused_with_a_way_out(made, tmp_path: Path, family: str, form: str):
    folder = Path(shutil.copytree(made(family), tmp_path / "copy"))
    change, said = BAD[form]
    change(folder)
    result = ours(folder, whole=True)
    assert isinstance(result, Refused) and result.known, result
    with pytest.raises(ShardError, match=f"(?s){said}"):
        raise ShardError(result.said)


@pytest.mark.parametrize("form", [form for form in BAD if form not in LATE])
def test_a_bad_form_is_refused_before_anything_is_loaded(made, tmp_path: Path, form: str):
    folder = Path(shutil.copytree(made("llama"), tmp_path / "copy"))
    change, said = BAD[form]
    change(folder)
    with pytest.raises(ShardError, match=f"(?s){said}"):
        check_servable(resolve(str(folder)), read_spec(folder), WHOLE)
