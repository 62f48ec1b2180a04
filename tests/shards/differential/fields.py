"""A family's checkpoint whose config.json is edited in place, and what is expected of a refusal."""

from __future__ import annotations

from pathlib import Path

import transformers

from tests.shards.differential.compare import Result, compare, write_config
from tests.shards.differential.edits import Edit, edits_of
from tests.shards.differential.families import config_of, make, read

_WEIGHTS = ("tensor ", "no tensors for block", "has no tensor")
"""Where a shape does not fit the weights, the tensor is named instead of the field."""


class Subject:
    """One family: its weights are written once."""

    def __init__(self, folder: Path, family: str) -> None:
        self.folder = make(folder, family)
        self.config = read(folder)
        self.edits = edits_for(family, self.config)

    def check(self, edit: Edit | None) -> Result:
        """What comes of one edit, or of none."""
        write_config(self.folder, self.config if edit is None else edit.apply(self.config))
        return compare(self.folder)


def edits_for(family: str, config: dict[str, object]) -> list[Edit]:
    """All edits of a family; fields that its class knows and its file lacks are edited too."""
    known = {name: value for name, value in config_of(family).to_dict().items() if not name.startswith("_")}
    aliases = dict(transformers.CONFIG_MAPPING[family.partition("/")[0]].attribute_map)
    present = edits_of(config, aliases)
    absent = {name: value for name, value in known.items() if name not in config and name != "transformers_version"}
    added = [edit for edit in edits_of(absent, {}) if len(edit.path) == 1 and edit.path[0] in absent]
    return present + [edit for edit in added if str(edit) not in {str(each) for each in present} and _sets(edit)]


def _sets(edit: Edit) -> bool:
    return edit.to is None and "removed" not in str(edit)


def named(edit: Edit | None, said: str) -> bool:
    """Whether a refusal says what it is about: the field, or its value, or the weights that do not fit it."""
    if edit is None:
        return False
    words = (edit.field, str(edit.to or edit.field), *_WEIGHTS)
    inside = edit.value.values() if isinstance(edit.value, dict) and edit.value else (edit.value,)
    return any(word in said for word in words) or all(str(value) in said for value in inside)
