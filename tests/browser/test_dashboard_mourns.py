"""A killed worker on the dashboard."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import expect

from llama_gossip.gateway.status import WORKER_SILENT_S
from llama_gossip.protocol.timers import Timers
from tests.cli.cli_process import Running

from .staging import Open, Stage

pytestmark = [
    pytest.mark.browser,
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
]

PATIENCE_MS = 60_000


async def test_a_killed_workers_row_changes(stage: Stage, window: Open) -> None:
    """By itself: nothing is asked of the worker meanwhile. That this takes less than two announce periods is
    a matter of constants."""
    assert 2 * Timers().announce_ms / 1000 > WORKER_SILENT_S
    one = await window(stage.url)
    with Running(stage.home, "worker", "--json", "--model", "scripted", "--name", "doomed") as doomed:
        ready = await asyncio.to_thread(doomed.event, "ready")
        row = one.page.locator(f'[data-key="{ready["node_id"]}"]')
        state = row.locator('[data-field="state"]')
        await expect(state).to_have_text("ready", timeout=PATIENCE_MS)
        await expect(one.of("tile-workers")).to_have_text("3")
        doomed.process.kill()
        await expect(state).to_have_text("silent", timeout=PATIENCE_MS)
        await expect(one.of("tile-workers")).to_have_text("2")
