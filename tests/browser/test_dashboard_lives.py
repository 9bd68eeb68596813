"""The dashboard in use: rows come and go, an answer streams, a key opens it, the ticket waits to be asked."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from llama_gossip.engine.scripted import Script
from tests.live.conftest import eventually

from .staging import Open, Stage, longer_than

pytestmark = [pytest.mark.browser, pytest.mark.live, pytest.mark.asyncio(loop_scope="session")]

PATIENCE_MS = 60_000
EVENTS = {"content-type": "text/event-stream"}
BROKEN = """: waiting

data: {"choices": [{"index": 0, "delta": {"content": "On\\u202e\\u0007ce"}, "finish_reason": null}]}

data: {"error": {"message": "the last worker failed", "type": "server_error", "param": null, "code": null}}

"""
KEY = "open-sesame-1234"


async def test_a_worker_that_comes_and_goes_is_a_row_that_comes_and_goes(stage: Stage, window: Open) -> None:
    one = await window(stage.url)
    await one.live()
    async with stage.guest("visitor", Script()) as guest:
        row = one.peer(guest)
        await expect(row.locator('[data-field="state"]')).to_have_text("ready", timeout=PATIENCE_MS)
        await expect(row.locator('[data-field="path"]')).to_have_text("direct", timeout=PATIENCE_MS)
        await expect(one.of("tile-workers")).to_have_text("3")
        await expect(one.of("log")).to_contain_text("visitor is ready and serves visitor")
        await eventually(lambda: stage.settled(guest), "the guest is at home")
    await expect(row).to_have_count(0, timeout=PATIENCE_MS)
    await expect(one.of("tile-workers")).to_have_text("2")
    await expect(one.of("log")).to_contain_text("visitor is gone")


async def test_the_chat_streams_keeps_its_context_and_can_be_stopped(stage: Stage, window: Open) -> None:
    one = await window(stage.url)
    await one.live()
    posted: list[dict[str, object]] = []
    one.page.on("request", lambda r: posted.append(r.post_data_json) if r.method == "POST" else None)
    await one.of("message").press("a")
    await one.of("message").press("Shift+Enter")
    await one.of("message").press("b")
    await one.of("message").press("Enter")
    answer = one.of("answer").first
    text = answer.locator(".text")
    await expect(text).to_have_text(longer_than(10))
    await expect(text).to_have_text(longer_than(len(await text.text_content() or "")))
    await one.of("stop").click()
    await expect(answer).to_contain_text("Stopped.")
    await expect(one.of("requests")).to_contain_text("cancelled")
    await expect(one.of("send")).to_be_enabled()
    said = await text.text_content() or ""

    await one.ask("And geese?")
    await expect(one.of("answer").nth(1).locator(".text")).to_have_text(longer_than(10))
    await one.of("stop").click()
    assert posted[0]["messages"] == [{"role": "user", "content": "a\nb"}]
    roles = [message["role"] for message in posted[1]["messages"]]  # type: ignore[attr-defined]
    assert roles == ["user", "assistant", "user"]
    assert posted[1]["messages"][1]["content"].strip() == said.strip()  # type: ignore[index]
    await one.of("clear").click()
    await expect(one.of("answer")).to_have_count(0)
    assert one.said == []


async def test_an_answer_is_told_with_its_worker_and_tokens(stage: Stage, window: Open) -> None:
    one = await window(stage.url)
    await one.live()
    async with stage.guest("short", Script(stop_after=7)):
        await one.of("model").select_option("short", timeout=PATIENCE_MS)
        await one.ask("Hello")
        await expect(one.of("answer")).to_contain_text("short · 7 tokens · first token after")
    assert one.said == []


async def test_a_failure_in_mid_answer_is_a_sentence(stage: Stage, window: Open) -> None:
    one = await window(stage.url)
    await one.live()
    await one.page.route("**/v1/chat/completions", lambda route: route.fulfill(body=BROKEN, headers=EVENTS))
    await one.ask("Hello")
    await expect(one.of("answer").locator(".text")).to_have_text("Once")
    await expect(one.of("answer").locator(".refusal")).to_have_text("The last worker failed.")
    await expect(one.of("send")).to_be_enabled()
    assert one.said == []


async def test_a_gateway_out_of_reach_is_a_sentence(stage: Stage, window: Open) -> None:
    one = await window(stage.url)
    await one.live()
    await one.page.context.set_offline(True)
    await one.ask("Hello")
    await expect(one.of("answer")).to_contain_text("The gateway cannot be reached.")
    await one.page.context.set_offline(False)


async def test_the_ticket_is_shown_and_copied_only_when_asked_for(stage: Stage, window: Open) -> None:
    one = await window(stage.url, permissions=["clipboard-read", "clipboard-write"])
    await one.live()
    await expect(one.of("ticket")).to_be_hidden()
    assert "lg1" not in await one.page.content()
    await one.of("ticket-show").click()
    await expect(one.of("ticket")).to_have_text(stage.node.ticket())
    await expect(one.of("ticket")).to_be_visible()
    await one.of("ticket-show").click()
    await expect(one.of("ticket")).to_be_hidden()
    await one.of("ticket-copy").click()
    await expect(one.of("ticket-told")).to_have_text("Copied.")
    assert await one.page.evaluate("navigator.clipboard.readText()") == stage.node.ticket()
    assert one.said == []


async def test_an_answer_goes_on_when_its_worker_fails_and_the_page_tells_so(
    stage: Stage, window: Open
) -> None:
    """The last one of this stage: a Leave may be lost while the topic changes, and a guest stay listed."""
    one = await window(stage.url)
    await one.live()
    slow = Script(delay_ms=30, stop_after=60)
    async with stage.guest("left", slow, "pair") as left, stage.guest("right", slow, "pair") as right:
        for worker in (left, right):
            await expect(one.peer(worker)).to_have_count(1, timeout=PATIENCE_MS)
        await one.of("model").select_option("pair", timeout=PATIENCE_MS)
        await one.ask("Hello")
        await expect(one.of("answer").locator(".text")).to_have_text(longer_than(10))
        running = one.of("request").first.locator('[data-field="worker_name"]')
        await expect(running).to_have_text(re.compile("left|right"))
        struck, other = (left, right) if await running.text_content() == "left" else (right, left)
        struck.set_engine(None)
        await expect(running).to_have_text(other.name, timeout=PATIENCE_MS)
        told = one.of("log").get_by_text(f"{other.name} continues at token")
        await expect(told).to_have_count(1)
        await expect(one.of("tile-failovers")).to_have_text("1")
        await expect(one.of("answer")).to_contain_text("60 tokens", timeout=PATIENCE_MS)
        await expect(one.of("answer")).to_contain_text("2 attempts")
    assert one.said == []


async def test_with_keys_the_page_asks_for_one_and_keeps_it_to_itself(keyed: Stage, window: Open) -> None:
    one = await window(keyed.url)
    await expect(one.of("gate")).to_be_visible()
    await expect(one.of("peers")).to_be_hidden()
    assert (one.said, one.refused) == ([], [])
    await one.of("key").fill("wrong")
    await one.of("open").click()
    await expect(one.of("gate")).to_contain_text("This key was refused.")
    one.said.clear()  # the browser itself tells of the 401
    await one.of("key").fill(KEY)
    await one.of("key").press("Enter")
    await one.live()
    await expect(one.of("peer")).to_have_count(2)
    await expect(one.of("gate")).to_be_hidden()
    await expect(one.of("ticket-show")).to_be_hidden()
    await one.ask("Hello")
    await expect(one.of("answer")).not_to_have_text("", timeout=PATIENCE_MS)
    await one.of("stop").click()
    await one.page.reload()
    await one.live()
    assert KEY not in one.page.url
    assert await one.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert (one.said, one.strangers) == ([], [])


async def test_a_stream_that_ends_is_taken_up_again(keyed: Stage, window: Open) -> None:
    one = await window(keyed.url)
    await one.of("key").fill(KEY)
    await one.of("open").click()
    await one.live()
    await keyed.away()
    await expect(one.of("connection")).to_contain_text("trying again")
    await keyed.back()
    await one.live()
    await expect(one.of("peer")).to_have_count(2)
