"""What a model's name means without a chain: the digest that was asked for, or the first that was used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.client.catalog import Offer
from mesh.client.pins import ModelPins
from mesh.errors import ConfigError, ModelChanged
from mesh.identity import Identity
from tests.mesh.sample_record import sample_record

NAME = "org/llama"
OURS, THEIRS = "ab" * 32, "cd" * 32


def offer(digest: str) -> Offer:
    return Offer(NAME, digest, (replace(sample_record(Identity.generate().peer_id), model=NAME, digest=digest),))


def test_the_first_that_is_used_is_meant_from_then_on_however_many_announce_another() -> None:
    pins = ModelPins()
    assert pins.choose(NAME, [offer(OURS)]) is not None
    chosen = pins.choose(NAME, [offer(THEIRS), offer(THEIRS), offer(OURS)])
    assert chosen is not None and chosen.digest == OURS
    assert [each.digest for each in pins.known(NAME, [offer(THEIRS), offer(OURS)])] == [OURS]


def test_another_model_under_a_known_name_is_refused_with_what_to_do() -> None:
    pins = ModelPins(chosen={NAME: OURS.upper()})
    with pytest.raises(ModelChanged, match="--digest") as raised:
        pins.choose(NAME, [offer(THEIRS)])
    assert OURS in str(raised.value) and THEIRS in str(raised.value)


def test_a_name_that_nobody_offers_is_not_kept() -> None:
    pins = ModelPins()
    assert pins.choose(NAME, []) is None
    assert pins.digest_of(NAME) is None


def test_what_was_used_is_known_to_the_next_process_until_the_user_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "models.json"
    ModelPins(path).choose(NAME, [offer(OURS)])
    with pytest.raises(ModelChanged):
        ModelPins(path).choose(NAME, [offer(THEIRS)])
    assert ModelPins(path, {NAME: THEIRS}).choose(NAME, [offer(THEIRS)]) is not None
    assert json.loads(path.read_text()) == {NAME: THEIRS}  # accepted once, and known from then on


def test_two_processes_do_not_forget_each_other_s_names(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    first, second = ModelPins(path), ModelPins(path)
    first.choose(NAME, [offer(OURS)])
    second.choose("other", [replace(offer(THEIRS), name="other")])
    assert json.loads(path.read_text()) == {NAME: OURS, "other": THEIRS}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"a": 3}', '{"a": "zz"}', "[" * 100_000, '{"a":"' + "0" * 65 + '"}']
)
def test_a_file_that_is_none_is_said_to_be_mended_or_removed(tmp_path: Path, content: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="remove it"):
        ModelPins(path)


@pytest.mark.parametrize("digest", ["", "12", "g" * 64, "ab" * 33])
def test_what_is_no_digest_is_refused(digest: str) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal"):
        ModelPins(chosen={NAME: digest})
