"""Model folders that a stranger could have packed, so that files of the host are read, served or written over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"

Pack = Callable[[Path, Path], None]
"""Changes the folder; the other path is a file outside of it with `SECRET` in it."""


def _link(name: str) -> Pack:
    def pack(folder: Path, secret: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret)

    return pack


def _relative(folder: Path, secret: Path) -> None:
    (folder / "chat_template.jinja").symlink_to(os.path.relpath(secret, folder))


def _chain(folder: Path, secret: Path) -> None:
    (folder / "one").symlink_to(secret)
    (folder / "chat_template.jinja").symlink_to("one")


def _inside(folder: Path, secret: Path) -> None:
    """Not outside, but then the file could be there under its name."""
    (folder / "other").write_bytes(SECRET)
    (folder / "chat_template.jinja").symlink_to("other")


def _through_parent(folder: Path, secret: Path) -> None:
    (folder / "sub").symlink_to(secret.parent, target_is_directory=True)
    (folder / "chat_template.jinja").symlink_to(Path("sub") / secret.name)


def _dangling(folder: Path, secret: Path) -> None:
    (folder / "chat_template.jinja").symlink_to(secret.parent / "will-be-there-soon")


def _itself(folder: Path, secret: Path) -> None:
    (folder / "chat_template.jinja").symlink_to("chat_template.jinja")


def _proc(folder: Path, secret: Path) -> None:
    (folder / "chat_template.jinja").symlink_to("/proc/self/environ")


def _zeros(folder: Path, secret: Path) -> None:
    (folder / "chat_template.jinja").symlink_to("/dev/zero")


def _fifo(name: str) -> Pack:
    def pack(folder: Path, secret: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return pack


def _folder(name: str) -> Pack:
    def pack(folder: Path, secret: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return pack


def _sparse(name: str) -> Pack:
    def pack(folder: Path, secret: Path) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(1 << 40)

    return pack


def _cache(folder: Path, target: str) -> Path:
    """The folder as a commit in a hub's cache, with a template that links to `target`; its model's folder."""
    model = folder.parent / "models--org--evil"
    commit = model / "snapshots" / "abc"
    commit.parent.mkdir(parents=True)
    (model / "blobs").mkdir()
    shutil.copytree(folder, commit)
    shutil.rmtree(folder)
    (commit / "chat_template.jinja").symlink_to(target)
    folder.symlink_to(commit, target_is_directory=True)
    return model


def _cache_outside(folder: Path, secret: Path) -> None:
    _cache(folder, str(secret))


def _cache_other_model(folder: Path, secret: Path) -> None:
    other = folder.parent / "models--org--private" / "blobs"
    other.mkdir(parents=True)
    (other / "0123").write_bytes(SECRET)
    _cache(folder, "../../../models--org--private/blobs/0123")


def _cache_blobs_linked(folder: Path, secret: Path) -> None:
    model = _cache(folder, f"../../blobs/{secret.name}")
    (model / "blobs").rmdir()
    (model / "blobs").symlink_to(secret.parent, target_is_directory=True)


def _cache_blob_linked(folder: Path, secret: Path) -> None:
    model = _cache(folder, "../../blobs/0123")
    (model / "blobs" / "0123").symlink_to(secret)


def _cache_blob_deeper(folder: Path, secret: Path) -> None:
    model = _cache(folder, f"../../blobs/sub/{secret.name}")
    (model / "blobs" / "sub").symlink_to(secret.parent, target_is_directory=True)


def _cache_blob_fifo(folder: Path, secret: Path) -> None:
    model = _cache(folder, "../../blobs/0123")
    os.mkfifo(model / "blobs" / "0123")


def _alone(pack: Pack) -> Pack:
    """Without the whole file of weights, beside which an index does not count."""

    def packed(folder: Path, secret: Path) -> None:
        (folder / "model.safetensors").unlink()
        pack(folder, secret)

    return packed


SERVED: dict[str, Pack] = {
    "a template that is a link": _link("chat_template.jinja"),
    "a configuration that is a link": _link("config.json"),
    "a tokenizer that is a link": _link("tokenizer.json"),
    "settings that are a link": _link("tokenizer_config.json"),
    "a manifest that is a link": _link("mesh.manifest.json"),
    "a relative link": _relative,
    "a link to a link": _chain,
    "a link to another file of the folder": _inside,
    "a link through a folder that is a link": _through_parent,
    "a link to what is not there yet": _dangling,
    "a link to itself": _itself,
    "a link to the process's environment": _proc,
    "a link to endless zeros": _zeros,
    "a FIFO as template": _fifo("chat_template.jinja"),
    "a FIFO as tokenizer": _fifo("tokenizer.json"),
    "a FIFO as manifest": _fifo("mesh.manifest.json"),
    "a folder as template": _folder("chat_template.jinja"),
    "a template of a terabyte": _sparse("chat_template.jinja"),
    "a configuration of a terabyte": _sparse("config.json"),
    "a manifest of a terabyte": _sparse("mesh.manifest.json"),
    "a cache with a link out of it": _cache_outside,
    "a cache with a link to another model": _cache_other_model,
    "a cache whose blobs are elsewhere": _cache_blobs_linked,
    "a cache with a blob that is elsewhere": _cache_blob_linked,
    "a cache with a blob in a linked folder": _cache_blob_deeper,
    "a cache with a blob that is a FIFO": _cache_blob_fifo,
}
"""What a provider would serve to others."""

LOADED: dict[str, Pack] = {
    "weights that are a link": _link("model.safetensors"),
    "an index that is a link": _alone(_link("model.safetensors.index.json")),
    "weights that are a FIFO": _fifo("model.safetensors"),
    "an index that is a FIFO": _alone(_fifo("model.safetensors.index.json")),
    "weights that are a folder": _folder("model.safetensors"),
    "weights of a terabyte": _sparse("model.safetensors"),
    "an index of a terabyte": _alone(_sparse("model.safetensors.index.json")),
}
"""What it would load for itself."""
