"""The disk of a gateway's accounts is full: requests fail with a clear status, or wait; nothing is lost or doubled."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import openai
import pytest

from mesh.gateway.billing import BillingConfig
from mesh.payment.accounts.store import AccountStore
from tests.full_disk import no_room
from tests.mesh.gateway.paid import GATEWAY, PRICE, serving_paid

CONFIG = BillingConfig(increment_tokens=64, pause_seconds=4.0)
BUDGET = 4000 * PRICE


def test_requests_without_room_for_their_charge_are_503_with_a_retry_and_cost_nothing(tmp_path: Path) -> None:
    with serving_paid(tmp_path / "accounts.sqlite", CONFIG) as paid:
        key = paid.key()
        assert paid.pay(key, BUDGET).status_code == 200
        name = next(iter(paid.chain.prices))
        with paid.openai(key) as client:
            client.completions.create(model=name, prompt="one two", max_tokens=4)
            spent = paid.account(key)["charged"]
            with no_room():
                for stream in (False, True):
                    with pytest.raises(openai.InternalServerError) as failure:
                        list(client.completions.create(model=name, prompt="one", max_tokens=4, stream=stream))
                    assert failure.value.status_code == 503
                    assert failure.value.response.headers["retry-after"] == "5"
                    assert failure.value.code == "storage_unavailable"
                refused = paid.pay(key, BUDGET + 1)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
                account = paid.account(key)
                assert (account["charged"], account["signed"]) == (spent, str(BUDGET))
            client.completions.create(model=name, prompt="one two", max_tokens=4)
            assert paid.pay(key, BUDGET + 1).status_code == 200
            end = int(paid.account(key)["charged"])
            assert end == 2 * int(spent)
    with AccountStore(tmp_path / "accounts.sqlite", GATEWAY) as store:
        assert store.charged_total() == end == sum(each.amount for each in store.charges())
        assert all(each.done for each in store.charges())


def test_a_stream_waits_for_room_and_its_end_is_written_down_when_there_is_some(tmp_path: Path) -> None:
    with serving_paid(tmp_path / "accounts.sqlite", CONFIG) as paid:
        key = paid.key()
        paid.pay(key, BUDGET)
        name = next(iter(paid.chain.prices))
        paid.backend.delay = 0.01
        texts: list[str] = []
        seen = threading.Event()

        def read() -> None:
            with paid.openai(key) as client:
                text = ""
                for chunk in client.completions.create(
                    model=name, prompt="one two", max_tokens=80, temperature=0, stream=True
                ):
                    text += chunk.choices[0].text
                    seen.set()
            texts.append(text)

        read()
        undisturbed = int(paid.account(key)["charged"])
        seen.clear()

        reader = threading.Thread(target=read)
        reader.start()
        assert seen.wait(10)
        with no_room():
            time.sleep(1.5)
            assert reader.is_alive(), "it waits"
        reader.join(10)
        assert len(texts) == 2 and texts[0] == texts[1]
        deadline = time.monotonic() + 5
        while paid.account(key)["running_requests"] and time.monotonic() < deadline:
            time.sleep(0.05)
        charged = int(paid.account(key)["charged"])
        assert charged == 2 * undisturbed
    with AccountStore(tmp_path / "accounts.sqlite", GATEWAY) as store:
        assert store.charged_total() == charged
