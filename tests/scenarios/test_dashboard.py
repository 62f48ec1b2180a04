"""The dashboard in a real browser, served by a real gateway over a swarm of three processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import Console, accessibility_faults, chromium
from tests.scenarios.processes import World, start_stages, wait_until

PAGES = ("swarm", "requests", "chat", "nodes")
TOKENS = 480
SHOW = """state => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
CHANGES = """seconds => new Promise(done => {
  let count = 0;
  new MutationObserver(list => { count += list.length; })
    .observe(document.body, { subtree: true, characterData: true, childList: true, attributes: true });
  setTimeout(() => done(count), 1000 * seconds);
})"""
PHONE = {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def gateway(world: World, checkpoint: Path) -> str:
    """The address of a gateway over three providers, which a test may kill."""
    swarm = start_stages(world, checkpoint, ("0:2", "2:4", "4:5")).wait_serving()
    started = world.start("gateway", "--peers", swarm.address, "--port", "0", "--json")
    root: str = started.event("ready")["url"].removesuffix("/v1")
    wait_until(lambda: httpx.get(f"{root}/health").status_code == 200, "the gateway sees a complete model")
    return root


@pytest.fixture
def page(browser: Browser) -> Iterator[tuple[Page, Console]]:
    with browser.new_context() as context:
        opened, console = context.new_page(), Console()
        console.listen(opened)
        yield opened, console


def test_the_dashboard_shows_a_swarm_at_work_and_a_node_that_is_killed(
    world: World, gateway: str, page: tuple[Page, Console]
) -> None:
    """One test, since the swarm takes longest: every page, its accessibility, chat, live values, and a loss."""
    shown, console = page
    shown.goto(gateway)
    expect(shown.locator(".facts .good")).to_have_text("complete", timeout=15_000)
    expect(shown.locator("tbody tr")).to_have_count(3)
    expect(shown.locator(".connection")).to_have_text("live")

    for scheme, size in (("light", None), ("dark", PHONE)):
        shown.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        if size is not None:
            shown.set_viewport_size(size)  # type: ignore[arg-type]
        for name in PAGES:
            shown.locator(f"nav a[href='#{name}']").click()
            expect(shown.locator("h1")).to_have_text(name.capitalize())
            assert accessibility_faults(shown) == [], (name, scheme)
            assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than {size}"

    _chat(shown)
    _values_change(shown, gateway)

    shown.locator("nav a[href='#swarm']").click()
    _nothing_is_drawn_while_hidden(shown)
    world.processes[2].kill()
    killed = time.monotonic()
    expect(shown.locator("tr.lost")).to_have_count(1, timeout=10_000)
    assert time.monotonic() - killed < 10
    assert console.complaints == []
    # What it left in the runtime folder goes with the next node that starts there.
    world.run("status", "--peers", world.processes[0].event("joined")["maddrs"][0])


def _nothing_is_drawn_while_hidden(page: Page) -> None:
    """The stream is closed, and goes on after its last event when the page is seen again."""
    page.evaluate(SHOW, "hidden")
    expect(page.locator(".connection")).to_have_text("paused")
    assert page.evaluate(CHANGES, 2.5) == 0
    with page.expect_request("**/mesh/events") as asked:
        page.evaluate(SHOW, "visible")
    assert asked.value.headers["last-event-id"]
    expect(page.locator(".connection")).to_have_text("live")


def _chat(page: Page) -> None:
    page.locator("nav a[href='#chat']").click()
    page.get_by_label("Message").fill("what is a span?")
    page.get_by_label("Message").press("Enter")
    answer = page.locator(".turn.assistant")
    expect(answer.locator(".text")).not_to_be_empty(timeout=30_000)
    expect(answer.locator("p")).to_contain_text("tokens", timeout=60_000)
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def _values_change(page: Page, gateway: str) -> None:
    """The tokens of a running request go up while it is looked at."""
    page.locator("nav a[href='#requests']").click()
    name = httpx.get(f"{gateway}/v1/models").json()["data"][0]["id"]
    body = {"model": name, "prompt": "a span", "max_tokens": TOKENS, "ignore_eos": True}
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(httpx.post, f"{gateway}/v1/completions", json=body, timeout=120)
        row = page.locator("tbody tr").first
        expect(row).to_contain_text("running", timeout=20_000)
        expect(row.locator(".route li")).to_have_count(3, timeout=20_000)
        assert 0 < int(row.locator("td").nth(3).inner_text()) <= TOKENS
        assert asked.result().status_code == 200
    expect(row).to_contain_text("done", timeout=10_000)
    expect(row.locator("td").nth(3)).to_have_text(str(TOKENS))
