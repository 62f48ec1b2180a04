"""A provider's and a relay's /metrics, which docs/operations.md lists by name."""

from __future__ import annotations

from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.scenarios.processes import LOOPBACK, MeshProcess, World

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def scraped(process: MeshProcess) -> dict[str, float]:
    """Every sample without labels, and those with labels by their name alone where they are 1."""
    answer = httpx.get(process.event("metrics")["url"])
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    samples = [sample for family in families for sample in family.samples]
    return {sample.name: sample.value for sample in samples if not sample.labels or sample.value == 1}


def test_a_providers_and_a_relays_figures_have_the_names_that_are_documented(world: World, checkpoint: Path) -> None:
    relay = world.start("relay", "--host-maddrs", LOOPBACK, "--metrics-port", "0", "--json")
    peers = relay.event("relaying")["maddrs"][0]
    provider = world.join(checkpoint, "--blocks", "0:5", "--metrics-port", "0", peers=peers)
    model = provider.event("serving")["model"]
    world.succeed("generate", "--peers", peers, "--model", model, "--max-tokens", "8", "a span")

    figures = scraped(provider)
    assert (figures["mesh_provider_blocks"], figures["mesh_provider_model_blocks"]) == (5, 5)
    assert figures["mesh_provider_tokens_total"] >= 8
    assert figures["mesh_provider_busy_seconds_total"] > 0
    assert figures["mesh_provider_cache_free_tokens"] > 0
    passed = scraped(relay)
    assert (passed["mesh_relay_reservations"], passed["mesh_relay_reservations_limit"]) == (0, 128)

    documented = OPERATIONS.read_text()
    names = {name for name in (*figures, *passed) if name.startswith("mesh_")}
    assert len(names) > 15
    assert {name for name in names if f"`{name}`" not in documented} == set()
