"""The library's surface: what may be imported from `mesh`, and the one root of what it raises."""

from __future__ import annotations

import pytest

import mesh
from mesh.client.client import mesh_errors
from shards import errors as shard_errors


def test_every_public_name_is_there_and_named_once() -> None:
    assert sorted(mesh.__all__) == list(mesh.__all__)
    assert {getattr(mesh, name).__name__ for name in mesh.__all__} == set(mesh.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        mesh.Nothing  # noqa: B018


def test_whatever_the_model_side_raises_is_a_mesh_error_to_users_of_the_library() -> None:
    kinds = [kind for kind in vars(shard_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 10
    for kind in kinds:
        with pytest.raises(mesh.MeshError, match="temperature is"), mesh_errors():
            raise kind("temperature is odd")


@pytest.mark.parametrize(
    ("raised", "seen", "param"),
    [
        (shard_errors.InvalidSampling("top_p must be in (0, 1]"), mesh.InvalidRequest, "top_p"),
        (shard_errors.NotText("half"), mesh.InvalidRequest, "prompt"),
        (shard_errors.TextTooLong("long"), mesh.ContextLengthExceeded, "prompt"),
    ],
)
def test_a_mistake_of_the_caller_names_the_parameter(raised: Exception, seen: type[Exception], param: str) -> None:
    with pytest.raises(seen) as told, mesh_errors():
        raise raised
    assert isinstance(told.value, mesh.InvalidRequest)
    assert told.value.param == param
    assert told.value.__cause__ is raised
