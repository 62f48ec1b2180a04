"""Service levels: measured, signed, read from strangers, and judged by a quorum."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.primitives import key_of
from chain.vouchers import Domain, SlaReport
from chain.wallet import Account
from mesh.errors import ProtocolViolation
from mesh.payment.sla.reports import (
    KEPT_EPOCHS,
    LEAST_OBSERVATIONS,
    MAX_SAMPLES,
    Served,
    SignedReport,
    SlaBook,
    percentile,
    read_reports,
    shows_miss,
    sign_reports,
)

DOMAIN = Domain(31337, bytes(range(20)))
ACCOUNT = Account(bytes(31) + b"\x07")
RECEIPT = bytes(range(65))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_the_95th_percentile_is_the_smallest_sample_that_95_in_100_do_not_exceed(samples: list[float]) -> None:
    found = percentile(samples, 95)
    assert found in samples
    assert 100 * sum(each <= found for each in samples) >= 95 * len(samples)
    assert 100 * sum(each < found for each in samples) < 95 * len(samples)


def test_uptime_is_the_share_that_was_answered_and_latency_is_rounded_up() -> None:
    book = SlaBook()
    for latency in (10.0, 10.2, 9.0):
        book.observe("p", 3, True, latency)
    for _ in range(4):
        book.observe("p", 3, False)
    measured = book.measured(3)["p"]
    assert (measured.uptime_bps, measured.latency_ms, measured.observations) == (3 * 10_000 // 7, 11, 7)


def test_who_was_hardly_seen_is_not_reported() -> None:
    book = SlaBook()
    for number in range(LEAST_OBSERVATIONS):
        assert not book.measured(1)
        book.observe("p", 1, number > 0, math.nan)
    assert set(book.measured(1)) == {"p"}


def test_a_book_forgets_old_epochs_and_keeps_a_bounded_sample_of_many() -> None:
    book = SlaBook()
    book.observe("p", 1, True, 5.0)
    for number in range(10 * MAX_SAMPLES):
        book.observe("p", 2 + KEPT_EPOCHS, True, float(number % 100))
    assert not book.measured(1)
    measured = book.measured(2 + KEPT_EPOCHS)["p"]
    assert measured.observations == 10 * MAX_SAMPLES and 90 <= measured.latency_ms <= 99


def reports(epoch: int = 4, gateway: str = "g", account: Account = ACCOUNT, failures: int = 5) -> bytes:
    book = SlaBook()
    for number in range(10):
        book.observe("p", epoch, number >= failures, 20.0, request=number % 2 == 0)
        book.observe("q", epoch, True, 30.0)
    receipts = {"p": (400, RECEIPT)}
    return sign_reports(gateway, epoch, book.measured(epoch), DOMAIN, account.sign_digest, receipts)


def read(body: bytes, **changes: object) -> list[SignedReport]:
    wanted = {"gateway": "g", "epoch": 4, "domain": DOMAIN, "signer": ACCOUNT.canonical} | changes
    return read_reports(body, **wanted)  # type: ignore[arg-type]


def test_signed_reports_are_read_back() -> None:
    found = {each.provider: each.report for each in read(reports())}
    assert found["p"] == SlaReport(key_of("g"), key_of("p"), 4, 5, 5000, 20)
    assert found["q"] == SlaReport(key_of("g"), key_of("q"), 4, 0, 10_000, 30)
    receipts = {each.provider: (each.receipt_units, each.receipt_signature) for each in read(reports())}
    assert receipts == {"p": (400, RECEIPT), "q": (0, b"")}


def test_reports_of_another_signer_gateway_epoch_or_deployment_are_refused() -> None:
    with pytest.raises(ProtocolViolation, match="not signed"):
        read(reports(account=Account(bytes(31) + b"\x08")))
    with pytest.raises(ProtocolViolation, match="not signed"):
        read(reports(), domain=Domain(1, bytes(range(20))))
    with pytest.raises(ProtocolViolation, match="other reports"):
        read(reports(gateway="h"))
    with pytest.raises(ProtocolViolation, match="other reports"):
        read(reports(epoch=5))


def test_a_report_that_was_changed_is_refused() -> None:
    value = json.loads(reports())
    value["reports"][0]["uptime_bps"] = 1
    with pytest.raises(ProtocolViolation, match="not signed"):
        read(json.dumps(value).encode())


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["version", "gateway", "epoch", "reports", "provider", "uptime_bps", "signature"]),
                inner,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_a_stranger_sends_as_reports_is_refused_cleanly(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        read(body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("uptime_bps", value) for value in (10_001, -1, True, "1", None)),
        *(("latency_ms", value) for value in (2**32, -1, 1.5)),
        *(("requests", value) for value in (2**32, -1, "5", None)),
        *(("provider", value) for value in ("", "p" * 65, 3)),
        *(("receipt_units", value) for value in (400, "-1", "1" * 31, "٣", "", None)),
        *(("receipt", value) for value in ("00" * 66, "zz", 3, None)),
        ("signature", "zz"),
    ],
)
def test_a_report_with_a_value_out_of_bounds_is_refused(name: str, value: object) -> None:
    document = json.loads(reports())
    read(json.dumps(document).encode())
    document["reports"][0][name] = value
    with pytest.raises(ProtocolViolation):
        read(json.dumps(document).encode())


def report(gateway: str, uptime: int, latency: int = 10, *, requests: int = 5, receipt: int = 100) -> SignedReport:
    return SignedReport("p", SlaReport(key_of(gateway), key_of("p"), 4, requests, uptime, latency), b"", receipt)


def judged(reports: list[SignedReport], *served: tuple[str, int, int], quorum: int = 3) -> int:
    """How many reports decide; `served` are gateways with units and stake."""
    worked = [Served(key_of(gateway), units, stake) for gateway, units, stake in served]
    return len(shows_miss(reports, worked, uptime_bps=9000, latency_ms=100, quorum=quorum))


THREE = [(each, 100, 10) for each in "abc"]


def test_a_miss_needs_more_than_half_of_those_served_by_stake_and_by_work() -> None:
    bad, slow = [report(each, 8999) for each in "abc"], report("c", 9000, 101)
    assert judged(bad, *THREE) == 3
    assert judged([bad[0], bad[1], report("c", 9000, 100)], *THREE) == 2  # only those that miss are shown
    assert judged([bad[0], slow], *THREE) == 2
    assert judged(bad[:1], *THREE) == 0
    assert judged(bad[:2], *THREE, ("d", 100, 10)) == 0  # half is not enough
    assert judged(bad[:2], ("a", 100, 10), ("b", 100, 10), ("c", 100, 20)) == 0  # nor half of the stake
    assert judged(bad[:2], ("a", 100, 10), ("b", 100, 10), ("c", 201, 10)) == 0  # nor of the work
    assert judged([bad[0]] * 3, *THREE) == 0  # one gateway has one voice


def test_many_gateways_that_were_hardly_served_decide_nothing() -> None:
    crowd = [f"g{number}" for number in range(20)]
    little = [(name, 1, 1) for name in crowd]
    assert judged([report(name, 0) for name in crowd], ("honest", 10_000, 1000), *little) == 0


def test_who_was_not_served_or_has_no_receipt_or_only_pings_accuses_nobody() -> None:
    strangers = [report(each, 0) for each in "xyz"]
    assert judged(strangers, *THREE) == 0
    assert judged([report(each, 0, receipt=0) for each in "abc"], *THREE) == 0
    assert judged([report(each, 0, requests=4) for each in "abc"], *THREE) == 0
    assert judged([report(each, 0, receipt=40) for each in "abc"], *THREE) == 0  # acknowledged: 120 of 300 units


def test_fewer_gateways_than_a_quorum_decide_nothing() -> None:
    assert judged([report(each, 0) for each in "ab"], ("a", 100, 10), ("b", 100, 10)) == 0
    assert judged([report(each, 0) for each in "ab"], ("a", 100, 10), ("b", 100, 10), quorum=2) == 2


def test_reports_are_shown_in_the_chain_s_order() -> None:
    served = [Served(key_of(each), 100, 10) for each in "xyzab"]
    shown = shows_miss([report(each, 0) for each in "xyzab"], served, uptime_bps=9000, latency_ms=100, quorum=3)
    keys = [each.report.gateway for each in shown]
    assert keys == sorted(keys) and len(keys) == 5
