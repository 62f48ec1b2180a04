"""What `mesh doctor` makes of readings: each fault by its name with what to do, and nothing on a healthy machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from chain.devnet.up import embedded
from mesh.cli.doctor.chain import read_chain
from mesh.cli.doctor.checks import findings
from mesh.cli.doctor.machine import read_cards, read_disk, read_memory
from mesh.cli.doctor.readings import Cards, ChainReading, Device, Disk, Machine, Memory, Network, Readings
from mesh.wire.knock import KnockAnswer, Knocked
from shards.native.build import NativeUnavailable, find_compiler
from tests.full_disk import fill, no_room, small_disk

GIB = 1 << 30
HERE, THERE = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWUs", "/ip4/10.0.0.1/tcp/4001/p2p/12D3KooWUs"
MACHINE = Machine(
    disks=(Disk("state", "/state", 9 * GIB, 10 * GIB), Disk("models", "/models", 90 * GIB, 100 * GIB)),
    memory=Memory(16 * GIB, 12 * GIB, 4 * GIB, 0, 0.0),
    devices=(Device("cpu", "a processor", 12 * GIB, 2e10), Device("cuda:0", "a GPU", 80 * GIB, 1e12)),
    cards=Cards(("NVIDIA",), {"NVIDIA": "570.1"}, 1, "CUDA 12.8"),
    compiler="/usr/bin/c++",
    versions={"inference-mesh": "1.2.3"},
)
NETWORK = Network(
    clocks={"a": 0.2, "b": -0.1},
    announced=(HERE, THERE),
    answers={"a": KnockAnswer(("192.0.2.1",), (Knocked(HERE, "open"), Knocked(THERE, "elsewhere")))},
    versions={"a": "1.2.3", "b": "1.2.0", "c": "9.0.0", "d": "junk"},
)
CHAIN = ChainReading("http://127.0.0.1:8545", chain_id=1, expected_id=1, has_contracts=True, head=7, head_age=3.0)
HEALTHY = Readings(MACHINE, NETWORK, CHAIN)


def with_machine(**changes: object) -> Readings:
    return replace(HEALTHY, machine=replace(MACHINE, **changes))  # type: ignore[arg-type]


def with_network(**changes: object) -> Readings:
    return replace(HEALTHY, network=replace(NETWORK, **changes))  # type: ignore[arg-type]


def with_chain(**changes: object) -> Readings:
    return replace(HEALTHY, chain=replace(CHAIN, **changes))  # type: ignore[arg-type]


def heard(outcome: str) -> Readings:
    """A neighbour at which the one address that is announced ends like that."""
    answer = KnockAnswer(("192.0.2.1",), (Knocked(HERE, outcome),))  # type: ignore[arg-type]
    return with_network(announced=(HERE,), answers={"a": answer})


FAULTS = {
    "a closed port": (heard("closed"), "closed_port"),
    "a port that a firewall drops": (heard("silent"), "closed_port"),
    "a port of another service": (heard("other"), "closed_port"),
    "an unroutable address": (
        with_network(announced=(THERE,), answers={"a": KnockAnswer(("192.0.2.1",), (Knocked(THERE, "elsewhere"),))}),
        "unroutable_address",
    ),
    "a wrong clock": (with_network(clocks={"a": 3600.0, "b": 3601.0, "c": 0.0}), "wrong_clock"),
    "a clock at which all refuse us": (
        replace(HEALTHY, network=Network(problem="local time must be within 3 s", clocks={"a": 5.0})),
        "wrong_clock",
    ),
    "a full disk": (with_machine(disks=(Disk("state", "/s", 1000, GIB), MACHINE.disks[1])), "full_disk"),
    "a disk over quota": (with_machine(disks=(Disk("models", "/m", 9 * GIB, GIB, "quota"),)), "full_disk"),
    "no compiler": (with_machine(compiler=None), "no_compiler"),
    "a chain that syncs": (with_chain(behind=400), "chain_behind"),
    "a chain that stands still": (with_chain(head_age=900.0), "chain_behind"),
    "another chain id": (with_chain(chain_id=2), "wrong_chain"),
    "another chain of that id": (with_chain(has_contracts=False), "wrong_chain"),
    "an old version": (with_network(versions={"a": "1.2.4", "b": "1.10.0", "c": "1.2.3"}), "old_version"),
    "no driver": (with_machine(cards=Cards(("NVIDIA",))), "no_gpu_driver"),
    "torch for CPUs": (with_machine(cards=Cards(("AMD",), {"AMD": "6"})), "torch_without_gpu"),
    "a GPU that is hidden": (with_machine(cards=replace(MACHINE.cards, usable=0)), "gpu_out_of_reach"),
    "swap in use": (with_machine(memory=replace(MACHINE.memory, swap_used=3 * GIB)), "swap"),
    "swap at work": (with_machine(memory=replace(MACHINE.memory, swapped_in=5e7)), "swap"),
    "no memory": (with_machine(memory=replace(MACHINE.memory, available=GIB // 2)), "no_memory"),
    "nobody there": (replace(HEALTHY, network=Network(problem="no initial peer answers")), "no_peer"),
    "no chain": (with_chain(problem="no connection"), "no_chain"),
    "no file of contracts": (with_chain(no_deployment="cannot read it", expected_id=None), "no_deployment"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_each_fault_is_named_alone_and_with_what_to_do(fault: str) -> None:
    readings, name = FAULTS[fault]
    found = findings(readings)
    assert [each.name for each in found] == [name]
    assert found[0].what and found[0].do


@pytest.mark.parametrize(
    "readings",
    [
        HEALTHY,
        Readings(MACHINE),
        with_machine(cards=Cards()),
        with_machine(memory=replace(MACHINE.memory, swap_used=GIB)),
        with_network(answers={}),
        with_network(answers={"a": KnockAnswer(("127.0.0.1",), (Knocked(HERE, "elsewhere"),))}),
        with_network(announced=(THERE,), answers={"a": KnockAnswer((), (Knocked(THERE, "elsewhere"),))}),
        replace(heard("closed"), network=replace(heard("closed").network or NETWORK, relays=("a relay",))),
        with_network(clocks={}),
        with_network(versions={}),
        with_chain(head_age=9000.0, on_demand=True),
    ],
)
def test_nothing_is_named_where_nothing_is_wrong_or_nobody_can_tell(readings: Readings) -> None:
    assert findings(readings) == []


def named(machine: Machine) -> list[str]:
    return [each.name for each in findings(Readings(machine))]


def test_a_disk_without_room_is_found_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as folder:
        fill(folder)
        full = read_disk("state", folder / "not" / "made" / "yet")
    assert full.free == 0 and full.problem == "No space left on device"
    assert named(replace(MACHINE, disks=(full,))) == ["full_disk"]


def test_a_disk_that_takes_no_byte_is_found_full_whatever_it_says(tmp_path: Path) -> None:
    with no_room():
        full = read_disk("models", tmp_path)
    assert full.free
    assert full.problem is not None
    assert named(replace(MACHINE, disks=(full,))) == ["full_disk"]
    assert read_disk("models", tmp_path).problem is None


def test_a_path_without_a_compiler_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NativeUnavailable):
        find_compiler()


def test_memory_in_swap_is_read_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_memory()
    assert before.total > before.available > 0
    lines = ["MemTotal: 8388608 kB", "MemFree: 4194304 kB", "MemAvailable: 4194304 kB"]
    lines += ["SwapTotal: 4194304 kB", "SwapFree: 1048576 kB", "Buffers: 0 kB", "Cached: 0 kB", "Active: 0 kB"]
    (tmp_path / "meminfo").write_text("\n".join([*lines, "Inactive: 0 kB", "Shmem: 0 kB", "Slab: 0 kB"]))
    (tmp_path / "vmstat").write_text("pswpin 5\npswpout 900\n")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    memory = read_memory()
    assert (memory.swap_total, memory.swap_used, memory.swapped_in) == (4 * GIB, 3 * GIB, 0)
    assert named(replace(MACHINE, memory=memory)) == ["swap"]


def bus(root: Path) -> Callable[[str, str, str], None]:
    """Puts a device on the PCI bus of a file system in `root`."""

    def add(address: str, vendor: str, kind: str) -> None:
        device = root / "sys/bus/pci/devices" / address
        device.mkdir(parents=True)
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text(kind + "\n")

    return add


def test_a_card_on_the_bus_without_its_driver_is_found(tmp_path: Path) -> None:
    add = bus(tmp_path)
    add("0000:00:01.0", "0x8086", "0x030000")
    add("0000:00:02.0", "0x10de", "0x040300")  # the sound of a GPU
    assert read_cards(0, None, tmp_path) == Cards()
    add("0000:00:02.1", "0x10de", "0x030200")
    cards = read_cards(0, "CUDA 12.8", tmp_path)
    assert cards == Cards(("NVIDIA",), {}, 0, "CUDA 12.8")
    assert named(replace(MACHINE, cards=cards)) == ["no_gpu_driver"]
    driver = tmp_path / "proc/driver/nvidia/version"
    driver.parent.mkdir(parents=True)
    driver.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n")
    assert read_cards(1, "CUDA 12.8", tmp_path).driver == {"NVIDIA": "570.86.15"}
    add("0000:00:03.0", "0x1002", "0x120000")
    (tmp_path / "sys/module/amdgpu").mkdir(parents=True)
    assert read_cards(0, None, tmp_path).driver["AMD"] == "amdgpu"


async def test_a_chain_is_found_right_of_another_id_and_gone(tmp_path: Path) -> None:
    file = tmp_path / "deployment.json"
    async with embedded(port=0) as right, embedded(port=0, chain_id=4242) as other:
        right.deployment.save(file)
        url = right.url
        healthy = await read_chain(url, file)
        assert findings(Readings(MACHINE, chain=healthy)) == []
        assert healthy.expected_id == healthy.chain_id == right.deployment.chain_id
        wrong = await read_chain(other.url, file)
        assert [each.name for each in findings(Readings(MACHINE, chain=wrong))] == ["wrong_chain"]
        fileless = await read_chain(url, tmp_path / "none.json")
        assert [each.name for each in findings(Readings(MACHINE, chain=fileless))] == ["no_deployment"]
        right.deployment.save(file)
    gone = await read_chain(url, file)
    assert [each.name for each in findings(Readings(MACHINE, chain=gone))] == ["no_chain"]
    async with embedded(port=0) as anew:
        restarted = await read_chain(anew.url, file)
    assert [each.name for each in findings(Readings(MACHINE, chain=restarted))] == ["wrong_chain"]


def test_the_command_answers_help_without_torch() -> None:
    code = "import sys, mesh.cli.main; sys.exit(any(name in sys.modules for name in ('torch', 'hivemind', 'web3')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
