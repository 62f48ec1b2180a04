"""Every test of transports runs on every pair of them."""

from __future__ import annotations

import pytest

from tests.conformance.transports import (
    Pair,
    beating_pair,
    choosing_pair,
    direct_pair,
    hivemind_pair,
    hivemind_to_libp2p,
    libp2p_pair,
    libp2p_to_hivemind,
    memory_pair,
)


@pytest.fixture(
    params=[
        memory_pair,
        hivemind_pair,
        direct_pair,
        choosing_pair,
        beating_pair,
        libp2p_pair,
        libp2p_to_hivemind,
        hivemind_to_libp2p,
    ],
    ids=["memory", "hivemind", "direct", "choosing", "heartbeat", "libp2p", "libp2p-to-hivemind", "hivemind-to-libp2p"],
)
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.param  # type: ignore[no-any-return]
