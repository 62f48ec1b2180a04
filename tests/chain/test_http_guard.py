"""Which HTTP requests an endpoint on one's own machine lets in."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.http_guard import ANY, Allowed, host_of, refusal

JSON = ("content-type", "application/json")


def asked(*rows: tuple[str, str], method: str = "POST", allowed: Allowed | None = None, checks: bool = True) -> int:
    """The status with which a request with these headers is refused; 0 when it may pass."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in rows]
    why = refusal(method, headers, allowed or Allowed(), checks_callers=checks)
    return 0 if why is None else why.status


names = st.from_regex(r"[a-z]{1,10}(\.[a-z]{1,10}){0,3}", fullmatch=True).filter(lambda name: "localhost" not in name)
addresses = st.ip_addresses().map(lambda ip: f"[{ip}]" if ip.version == 6 else str(ip))
ports = st.one_of(st.just(""), st.integers(1, 65535).map(lambda port: f":{port}"))


@given(names, ports)
def test_a_name_that_is_not_of_this_machine_is_refused_until_it_is_allowed(name: str, port: str) -> None:
    for method in ("GET", "POST", "HEAD", "DELETE"):
        assert asked(("host", name + port), JSON, method=method) == 403
        assert asked(("host", name + port), JSON, method=method, allowed=Allowed.of([name.upper()])) == 0
        assert asked(("host", name + port), JSON, method=method, allowed=Allowed.of([ANY])) == 0
        assert asked(("host", name + port), JSON, method=method, checks=False) == 0


@given(st.one_of(addresses, st.sampled_from(["localhost", "LocalHost", "a.localhost", "localhost."])), ports)
def test_an_address_and_a_name_of_this_machine_pass(host: str, port: str) -> None:
    assert asked(("host", host + port), JSON) == 0
    assert asked(("host", host + port), method="GET") == 0


@given(st.text(max_size=20).filter(lambda text: text.isascii()))
def test_any_text_for_a_host_is_a_host_or_none_and_never_an_error(text: str) -> None:
    host = host_of(text)
    assert host is None or host == host.lower()
    status = asked(("host", text), method="GET")
    if status == 0:
        assert host is not None
        assert "localhost" in host or ipaddress.ip_address(host)


@given(names, ports, st.sampled_from(["http", "https"]))
def test_a_page_of_another_origin_may_send_nothing(name: str, port: str, scheme: str) -> None:
    origin = f"{scheme}://{name}{port}"
    assert asked(("host", "127.0.0.1:8545"), ("origin", origin), JSON) == 403
    assert asked(("host", "127.0.0.1:8545"), ("origin", origin), JSON, allowed=Allowed.of((), [origin + "/"])) == 0
    assert asked(("host", "127.0.0.1:8545"), ("origin", origin), method="GET") == 0, "what it may not read it may ask"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8545", 0),
        ("HTTP://127.0.0.1:8545", 0),
        ("http://127.0.0.1:3000", 403),
        ("http://127.0.0.1", 403),
        ("null", 403),
        ("", 403),
        ("http://127.0.0.1:8545.evil.example", 403),
        ("ftp://127.0.0.1:8545", 403),
    ],
)
def test_its_own_pages_may_send_and_no_others(origin: str, status: int) -> None:
    assert asked(("host", "127.0.0.1:8545"), ("origin", origin), JSON) == status


@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 0),
        ("Application/JSON; charset=utf-8", 0),
        ("text/plain", 415),
        ("text/plain; x=application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=application/json", 415),
        ("application/jsonp", 415),
        ("", 415),
    ],
)
def test_a_body_is_json_and_says_so(kind: str, status: int, checks: bool) -> None:
    rows = ("host", "localhost"), ("content-length", "5"), ("content-type", kind)
    assert asked(*rows, checks=checks) == status
    assert asked(*rows, JSON, checks=checks) == 415, "two types are none"
    assert asked(*rows, method="GET", checks=checks) == 0


def test_a_body_without_a_type_is_refused_and_no_body_needs_none() -> None:
    assert asked(("host", "localhost"), ("content-length", "5")) == 415
    assert asked(("host", "localhost"), ("transfer-encoding", "chunked")) == 415
    assert asked(("host", "localhost"), ("content-length", "0"), ("content-length", "5")) == 415
    assert asked(("host", "localhost"), ("content-length", "0")) == 0
    assert asked(("host", "localhost")) == 0
