"""Reads this machine: disks, memory, devices, graphics cards, compiler and versions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import psutil

from mesh.cli.doctor.readings import Cards, Device, Disk, Machine, Memory
from mesh.cli.identities import data_folder
from mesh.version import VERSION

SWAP_SECONDS: Final = 0.5
PROBE_BYTES: Final = 64 << 10
VENDORS: Final = {"0x10de": "NVIDIA", "0x1002": "AMD"}
PACKAGES: Final = ("torch", "transformers", "hivemind", "web3")


def read_machine(cache: Path | None = None) -> Machine:
    """This machine. Takes seconds: torch is imported, and memory is read to see how fast that goes."""
    from shards.native.build import NativeUnavailable, find_compiler

    try:
        compiler: str | None = find_compiler()
    except NativeUnavailable:
        compiler = None
    devices, usable, built_for = read_devices()
    return Machine(
        disks=(read_disk("state", data_folder()), read_disk("models", cache or models_folder())),
        memory=read_memory(),
        devices=devices,
        cards=read_cards(usable, built_for),
        compiler=compiler,
        versions=read_versions(),
    )


def models_folder() -> Path:
    """Where downloads go unless --cache says otherwise."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def read_disk(purpose: Literal["state", "models"], folder: Path) -> Disk:
    """The room in a folder, or in the one where it would be made; a little is written, which quotas may forbid."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        usage = shutil.disk_usage(there)
    except OSError as error:
        return Disk(purpose, str(folder), None, None, error.strerror or str(error))
    try:
        with tempfile.TemporaryFile(dir=there, buffering=0) as file:
            written = file.write(bytes(PROBE_BYTES))
            os.fsync(file.fileno())
        problem = None if written == PROBE_BYTES else "it is full"
    except OSError as error:
        problem = error.strerror or str(error)
    return Disk(purpose, str(folder), usage.free, usage.total, problem)


def read_memory() -> Memory:
    """Memory and swap, watched for a moment."""
    before, began = psutil.swap_memory(), time.monotonic()
    time.sleep(SWAP_SECONDS)
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    rate = max(0, swap.sin - before.sin) / (time.monotonic() - began)
    return Memory(memory.total, memory.available, swap.total, swap.used, rate)


def read_devices() -> tuple[tuple[Device, ...], int, str | None]:
    """What torch can compute on, how many of them are GPUs, and what this torch is built for."""
    import torch

    from mesh.provider.planner.capacity import measure_speed
    from mesh.provider.planner.machine import free_bytes

    speed = measure_speed("cpu", torch.float32).bytes_per_second
    name = _processor()
    found = [Device("cpu", f"{name}, {os.cpu_count()} threads", free_bytes("cpu"), speed)]
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(gpus):
        device = f"cuda:{number}"
        try:
            rate: float | None = measure_speed(device, torch.bfloat16).bytes_per_second
        except RuntimeError:  # its memory is full
            rate = None
        found.append(Device(device, torch.cuda.get_device_name(number), free_bytes(device), rate))
    if torch.backends.mps.is_available():
        gpus += 1
        found.append(Device("mps", "Apple GPU", free_bytes("cpu"), None))
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else None
    return tuple(found), gpus, f"ROCm {torch.version.hip}" if torch.version.hip else built


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def read_cards(usable: int, built_for: str | None, root: Path = Path("/")) -> Cards:
    """The graphics cards on the PCI bus and their drivers (Linux; `root` has `sys` and `proc`)."""
    found = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor = VENDORS.get(_line(device / "vendor"))
        if vendor is not None and _line(device / "class").startswith(("0x03", "0x12")):  # displays, accelerators
            found.append(vendor)
    driver = {}
    if nvidia := re.search(r"\b\d+\.\d+(\.\d+)?\b", _line(root / "proc/driver/nvidia/version")):
        driver["NVIDIA"] = nvidia[0]
    if (root / "sys/module/amdgpu").is_dir():
        driver["AMD"] = _line(root / "sys/module/amdgpu/version") or "amdgpu"
    return Cards(tuple(found), driver, usable, built_for)


def _line(path: Path) -> str:
    """The first line of a small file; nothing where there is none."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.readline(200).strip()
    except OSError:
        return ""


def read_versions() -> dict[str, str]:
    """Of ourselves, Python, and what most depends on."""
    found = {"inference-mesh": VERSION, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
