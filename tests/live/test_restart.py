"""A worker process that was killed and comes back under its key: the same node to everybody."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .workers import PROMPT, stage

pytestmark = pytest.mark.live

SCRIPTED = "scripted:delay_ms=10"


async def test_a_worker_killed_and_restarted_with_the_same_key_serves_again(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        (node_id,) = await setting.start(SCRIPTED, name="phoenix")
        before = await setting.client.complete(PROMPT, max_tokens=30, seed=2, worker=node_id)
        killed = setting.workers[node_id]
        setting.signal(node_id, signal.SIGKILL)
        killed.process.wait()
        assert await setting.start(SCRIPTED, name="phoenix") == [node_id]
        killed.__exit__(None, None, None)
        after = await setting.client.complete(PROMPT, max_tokens=30, seed=2, worker=node_id)
        assert after.text == before.text
        assert after.worker == before.worker == node_id
        assert after.verified
