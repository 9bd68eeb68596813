"""The dashboard as it is drawn: wide and narrow, light and dark, with requests running and hostile names."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import expect

from .looking import CONTRAST, CONTROLS, FOCUSED, WIDER
from .staging import SHOWN_NAME, Open, Stage, Window, longer_than

pytestmark = [pytest.mark.browser, pytest.mark.live, pytest.mark.asyncio(loop_scope="session")]

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
LOOKS = [(width, scheme) for width in WIDTHS for scheme in SCHEMES]
AA = 4.5  # WCAG 2, for text of any size


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def busy(stage: Stage) -> AsyncIterator[None]:
    """A few requests that run, one that failed, one that was cancelled, and one that was answered."""
    running = [stage.node.generate(f"Tell me {n}", max_tokens=8_000) for n in range(3)]
    for generation in running:
        await anext(generation)
    for name in ("nobody-has-it\u202e", "scripted"):
        generation = stage.node.generate("Hello", model=name, max_tokens=12)
        with contextlib.suppress(Exception):  # the first is meant to fail
            await generation.complete()
    stage.node.cancel(running[0].request_id)
    yield
    for generation in running:
        stage.node.cancel(generation.request_id)
    await asyncio.sleep(0)


@pytest_asyncio.fixture(loop_scope="session", params=LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
async def look(
    request: Any, stage: Stage, busy: None, window: Open, screenshots: Path | None
) -> AsyncIterator[Window]:
    width, scheme = request.param
    one = await window(stage.url, width=width, scheme=scheme)
    await one.live()
    await one.ask("Tell me about foxes, in one sentence.")
    await expect(one.of("answer").locator(".text")).to_have_text(longer_than(40))
    await one.of("stop").click()
    await expect(one.of("answer")).to_contain_text("Stopped.")
    yield one
    if screenshots:
        await one.of("ticket-show").click()
        await expect(one.of("ticket")).to_be_visible()
        await one.page.evaluate("scrollTo(0, 0)")
        await one.page.screenshot(path=screenshots / f"dashboard-{width}-{scheme}.png", full_page=True)


async def test_it_is_drawn_without_a_fault_and_can_be_read(look: Window) -> None:
    await expect(look.of("peer")).to_have_count(2)
    for name in ("name", "role", "uptime", "addresses", "version", "node_id"):
        await expect(look.page.locator(f'[data-own="{name}"]')).not_to_be_empty()
    assert await look.page.evaluate(WIDER) == []
    seen = await look.page.evaluate(CONTRAST, AA)
    assert seen["looked"] > 80
    assert seen["wrong"] == []
    await _every_control_is_reached(look)
    assert (look.said, look.strangers, look.refused) == ([], [], [])
    assert await look.page.evaluate("kept") == []


async def _every_control_is_reached(look: Window) -> None:
    wanted = await look.page.evaluate(CONTROLS)
    await look.page.evaluate(
        "document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)"
    )
    reached: dict[str, bool] = {}
    for _ in range(len(wanted) + 2):
        await look.page.keyboard.press("Tab")
        name, seen = await look.page.evaluate(FOCUSED)
        reached[name] = seen
    assert set(wanted) - reached.keys() == set()
    assert [name for name in wanted if not reached[name]] == []


async def test_every_control_has_a_name(stage: Stage, window: Open) -> None:
    one = await window(stage.url)
    await one.live()
    session = await one.page.context.new_cdp_session(one.page)
    tree = await session.send("Accessibility.getFullAXTree")
    named = {"button", "textbox", "combobox", "table", "region", "log", "image", "columnheader", "main"} - {
        "main"
    }
    seen: list[str] = []
    for node in tree["nodes"]:
        role = node.get("role", {}).get("value")
        if role in named and not node.get("ignored"):
            seen.append(role)
            assert node.get("name", {}).get("value"), node
    assert set(seen) == named


async def test_what_a_peer_calls_itself_stays_text(stage: Stage, window: Open) -> None:
    one = await window(stage.url)
    await one.live()
    row = one.peer(stage.workers[1])
    await expect(row.locator('[data-field="name"]')).to_have_text(SHOWN_NAME)
    assert await one.page.locator("img").count() == 0
    assert not set(await one.page.content()) & set("\u202e\x1b")
    assert one.said == []


async def test_without_javascript_it_is_a_plain_table(stage: Stage, window: Open) -> None:
    one = await window(stage.url, java_script_enabled=False)
    row = one.peer(stage.workers[0])
    await expect(row).to_be_visible()
    await expect(row.locator('[data-field="state"]')).to_have_text("ready")
    await expect(one.of("tile-workers")).to_have_text("2")
    for part in ("talk", "requests", "log", "ticket-show"):
        await expect(one.of(part)).to_be_hidden()
    assert (one.said, one.strangers, one.refused) == ([], [], [])
