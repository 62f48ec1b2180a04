"""Every field of every family's config.json, changed one at a time: computed as transformers does, or refused by name.

With `TESTS_PROFILE=long` all of them (an hour), else a few of half of the families, always the same ones;
`python -m tests.shards.differential FAMILY` tells about one family.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from shards.adapter.skeleton import PROVEN
from tests.profile import LONG, sample
from tests.shards.differential.compare import Outcome
from tests.shards.differential.families import COMPOSITES, FAMILIES
from tests.shards.differential.fields import Subject, named

torch.set_num_threads(1)
EACH = 2
"""So many edits of each family in the everyday tests."""


def test_the_families_are_those_that_the_adapter_takes_for_proven():
    assert {family.partition("/")[0] for family in FAMILIES} | COMPOSITES.keys() == set(PROVEN)


@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("family", sample(sorted(FAMILIES)))
def test_every_field_is_honoured_or_refused_by_name(tmp_path: Path, family: str):
    subject = Subject(tmp_path, family)
    plain = subject.check(None)
    assert plain.outcome is Outcome.EQUAL, plain
    edits = subject.edits if LONG else random.Random(family).sample(subject.edits, EACH)
    results = [(str(edit), edit, subject.check(edit)) for edit in edits]
    wrong = {name: result for name, _, result in results if not result.outcome.allowed}
    assert not wrong
    unnamed = {
        name: result.said
        for name, edit, result in results
        if result.outcome is Outcome.REFUSED and not named(edit, result.said)
    }
    assert not unnamed
