"""A gateway's peer id in what it registered on the chain: anybody may write anything there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.identity import Identity
from mesh.payment.sla.known_gateways import peer_of


def test_a_gateway_that_registered_its_peer_is_found() -> None:
    peer = Identity.generate().peer_id
    assert peer_of(json.dumps({"url": f"p2p:{peer}"})) == peer


@pytest.mark.parametrize("metadata", ["", "{}", "[]", '{"url": 3}', '{"url": "https://x"}', '{"url": "p2p:../../x"}'])
def test_metadata_without_a_peer_names_none(metadata: str) -> None:
    assert peer_of(metadata) is None


@given(st.text())
def test_any_text_is_read_without_an_error(metadata: str) -> None:
    peer_of(metadata)
