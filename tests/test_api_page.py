"""docs/api.md names what there is: every public name, every option, every route and every code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mesh
from mesh.client.client import Options
from mesh.gateway.app import create_app
from mesh.gateway.config import GatewayConfig
from tests.mesh.gateway.echo_backend import EchoBackend

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text()
NOT_NAMED = {"Completion", "HopReport", "Options", "PaymentRefused", "TokenLogprob"}
"""What the words completion, route, option, payer and logprobs of the tables are in the code."""


def test_every_public_name_and_option_is_on_the_page() -> None:
    words = set(re.findall(r"\w+", PAGE))
    assert set(mesh.__all__) - NOT_NAMED <= words
    assert set(Options.__annotations__) <= words


@pytest.mark.filterwarnings("ignore:Duplicate Operation ID")  # GET and HEAD of one route
def test_every_route_of_a_gateway_is_on_the_page() -> None:
    app = create_app(EchoBackend({}), GatewayConfig())
    paths = set(app.openapi()["paths"])
    assert "/v1/chat/completions" in paths
    said = set(re.findall(r"/[\w/]+", PAGE))
    for path in paths:
        plain = re.sub(r"/?\{[^}]*\}", "", path)
        assert any(each.rstrip("/").startswith(plain) for each in said), path


def test_every_code_of_an_error_is_on_the_page() -> None:
    source = (ROOT / "mesh/gateway/errors.py").read_text()
    codes = set(re.findall(r'code="(\w+)"', source))
    assert len(codes) > 10
    assert not {code for code in codes if f"`{code}`" not in PAGE}
