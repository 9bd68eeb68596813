"""Failover between real processes: a worker that ends in mid-answer is not to be noticed in the text.

Every reference is the answer to the same seed of a third worker process, which had no part in the failover.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from pathlib import Path

import pytest

from llama_gossip import Answer, PeerFailed
from llama_gossip.protocol.transcript import verify_transcript
from tests.cli.cli_process import Running

from .workers import PROMPT, Stage, stage

pytestmark = pytest.mark.live

SCRIPTED = "scripted:delay_ms=10"
SEEN_CLOSED_GAP_MS = 500.0
SILENT_GAP_MS = 2_500.0
TEMPERATURES = (0.0, 0.7)


async def killed(
    setting: Stage, number: signal.Signals, *, tokens: int, temperature: float, seed: int, at: int
) -> Answer:
    """One answer whose worker gets the signal at token `at`; checked against a fault-free one."""
    options = {"max_tokens": tokens, "temperature": temperature, "seed": seed, "ignore_eos": True}
    generation = setting.client.generate(PROMPT, **options)  # type: ignore[arg-type]
    answer = await setting.answer(generation, at, lambda worker: setting.signal(worker, number))
    struck, seams = setting.struck[-1], generation.failovers
    for seam in seams:
        print(f"gap {seam.gap_ms:.0f} ms at token {seam.index}: {seam.reason}")
    assert struck in [seam.from_worker for seam in seams]
    assert answer.worker == seams[-1].to_worker != struck
    assert {answer.resume, *(seam.resume for seam in seams)} == {"exact"}
    assert answer.verified
    assert verify_transcript(answer.transcript).attempts >= 2
    calm = await setting.calm(struck, *(seam.to_worker for seam in seams), **options)
    assert calm.worker not in (answer.worker, struck)
    assert answer.text == calm.text
    return answer


def token_of(seed: int, tokens: int) -> int:
    at = random.Random(seed).randrange(1, tokens // 2)
    print(f"seed {seed}: at token {at}")
    return at


@pytest.mark.parametrize("temperature", TEMPERATURES)
async def test_a_killed_worker_is_not_noticed_in_the_text(tmp_path: Path, temperature: float) -> None:
    async with stage(tmp_path) as setting:
        await setting.start(SCRIPTED, 3)
        at = token_of(round(temperature * 10), 120)
        await killed(setting, signal.SIGKILL, tokens=120, temperature=temperature, seed=5, at=at)


async def killed_again_and_again(home: Path, model: str, times: int, tokens: int, seed: int = 0) -> None:
    """One kill after the other, each at a token of its own, at both temperatures in turn."""
    async with stage(home) as setting:
        await setting.start(model, 3)
        for run in range(seed, seed + times):
            if run > seed:
                await setting.start(model)
            at, temperature = token_of(run, tokens), TEMPERATURES[run % 2]
            await killed(setting, signal.SIGKILL, tokens=tokens, temperature=temperature, seed=run, at=at)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_torch_worker_killed_at_a_random_token_is_continued_exactly(tmp_path: Path) -> None:
    await killed_again_and_again(tmp_path, "tiny-random", 4, tokens=300)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_real_model_killed_at_a_random_token_is_continued_exactly(tmp_path: Path) -> None:
    await killed_again_and_again(tmp_path, "smollm2-135m", 1, tokens=48, seed=31)


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize(("model", "tokens"), [("tiny-random", 300), ("smollm2-135m", 48)])
async def test_fifty_torch_workers_killed_at_random_tokens_are_all_continued_exactly(
    tmp_path: Path, model: str, tokens: int
) -> None:
    await killed_again_and_again(tmp_path, model, 50, tokens, seed=100)


@pytest.mark.slow
async def test_a_worker_that_is_terminated_hands_over_what_it_cannot_finish(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        await setting.start("scripted:delay_ms=20", 3)
        answer = await killed(setting, signal.SIGTERM, tokens=650, temperature=0.7, seed=3, at=4)
        assert answer.usage.completion_tokens == 650


async def test_a_worker_that_is_terminated_finishes_a_short_answer_itself(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        await setting.start(SCRIPTED, 2)
        generation = setting.client.generate(PROMPT, max_tokens=100, seed=4)
        answer = await setting.answer(generation, 10, lambda w: setting.signal(w, signal.SIGTERM))
        assert (answer.attempts, generation.failovers) == (1, [])


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_worker_stopped_for_thirty_seconds_is_replaced_and_serves_again(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        await setting.start(SCRIPTED, 3)
        stopped_s = time.monotonic()
        answer = await killed(setting, signal.SIGSTOP, tokens=2_000, temperature=0.7, seed=6, at=20)
        (sleeper,) = setting.struck
        await asyncio.sleep(30 - (time.monotonic() - stopped_s))  # the time is the test, nothing waits for it
        setting.signal(sleeper, signal.SIGCONT)
        # The zombie is gone long before its two thousand tokens, ...
        end = await asyncio.to_thread(
            setting.workers[sleeper].event, "request_end", request_id=answer.request_id
        )
        assert end["tokens"] < 2_000, end
        # ... and the worker becomes a member again: its newer Announce comes, and its slot is free.
        again = await setting.served_again(sleeper, max_tokens=200, seed=6)
        assert answer.text.startswith(again.text)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hung_engine_under_a_live_event_loop_is_given_up(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        (hung,) = await setting.start("scripted:delay_ms=10,hang_after=20")
        generation = setting.client.generate(PROMPT, max_tokens=60, seed=8)
        began_s = time.monotonic()
        healthy: list[str] = []
        async for token in generation:
            if token.index == 19:
                healthy = await setting.start(SCRIPTED)
        seam = generation.failovers[0]
        assert (seam.from_worker, seam.to_worker, seam.index) == (hung, healthy[0], 20)
        assert time.monotonic() - began_s > 25  # not taken for dead: its event loop lives
        assert generation.answer is not None
        reference = await setting.client.complete(PROMPT, max_tokens=60, seed=8, worker=healthy[0])
        assert generation.answer.text == reference.text


async def test_an_engine_that_fails_again_and_again_is_replaced_each_time(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        await setting.start("scripted:delay_ms=10,fail_after=30", 2)
        generation = setting.client.generate(PROMPT, max_tokens=100, seed=9)
        await generation.complete()
        assert {30, 60, 90} <= {seam.index for seam in generation.failovers}
        print([seam.gap_ms for seam in generation.failovers])


async def test_a_lone_worker_that_was_killed_ends_the_answer_with_its_reason(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        (lone,) = await setting.start(SCRIPTED)
        generation = setting.client.generate(PROMPT, max_tokens=300, seed=9)
        with pytest.raises(PeerFailed) as caught:
            await setting.answer(generation, 30, lambda w: setting.signal(w, signal.SIGKILL))
        assert lone[:10] in str(caught.value)


async def test_the_command_line_tells_the_seam_in_its_place(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        workers = await setting.start("scripted:delay_ms=10,fail_after=30", 2)
        with Running(
            tmp_path, "client", "--json", "--stats", "--resume", "exact", "--max-tokens", "50", PROMPT
        ) as client:
            assert await asyncio.to_thread(client.wait) == 0
        told = [json.loads(line) for line in client.lines]
        names = [one["event"] for one in told]
        place = names.index("failover")
        seam, complete = told[place], told[-1]
        assert list(seam) == [
            "event",
            "ts_ms",
            "request_id",
            "attempt",
            "from_worker",
            "to_worker",
            "index",
            "gap_ms",
            "class",
            "reason",
        ]
        assert (seam["index"], seam["class"], seam["attempt"]) == (30, "exact", 2)
        assert {seam["from_worker"], seam["to_worker"]} <= set(workers)
        assert [one["index"] for one in told[:place] if one["event"] == "token"] == list(range(30))
        assert (complete["attempts"], complete["resume"], complete["verified"]) == (2, "exact", True)
