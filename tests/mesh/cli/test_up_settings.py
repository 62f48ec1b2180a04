"""`mesh.toml` with the environment and the command line over it: who wins, where it is from, and what is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mesh.cli.up.schema import NODE, ROLES, SHARED, keys_of
from mesh.cli.up.settings import NodeSettings, Said, read_file, settle
from mesh.cli.up.text import commented, shown
from mesh.errors import ConfigError

FILE = Path("/etc/mesh/mesh.toml")
WHOLE = """
[node]
peers = ["/ip4/192.0.2.1/tcp/4001/p2p/a"]
wallet = "alice.json"
chain_poll = 3

[[provider]]
model = "tiny-python"

[[provider]]
label = "second"
model = ["tiny-python"]
blocks = "0:4"
wallet = "/wallets/bob.json"
rebalance = false

[gateway]
port = 8000

[relay]
"""


def settled(
    text: str, environment: Mapping[str, str] | None = None, sets: Sequence[str] = (), **options: str
) -> dict[str, NodeSettings]:
    nodes = settle(tomllib.loads(text), FILE, Said(options, sets, environment or {}))
    return {node.label: node for node in nodes}


def test_a_node_is_its_relay_its_providers_and_its_gateway_in_that_order() -> None:
    nodes = settled(WHOLE)
    assert list(nodes) == ["relay", "provider-tiny-python", "second", "gateway"]
    first, second = nodes["provider-tiny-python"], nodes["second"]
    assert first.arguments() == [
        *("--model", "tiny-python", "--wallet", "/etc/mesh/alice.json", "--chain-poll", "3.0"),
    ]
    assert second.get("wallet") == "/wallets/bob.json"
    assert {"--no-rebalance", "--blocks"} <= set(second.arguments())
    assert nodes["gateway"].get("peers") == ["/ip4/192.0.2.1/tcp/4001/p2p/a"]
    assert "wallet" not in nodes["relay"].values


def test_the_command_line_goes_before_the_environment_and_that_before_the_file() -> None:
    variables = {"MESH_GATEWAY_PORT": "8001", "MESH_WALLET": "theirs.json", "MESH_PEERS": "a,b"}
    nodes = settled(WHOLE, variables, ["gateway.port=8002"], peers="c")
    values = nodes["gateway"].values
    assert (values["port"].value, values["port"].source) == (8002, "--set gateway.port")
    assert (values["wallet"].value, values["wallet"].source) == ("theirs.json", "MESH_WALLET")
    assert (values["peers"].value, values["peers"].source) == (["c"], "--peers")
    assert settled(WHOLE, variables)["gateway"].values["port"].source == "MESH_GATEWAY_PORT"
    assert settled(WHOLE, variables)["gateway"].get("peers") == ["a", "b"]
    assert nodes["second"].values["wallet"].source == "mesh.toml", "what is said of one goes before what is said of all"
    assert nodes["gateway"].values["chain_poll"].source == "mesh.toml [node]"
    assert settled(WHOLE, {"MESH_IDENTITY": "one.key"})["gateway"].get("identity") is None, "it would be everybody's"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gatway]", "no section 'gatway' (did you mean gateway?)"),
        ("[gateway]\nprot = 1", "[gateway] has no key 'prot' (did you mean port?)"),
        ("[gateway]\nhost-maddrs = []", "(did you mean host_maddrs?)"),
        ("[[provider]]\nmodle = 'x'", "(did you mean model?)"),
        ("[node]\nport = 1", "[node] has no key 'port'"),
        ("[gateway]\nport = '8000'", "gateway.port is a whole number, got '8000'"),
        ("[gateway]\nport = 70000", "gateway.port is from 0 to 65535, got 70000"),
        ("[gateway]\nport = true", "gateway.port is a whole number"),
        ("[gateway]\ndashboard = 1", "gateway.dashboard is true or false"),
        ("[gateway]\ntransport = 'libp2q'", "(did you mean libp2p?)"),
        ("[gateway]\nhost = ''", "gateway.host is a text"),
        ("[[provider]]\nmodel = [1]", "provider.model is a text, or a list of such"),
        ("[[provider]]", "a provider needs a model"),
        ("[[provider]]\nmodel = 'x'\nlabel = 'gateway'", "provider.label is"),
        ("[[provider]]\nmodel = 'x'\nlabel = '../x'", "provider.label is"),
        ("provider = 3", "provider is a section"),
        ("gateway = [{}]", "gateway is a section"),
        ("[gateway]", "a gateway alone needs peers"),
        ("[node]", "starts nothing"),
        ("", "starts nothing"),
        ("[[provider]]\nmodel = 'x'\nrpc = 'http://127.0.0.1:1'", "no wallet is named"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settled(text)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "sets", "says"),
    [
        ({"MESH_GATEWAY_PROT": "1"}, [], "MESH_GATEWAY_PROT"),
        ({"MESH_GATEWAY_PORT": "x"}, [], "MESH_GATEWAY_PORT is a whole number"),
        ({"MESH_GATEWAY_DASHBOARD": "maybe"}, [], "true or false"),
        ({}, ["gateway.prot=1"], "did you mean port?"),
        ({}, ["gatway.port=1"], "did you mean gateway?"),
        ({}, ["port=1"], "SECTION.KEY=VALUE"),
        ({}, ["gateway.port"], "SECTION.KEY=VALUE"),
    ],
)
def test_so_is_what_is_said_beside_the_file(variables: dict[str, str], sets: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settled(WHOLE, variables, sets)
    assert says in str(refused.value)


def test_a_chain_that_all_are_told_of_is_for_those_with_a_wallet() -> None:
    text = "[node]\nrpc = 'http://127.0.0.1:1'\n[[provider]]\nmodel = 'x'\nwallet = 'a.json'\n[gateway]\n"
    nodes = settled(text, {"MESH_RPC": "http://127.0.0.1:2"})
    assert nodes["provider-x"].get("rpc") == "http://127.0.0.1:2"
    assert nodes["gateway"].get("rpc") is None


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mesh config init"):
        read_file(tmp_path / "mesh.toml")
    for data in (b"x = ", b"\xff", b"a = " + b"[" * 100_000, b"#" * (2 << 20)):
        (tmp_path / "mesh.toml").write_bytes(data)
        with pytest.raises(ConfigError, match=r"mesh\.toml"):
            read_file(tmp_path / "mesh.toml")


def test_the_file_that_init_writes_runs_as_it_is_and_explains_every_key() -> None:
    text = commented()
    assert list(settled(text)) == ["provider-tiny-python", "gateway"]
    for section in (NODE, *ROLES):
        for name in keys_of(section):
            assert f"\n{name} = " in text or f"\n# {name} = " in text, name


def test_with_every_default_switched_on_the_file_means_the_same() -> None:
    lines = commented().partition("# [relay]")[0].splitlines()
    switched = "\n".join(
        line[2:] if line.startswith("# ") and " = " in line and not line.endswith((' = ""', " = []", " = ")) else line
        for line in lines
        if not line.startswith(("# Over", "# `mesh", "# What"))
    )
    defaults = settled(switched)["gateway"]
    assert defaults.get("host") == "127.0.0.1"
    assert defaults.get("request_timeout") == 600


def test_what_is_shown_is_a_file_that_means_the_same() -> None:
    before = settled(WHOLE, {"MESH_GATEWAY_PORT": "8001"})
    text = shown(list(before.values()))
    assert "port = 8001  # MESH_GATEWAY_PORT" in text
    after = settled(text)

    def plain(nodes: dict[str, NodeSettings]) -> dict[str, Any]:
        return {label: {key: each.value for key, each in node.values.items()} for label, node in nodes.items()}

    assert plain(after) == plain(before)
    assert "# request_timeout = 600" in shown(list(before.values()), with_defaults=True)


def test_every_key_that_all_may_share_is_an_option_of_some() -> None:
    assert set(SHARED) == set(keys_of(NODE))
    for role in ROLES:
        flags = [key.flag for key in keys_of(role).values()]
        assert len(flags) == len(set(flags)) > 5
        assert all(key.help for key in keys_of(role).values())
