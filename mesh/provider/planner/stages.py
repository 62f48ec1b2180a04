"""The stages of a node that serves several models or on several devices: which model goes where, with what (pure).

--model A --device cuda:0 --device cuda:1              two stages of A
--model A --model B                                    a stage of each, on one device
--model A --model B --device cuda:0 --device B=cuda:1  B where it is told to be, A on the other
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from mesh.errors import ConfigError

MAX_STAGES = 64
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
LASTING_SECONDS = 120.0
"""A stage that has run so long and fails starts again at once, as if it had never failed before."""
_TCP = re.compile(r"(/tcp/)(\d+)")


@dataclass(frozen=True, slots=True)
class Place:
    """One --device: where a stage is to run, and which model it is for, if that was said."""

    device: str
    model: str | None = None

    @property
    def physical(self) -> str:
        """What shares its memory: `cuda` is `cuda:0`, and there is one CPU."""
        return {"cuda": "cuda:0", "mps": "mps:0"}.get(
            self.device, self.device.partition(":")[0] if self.is_cpu else self.device
        )

    @property
    def is_cpu(self) -> bool:
        return self.device.partition(":")[0] == "cpu"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the node. `label` names it for people and in files; `share` is its part of the device."""

    label: str
    model: str
    place: Place
    share: float = 1.0
    threads: int | None = None
    """CPU threads to compute with; None: as many as turn out to be the fastest."""


def read_places(devices: Sequence[str], models: Sequence[str]) -> list[Place]:
    """`cuda:1` or `MODEL=cuda:1`. Raises `ConfigError` for a model that is not one of those to serve."""
    places = []
    for text in devices or ["auto"]:
        model, pinned, device = text.rpartition("=")
        if pinned and model not in models:
            raise ConfigError(f"--device {text} names {model!r}, which no --model asks for")
        places.append(Place(device, model if pinned else None))
    return places


def assign(
    models: Mapping[str, int], places: Sequence[Place], free: Mapping[str, int], *, cores: int = 1
) -> list[Stage]:
    """The stages, by device in the order given; every model gets one at least, and so does every device.

    `models` are the bytes that each has, `free` the bytes free by physical device. More devices than models: the one
    with the most memory goes to the model of which most has no place yet, and so on. More models than devices: the
    largest goes where most memory is left. Raises `ConfigError` for too many.
    """
    if max(len(models), len(places)) > MAX_STAGES:
        raise ConfigError(f"one node serves at most {MAX_STAGES} stages")
    users = Counter(place.physical for place in places)
    room = [free.get(place.physical, 0) / users[place.physical] for place in places]
    chosen: list[list[str]] = [[place.model] if place.model else [] for place in places]
    unmet: dict[str, float] = dict(models)
    for index, names in enumerate(chosen):
        for name in names:
            unmet[name] -= room[index]
    homeless = {name for name in models if not any(name in names for names in chosen)}
    vacant = sorted((i for i in range(len(places)) if not chosen[i]), key=lambda i: (-room[i], i))
    for taken, index in enumerate(vacant):
        # Where there are no more devices than models without one, those go before one that wants another.
        open_to = sorted(homeless) if len(vacant) - taken <= len(homeless) else list(unmet)
        name = max(open_to, key=lambda each: unmet[each])
        chosen[index].append(name)
        unmet[name] -= room[index]
        homeless.discard(name)
    left = [room[index] - sum(models[name] for name in chosen[index]) for index in range(len(places))]
    open_to_all = [index for index, place in enumerate(places) if place.model is None] or list(range(len(places)))
    for name in sorted(homeless, key=lambda each: (-models[each], each)):
        index = max(open_to_all, key=lambda i: (left[i], -i))
        chosen[index].append(name)
        left[index] -= models[name]
    pairs = [(name, places[index]) for index, names in enumerate(chosen) for name in models if name in names]
    sharers = Counter(place.physical for _, place in pairs)
    labels = _labels([name for name, _ in pairs])
    return [
        Stage(
            label,
            name,
            place,
            share=1 / sharers[place.physical],
            threads=max(1, cores // sharers[place.physical]) if place.is_cpu and sharers[place.physical] > 1 else None,
        )
        for label, (name, place) in zip(labels, pairs, strict=True)
    ]


def _labels(models: Sequence[str]) -> list[str]:
    """`llama-1`, `llama-2`, `other-1`: short, safe in a file's name, and the same at the next start."""
    counts: Counter[str] = Counter()
    labels = []
    for model in models:
        short = re.sub(r"[^a-z0-9]+", "-", PurePath(model).name.lower()).strip("-")[:24] or "model"
        counts[short] += 1
        labels.append(f"{short}-{counts[short]}")
    return labels


def key_file(base: Path, label: str) -> Path:
    """Where a stage's key is: beside the node's."""
    return base.with_name(f"{base.stem}-{label}{base.suffix}")


def capacity(n_blocks: int, usable: float, model_bytes: int, edge_bytes: int) -> int:
    """Blocks that fit into `usable` bytes beside the embedding or the head (`edge_bytes`, both together)."""
    block = max(1.0, (model_bytes - edge_bytes) / n_blocks)
    return max(0, min(n_blocks, int((usable - edge_bytes) / block)))


@dataclass(frozen=True, slots=True)
class Room:
    """What a stage has room for: so many of a model's blocks, and what they take."""

    n_blocks: int
    fits: int
    usable_bytes: int
    block_bytes: int
    """Of one block, all its experts included."""
    edge_bytes: int
    """Of the embedding and the head together."""

    @classmethod
    def of(cls, n_blocks: int, usable: float, model_bytes: int, edge_bytes: int) -> Room:
        fits = capacity(n_blocks, usable, model_bytes, edge_bytes)
        return cls(n_blocks, fits, int(usable), max(1, (model_bytes - edge_bytes) // n_blocks), edge_bytes)

    @property
    def stages(self) -> int:
        """How many such stages hold the whole model; at least one block must fit."""
        return -(-self.n_blocks // self.fits)

    def what_is_missing(self, stage: Stage, model: str) -> str:
        """Why not one block fits, and what would do."""
        one, whole = self.edge_bytes + self.block_bytes, self.edge_bytes + self.n_blocks * self.block_bytes
        return (
            f"stage {stage.label} may take {_size(self.usable_bytes)} of {stage.place.device} for weights, in which "
            f"not one block of {model} fits: a block takes {_size(self.block_bytes)}, with the embedding and the head "
            f"{_size(one)}, and all {self.n_blocks} take {_size(whole)}. It needs nodes with at least {_size(one)} "
            f"for weights each, of which {self.n_blocks} hold the model, or fewer with more: serve less on this "
            "device, lower --kv-cache, or take a checkpoint with smaller weights"
        )


def _size(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB" if nbytes >= 1 << 30 else f"{nbytes / (1 << 20):.1f} MiB"


def own_port(maddr: str, number: int) -> str:
    """The address of stage `number` (from 0), where the node's has a fixed port: each stage has the next one."""
    return _TCP.sub(lambda found: found[1] + str(port_of(int(found[2]), number)), maddr, count=1)


def port_of(port: int, number: int) -> int:
    """0 and -1 (any free port, none) are the same for all. Raises `ConfigError` beyond the last port."""
    chosen = port + number if port > 0 else port
    if chosen > 65535:
        raise ConfigError(f"stage {number + 1} would need port {chosen}: give a lower one")
    return chosen


def pause_before_restart(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, within a minute."""
    return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(max(0, failures - 1), 16)))


def failures_in_a_row(before: int, ran_seconds: float) -> int:
    """How many failures count now that a stage has failed that ran for so long."""
    return 1 if ran_seconds >= LASTING_SECONDS else before + 1
