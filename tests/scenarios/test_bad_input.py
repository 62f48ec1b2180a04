"""What people do wrong on the command line: one clear line, an exit code, and a swarm that goes on serving."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.processes import LOOPBACK, Finished, Swarm, World, start_stages

EXIT_ERROR, EXIT_USAGE = 1, 2


@pytest.fixture(scope="module", autouse=True)
def still_serving(swarm: Swarm) -> Iterator[None]:
    """Whatever was asked of it in this file, the swarm serves the next request."""
    yield
    done = swarm.world.run("generate", "def add", "--model", swarm.model, "--peers", swarm.address, "-n", "4", "--json")
    assert done.code == 0 and json.loads(done.stdout)["completion_tokens"] > 0
    assert all(provider.running for provider in swarm.providers)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def model_copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def refused(done: Finished, *words: str, code: int = EXIT_ERROR, seconds: float = 30.0) -> None:
    """It ended with `code` and one line that holds `words`, and said nothing else."""
    lines = done.stderr.strip().splitlines()
    assert done.code == code, done
    assert "Traceback" not in done.stderr
    if code == EXIT_USAGE:
        assert lines[0].startswith("Usage: "), done.stderr
        lines = lines[-1:]
    (line,) = lines
    assert line.lower().startswith("error:")
    for word in words:
        assert word in line, f"no {word!r} in {line}"
    assert done.seconds < seconds


def generate(swarm: Swarm, *arguments: str, stdin: bytes | None = None) -> Finished:
    return swarm.world.run("generate", "--peers", swarm.address, *arguments, stdin=stdin)


def join(world: World, model: Path | str, *arguments: str) -> Finished:
    return world.run("join", "--model", str(model), "--host-maddrs", LOOPBACK, "--log-level", "error", *arguments)


# Requests that cannot be served.


def test_an_unknown_model(swarm: Swarm):
    refused(generate(swarm, "hello", "--model", "gpt-17"), "no provider serves a model named 'gpt-17'", "mesh status")


def test_a_prompt_that_is_longer_than_the_context(swarm: Swarm):
    done = generate(swarm, "-", "--model", swarm.model, "-n", "1", stdin=b"xyz " * 600)
    refused(done, "over the model's context of 512")


def test_a_prompt_argument_that_is_not_utf_8(swarm: Swarm):
    refused(generate(swarm, "caf\udce9", "--model", swarm.model), "the prompt is not UTF-8")


def test_a_prompt_on_standard_input_that_is_not_utf_8(swarm: Swarm):
    done = generate(swarm, "-", "--model", swarm.model, stdin=b"caf\xe9 au lait")
    refused(done, "the prompt on standard input is not UTF-8")


def test_an_empty_prompt(swarm: Swarm):
    refused(generate(swarm, "-", "--model", swarm.model, stdin=b""), "the prompt is empty")


@pytest.mark.parametrize("count", ["0", "-5"])
def test_no_tokens_to_generate(swarm: Swarm, count: str):
    refused(generate(swarm, "hello", "--model", swarm.model, f"--max-tokens={count}"), f"at least 1, got {count}")


def test_sampling_parameters_out_of_range(swarm: Swarm):
    refused(generate(swarm, "hello", "--model", swarm.model, "--temperature=-1"), "temperature")
    refused(generate(swarm, "hello", "--model", swarm.model, "--top-p=1.5"), "top_p")


def test_a_gap_in_the_blocks(swarm: Swarm, world: World, checkpoint: Path):
    start_stages(world, checkpoint, ["0:2", "3:5"], "--name", "gappy", peers=swarm.address).wait_serving()
    refused(generate(swarm, "hello", "--model", "gappy"), "blocks 2:3 of 5 are not served by anybody right now")


# Ways into the swarm that lead nowhere.


@pytest.mark.parametrize("command", [("generate", "hello"), ("chat",), ("status",), ("gateway", "--port", "0")])
def test_peers_that_nobody_listens_at(swarm: Swarm, world: World, unused_tcp_port: int, command: tuple[str, ...]):
    nobody = f"/ip4/127.0.0.1/tcp/{unused_tcp_port}/p2p/{swarm.peer(0)}"
    refused(world.run(*command, "--peers", nobody), "none of the initial peers could be reached", nobody, seconds=20)


def test_a_provider_whose_peers_are_unreachable(swarm: Swarm, world: World, checkpoint: Path, unused_tcp_port: int):
    nobody = f"/ip4/127.0.0.1/tcp/{unused_tcp_port}/p2p/{swarm.peer(0)}"
    refused(join(world, checkpoint, "--peers", nobody), "none of the initial peers could be reached", seconds=20)


def test_an_address_that_is_another_peers(swarm: Swarm, world: World):
    maddr, _, _ = swarm.address.partition("/p2p/")
    wrong = f"{maddr}/p2p/{swarm.peer(1)}"
    refused(world.run("status", "--peers", wrong), "none of the initial peers could be reached", seconds=20)


@pytest.mark.parametrize("peer", ["example.org:31330", "/ip4/127.0.0.1/tcp/31330", "/ip4/127.0.0.1/tcp/1/p2p/Qm"])
def test_peers_that_are_no_addresses(world: World, peer: str):
    refused(world.run("status", "--peers", peer), peer)


def test_no_peers_at_all(world: World):
    refused(world.run("generate", "hello"), "--peers", "mesh join", code=EXIT_USAGE)


# Providers that cannot start.


def test_a_model_that_does_not_exist(world: World, tmp_path: Path):
    refused(join(world, tmp_path / "nothing"), "nothing", "is not a folder")
    refused(join(world, "no-such-model"), "'no-such-model' is not a folder, not a GGUF file, not a model that ships")
    refused(world.run("demo", "--model", str(tmp_path / "nothing")), "is not a folder")


def test_a_corrupt_checkpoint(world: World, model_copy: Path):
    weights = model_copy / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    refused(join(world, model_copy, "--blocks", "0:5"), "model.safetensors")
    weights.write_bytes(b"\xff" * 8 + data[8:])
    refused(join(world, model_copy, "--blocks", "0:5"), "model.safetensors")
    weights.unlink()
    refused(join(world, model_copy, "--blocks", "0:5"), "model.safetensors")


def test_weights_that_cannot_be_quantised(world: World, checkpoint: Path):
    refused(join(world, checkpoint, "--quantize", "int3"), "int3", "int4", code=EXIT_USAGE)
    refused(join(world, checkpoint, "--quantize", "int4"), "hidden_size is 48", "leave it out")
    refused(join(world, checkpoint, "--quantize", "int8", "--plan"), "hidden_size is 48", "leave it out")


def test_a_broken_config(world: World, model_copy: Path):
    (model_copy / "config.json").write_text("{")
    refused(join(world, model_copy), "config.json")
    (model_copy / "config.json").unlink()
    refused(join(world, model_copy), "config.json")


def test_a_wrong_tokenizer(world: World, model_copy: Path):
    path = model_copy / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    path.write_text(path.read_text()[:-100])
    refused(join(world, model_copy), "tokenizer.json")
    for index in range(len(tokenizer["model"]["vocab"]), 400):
        tokenizer["model"]["vocab"][f"more{index}"] = index
    path.write_text(json.dumps(tokenizer))
    refused(join(world, model_copy), "wrong tokenizer", "399", "300")
    path.unlink()
    refused(join(world, model_copy), "has no tokenizer.json")


def test_a_port_in_use(swarm: Swarm, world: World, checkpoint: Path, taken_port: int):
    maddr = f"/ip4/127.0.0.1/tcp/{taken_port}"
    done = world.run("join", "--model", str(checkpoint), "--host-maddrs", maddr)
    refused(done, f"port {taken_port} is already in use")
    done = world.run("gateway", "--peers", swarm.address, "--port", str(taken_port))
    refused(done, f"port {taken_port} is already in use", "--port")


def test_an_address_to_listen_on_that_is_none(world: World, checkpoint: Path):
    refused(world.run("join", "--model", str(checkpoint), "--host-maddrs", "0.0.0.0:31330"), "0.0.0.0:31330")


@pytest.mark.parametrize("blocks", ["3", "a:b", "2:2", "4:1", "-1:2", "0:2:4", ""])
def test_malformed_blocks(world: World, checkpoint: Path, blocks: str):
    refused(join(world, checkpoint, f"--blocks={blocks}"), "--blocks", code=EXIT_USAGE)


def test_blocks_outside_the_model(world: World, checkpoint: Path):
    refused(join(world, checkpoint, "--blocks", "3:9"), "--blocks 3:9 is outside the model, which has blocks 0:5")


def test_a_device_or_dtype_that_does_not_exist(world: World, checkpoint: Path):
    refused(join(world, checkpoint, "--device", "abacus"), "--device 'abacus' is not a torch device")
    refused(join(world, checkpoint, "--device", "cuda"), "CUDA", "--device cpu")
    refused(join(world, checkpoint, "--device", "mps"), "--device")
    refused(join(world, checkpoint, "--device", "meta"), "--device")
    refused(join(world, checkpoint, "--dtype", "int8"), "'int8' is no compute dtype")


@pytest.mark.parametrize("size", ["much", "0", "-1GiB", "inf", "nan", "1TB2"])
def test_a_cache_size_that_is_none(world: World, checkpoint: Path, size: str):
    refused(join(world, checkpoint, f"--kv-cache={size}"), "a size", code=EXIT_USAGE)


def test_an_identity_that_cannot_be_used(world: World, checkpoint: Path, tmp_path: Path):
    key = tmp_path / "node.key"
    running = world.join(checkpoint, "--blocks", "0:1", "--identity", str(key))
    running.event("joined")
    refused(join(world, checkpoint, "--identity", str(key)), f"{key} is the identity of a node that is running")
    assert running.stop() == 0
    key.chmod(0o640)
    refused(join(world, checkpoint, "--identity", str(key)), str(key), "can be read by others", "chmod 600")
    key.chmod(0o600)
    key.write_bytes(b"not a key")
    refused(join(world, checkpoint, "--identity", str(key)), str(key), "corrupt")
    refused(join(world, checkpoint, "--identity", str(tmp_path)), str(tmp_path))


def test_api_keys_that_cannot_be_read(swarm: Swarm, world: World, tmp_path: Path):
    arguments = ["gateway", "--peers", swarm.address, "--port", "0", "--api-keys"]
    refused(world.run(*arguments, str(tmp_path / "keys")), "cannot read the API keys")
    (tmp_path / "keys").write_text("\n")
    refused(world.run(*arguments, str(tmp_path / "keys")), "holds no key", code=EXIT_USAGE)


def test_options_out_of_range(world: World, checkpoint: Path):
    refused(join(world, checkpoint, "--max-blocks", "0"), "--max-blocks", code=EXIT_USAGE)
    refused(join(world, checkpoint, "--threads", "0"), "--threads", code=EXIT_USAGE)
    refused(world.run("gateway", "--port", "70000"), "--port", code=EXIT_USAGE)
    refused(world.run("status", "--log-level", "loud"), "unknown log level 'loud'", code=EXIT_USAGE)
    refused(world.run("demo", "--max-tokens", "0"), "--max-tokens", code=EXIT_USAGE)


def test_a_name_that_records_cannot_carry_is_refused_before_anything_else(
    world: World, checkpoint: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "my model"))
    refused = world.run("join", "--model", str(folder), "--blocks", "0:5", "--json")
    assert refused.code == 1
    assert "'my model' cannot be announced as a model's name" in refused.stderr
    assert "--name" in refused.stderr
    assert refused.stdout == ""
