"""An engine in a process of its own dies: its requests fail over, its node does not notice more than that."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from llama_gossip.engine import load_engine, process_engine
from llama_gossip.engine.process_engine import ProcessEngine

from .conftest import Spawn, eventually
from .workers import PROMPT, stage

pytestmark = pytest.mark.live


async def killed_engine(home: Path, model: str, *, tokens: int, at: int) -> None:
    async with stage(home) as setting:
        await setting.start(model, 2, options=("--engine-process",))
        options = {"max_tokens": tokens, "temperature": 0.7, "seed": 5, "ignore_eos": True}
        generation = setting.client.generate(PROMPT, **options)  # type: ignore[arg-type]
        killed: list[tuple[str, int]] = []

        def strike(worker: str) -> None:
            killed.append((worker, setting.engine_of(worker)))
            os.kill(killed[0][1], signal.SIGKILL)

        answer = await setting.answer(generation, at, strike)
        ((struck, engine),) = killed
        seam = generation.failovers[0]
        print(f"gap {seam.gap_ms:.0f} ms at token {seam.index}: {seam.reason}")
        assert (seam.from_worker, seam.resume) == (struck, "exact")
        assert "process" in seam.reason  # told, not noticed by silence
        assert answer.worker != struck
        assert answer.verified
        again = await setting.served_again(struck, **options)
        assert again.attempts == 1
        assert again.text == answer.text
        assert again.usage.completion_tokens == answer.usage.completion_tokens == tokens
        worker = setting.workers[struck]
        assert worker.process.poll() is None
        assert setting.engine_of(struck) != engine
        await asyncio.to_thread(worker.error_with, "engine lost (killed by signal 9); starting it again")
        worker.signal(signal.SIGTERM)
        last = setting.engine_of(struck)
        assert await asyncio.to_thread(worker.wait) == 0
        assert not os.path.exists(f"/proc/{last}/cmdline")  # noqa: ASYNC240  no disk
        assert worker.events()[-1]["event"] == "shutdown"  # all of stdout is the worker's own


async def test_an_engine_killed_in_mid_answer_is_a_failover_and_its_node_serves_again(tmp_path: Path) -> None:
    await killed_engine(tmp_path, "scripted:delay_ms=10", tokens=120, at=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_torch_engine_killed_in_mid_answer_is_a_failover_and_its_node_serves_again(
    tmp_path: Path,
) -> None:
    await killed_engine(tmp_path, "tiny-random", tokens=300, at=20)


async def test_a_node_whose_idle_engine_dies_is_seen_loading_until_it_is_back(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_engine, "FIRST_WAIT_S", 3600.0)
    monkeypatch.setattr(process_engine, "LONGEST_WAIT_S", 3600.0)
    worker = await spawn("worker")
    engine = await asyncio.to_thread(load_engine, "scripted", process=True)
    assert isinstance(engine, ProcessEngine)
    worker.set_engine(engine)
    client = await spawn("client")

    def sees(state: str) -> bool:
        return [peer.state for peer in client.peers()] == [state]

    await eventually(lambda: sees("ready"), "the worker is ready")
    os.kill(engine.pid, signal.SIGKILL)
    await eventually(lambda: sees("loading"), "the worker loads")
    worker.set_engine(await asyncio.to_thread(load_engine, "scripted"))
    await eventually(lambda: sees("ready"), "the worker is ready with another engine")
