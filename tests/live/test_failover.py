"""Failover between real processes: a worker that ends in mid-answer is not to be noticed in the text.

Every reference is the answer of a worker process that nothing happened to, to the same seed.
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
    struck: list[str] = []

    def strike(worker: str) -> None:
        struck.append(worker)
        setting.signal(worker, number)

    options = {"max_tokens": tokens, "temperature": temperature, "seed": seed, "ignore_eos": True}
    generation = setting.client.generate(PROMPT, **options)  # type: ignore[arg-type]
    answer = await setting.answer(generation, at, strike)
    (seam,) = generation.failovers
    print(f"gap {seam.gap_ms:.0f} ms at token {seam.index}: {seam.reason}")
    assert (seam.from_worker, seam.to_worker) == (struck[0], answer.worker)
    assert (seam.resume, answer.resume, answer.attempts, answer.verified) == ("exact", "exact", 2, True)
    assert verify_transcript(answer.transcript).attempts == 2
    reference = await setting.client.complete(PROMPT, worker=answer.worker, **options)
    assert (reference.attempts, reference.resume) == (1, None)
    assert answer.text == reference.text
    return answer


def token_of(seed: int, tokens: int) -> int:
    at = random.Random(seed).randrange(1, tokens // 2)
    print(f"seed {seed}: at token {at}")
    return at


@pytest.mark.parametrize("temperature", TEMPERATURES)
async def test_a_killed_worker_is_not_noticed_in_the_text(tmp_path: Path, temperature: float) -> None:
    async with stage(tmp_path) as setting:
        await setting.start(SCRIPTED, 2)
        at = token_of(round(temperature * 10), 120)
        began_s = time.monotonic()
        await killed(setting, signal.SIGKILL, tokens=120, temperature=temperature, seed=5, at=at)
        assert time.monotonic() - began_s < 30


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_torch_worker_killed_at_a_random_token_is_continued_exactly(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        await setting.start("tiny-random", 2)
        for run in range(4):
            at = token_of(run, 150)
            temperature = TEMPERATURES[run % 2]
            await killed(setting, signal.SIGKILL, tokens=300, temperature=temperature, seed=run, at=at)
            if run < 3:
                await setting.start("tiny-random")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("temperature", TEMPERATURES)
async def test_a_real_model_killed_at_a_random_token_is_continued_exactly(
    tmp_path: Path, temperature: float
) -> None:
    async with stage(tmp_path) as setting:
        await setting.start("smollm2-135m", 2)
        at = token_of(31 + round(temperature * 10), 48)
        await killed(setting, signal.SIGKILL, tokens=48, temperature=temperature, seed=7, at=at)


@pytest.mark.slow
async def test_a_worker_that_is_terminated_hands_over_what_it_cannot_finish(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        await setting.start("scripted:delay_ms=20", 2)
        answer = await killed(setting, signal.SIGTERM, tokens=650, temperature=0.7, seed=3, at=4)
        assert answer.usage.completion_tokens == 650


async def test_a_worker_that_is_terminated_finishes_a_short_answer_itself(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        await setting.start(SCRIPTED, 2)
        generation = setting.client.generate(PROMPT, max_tokens=100, seed=4)
        answer = await setting.answer(generation, 10, lambda w: setting.signal(w, signal.SIGTERM))
        assert (answer.attempts, generation.failovers) == (1, [])


@pytest.mark.slow
async def test_a_worker_stopped_for_thirty_seconds_is_replaced_and_serves_again(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        workers = await setting.start(SCRIPTED, 2)
        stopped_s = time.monotonic()
        answer = await killed(setting, signal.SIGSTOP, tokens=200, temperature=0.7, seed=6, at=20)
        (sleeper,) = [worker for worker in workers if worker != answer.worker]
        await asyncio.sleep(30 - (time.monotonic() - stopped_s))  # the time is the test, nothing waits for it
        setting.signal(sleeper, signal.SIGCONT)
        again = await setting.client.complete(PROMPT, max_tokens=200, seed=6, worker=sleeper, deadline_s=60)
        assert again.text == answer.text


@pytest.mark.slow
async def test_a_hung_engine_under_a_live_event_loop_is_given_up(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        (hung,) = await setting.start("scripted:delay_ms=10,hang_after=20")
        generation = setting.client.generate(PROMPT, max_tokens=60, seed=8)
        began_s = time.monotonic()
        healthy: list[str] = []
        async for token in generation:
            if token.index == 19:
                healthy = await setting.start(SCRIPTED)
        (seam,) = generation.failovers
        assert (seam.from_worker, seam.to_worker, seam.index) == (hung, healthy[0], 20)
        assert 25 < time.monotonic() - began_s < 45
        assert generation.answer is not None
        reference = await setting.client.complete(PROMPT, max_tokens=60, seed=8, worker=healthy[0])
        assert generation.answer.text == reference.text


async def test_an_engine_that_fails_is_replaced_within_half_a_second(tmp_path: Path) -> None:
    async with stage(tmp_path) as setting:
        await setting.start("scripted:delay_ms=10,fail_after=30", 2)
        generation = setting.client.generate(PROMPT, max_tokens=100, seed=9)
        await generation.complete()
        assert [seam.index for seam in generation.failovers] == [30, 60, 90]
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
