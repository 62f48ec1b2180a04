"""Building the native extension: kept per machine and source, whole or not at all, and done without where it fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.checkpoint.folder import Checkpoint
from shards.model.loading import load_stage
from shards.model.span import Span
from shards.native.build import NativeUnavailable, built_library, cache_folder
from shards.native.library import Library, native_library
from tests.shards.models import make_checkpoint


@pytest.fixture
def fresh() -> Iterator[None]:
    native_library.cache_clear()
    yield
    native_library.cache_clear()


def compiler(folder: Path, script: str) -> Path:
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_library_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    monkeypatch.setenv("CXX", str(compiler(tmp_path, f'echo x >>{calls}; for last; do :; done; echo code >"$last"')))
    cache = tmp_path / "cache"
    first, second = built_library(cache), built_library(cache)
    assert first == second and first.read_text() == "code\n"
    assert calls.read_text() == "x\n"
    assert list(cache.iterdir()) == [first], "scratch was left behind"


def test_those_who_start_together_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    script = f'echo x >>{calls}; sleep 0.2; for last; do :; done; echo code >"$last"'
    monkeypatch.setenv("CXX", str(compiler(tmp_path, script)))
    with ThreadPoolExecutor(4) as threads:
        built = list(threads.map(lambda _: built_library(tmp_path / "cache"), range(4)))
    assert len(set(built)) == 1
    assert calls.read_text() == "x\n"


def test_a_failed_build_leaves_nothing_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'for last; do :; done; echo half >"$last"; echo "stage.cpp:1: error: no such vector" >&2; exit 1'
    monkeypatch.setenv("CXX", str(compiler(tmp_path, script)))
    with pytest.raises(NativeUnavailable, match="no such vector"):
        built_library(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, "exit 0")))
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(NativeUnavailable, match="other users"):
        built_library(cache)


def test_the_cache_is_where_the_user_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "inference-mesh" / "native"


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stage.so"
    path.write_text("not code")
    with pytest.raises(NativeUnavailable, match="cannot load"):
        Library(str(path))


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_stages_compute_with_torch_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with caplog.at_level(logging.WARNING):
        assert native_library() is None
        assert native_library() is None
    assert len(caplog.records) == 1 and "no C++ compiler" in caplog.text
    load_stage(Checkpoint.open(make_checkpoint(tmp_path / "model")), Span(0, 5)).allocate(1)


@pytest.mark.usefixtures("fresh")
def test_kernels_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_NATIVE", "0")
    assert native_library() is None
