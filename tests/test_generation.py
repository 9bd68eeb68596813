"""Generation: one request's tokens and its one end, whoever reads, cancels or drops it."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from llama_gossip import generation as generation_module
from llama_gossip.errors import (
    Cancelled,
    LlamaGossipError,
    ModelUnavailable,
    NoWorkers,
    PeerFailed,
    RequestTimeout,
    UsageError,
)
from llama_gossip.generation import Conversation, Generation, error_of
from llama_gossip.protocol import effects
from llama_gossip.protocol.messages import FinishReason, NodeId, RequestId
from llama_gossip.protocol.resumption import ResumeClass
from llama_gossip.protocol.transcript import Verdict, verify_transcript

ID = RequestId(b"r" * 16)
WORKER = NodeId(b"w" * 32)


class Asked:
    """A conversation, its reader's face, and what was asked of the node meanwhile."""

    def __init__(self) -> None:
        self.taken: list[RequestId] = []
        self.cancelled: list[tuple[RequestId, str]] = []
        self.record = b""
        self.conversation = Conversation(ID, self._take)

    def _take(self, request_id: RequestId) -> bytes:
        self.taken.append(request_id)
        return self.record

    def generation(self) -> Generation:
        return Generation(self.conversation, lambda request_id, why: self.cancelled.append((request_id, why)))

    def tokens(self, index: int, *texts: str, ids: tuple[int, ...] = ()) -> None:
        self.conversation.handle(effects.DeliverTokens(ID, index, ids, texts, None, WORKER, 1))

    def finish(self, total: int) -> None:
        self.conversation.handle(
            effects.Finished(
                request_id=ID,
                finish_reason=FinishReason.STOP,
                total_tokens=total,
                prompt_tokens=3,
                duration_secs=0.1,
                worker=WORKER,
                attempt=2,
                model="tiny",
                model_digest=None,
                text_digest=bytes(32),
            )
        )

    def fail(self, code: str) -> None:
        self.conversation.handle(effects.Failed(ID, code, "it failed", "do this", ((WORKER, 1, "broke"),)))


async def test_tokens_come_in_order_and_the_answer_after_them() -> None:
    asked = Asked()
    generation = asked.generation()
    asked.tokens(0, "a", "b", ids=(1, 2))
    asked.tokens(2, "c")
    asked.finish(3)
    tokens = [token async for token in generation]
    assert [(t.index, t.token_id, t.text) for t in tokens] == [(0, 1, "a"), (1, 2, "b"), (2, None, "c")]
    answer = await generation.complete()
    assert (answer.text, answer.attempts, answer.finish_reason) == ("abc", 2, "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
    assert not answer.verified  # there is no transcript
    assert asked.taken == [ID]


async def test_a_reader_that_waits_is_woken_by_each_kind_of_end() -> None:
    for end in (
        lambda a: a.finish(0),
        lambda a: a.fail("timeout"),
        lambda a: a.conversation.fail(Cancelled("x")),
    ):
        asked = Asked()
        reading = asyncio.create_task(asked.conversation.next())
        await asyncio.sleep(0)
        end(asked)
        async with asyncio.timeout(60):
            await asyncio.wait([reading])
        assert reading.done()
        assert reading.exception() is asked.conversation.error


async def test_what_came_before_a_failure_is_read_before_it_is_raised() -> None:
    asked = Asked()
    asked.tokens(0, "a")
    asked.fail("peer_failed")
    generation = asked.generation()
    assert (await anext(generation)).text == "a"
    with pytest.raises(PeerFailed, match="broke"):
        await anext(generation)
    with pytest.raises(PeerFailed):  # and again, never a hang
        await anext(generation)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("no_workers", NoWorkers),
        ("model", ModelUnavailable),
        ("too_long", UsageError),
        ("bad_request", UsageError),
        ("peer_failed", PeerFailed),
        ("digest", PeerFailed),
        ("timeout", RequestTimeout),
        ("cancelled", Cancelled),
    ],
)
def test_every_code_has_its_error_with_hint_and_trail(code: str, kind: type[LlamaGossipError]) -> None:
    error = error_of(effects.Failed(ID, code, "it failed", "do this", ((WORKER, 1, "broke"),)))
    assert type(error) is kind
    assert (error.code, error.hint) == (code, "do this")
    assert f"{WORKER.hex()[:10]}: broke" in error.message


async def test_the_first_end_is_the_only_one() -> None:
    asked = Asked()
    asked.finish(0)
    asked.conversation.fail(Cancelled("late"))
    assert asked.conversation.error is None


async def test_a_cancelled_reader_cancels_the_request() -> None:
    asked = Asked()
    generation = asked.generation()
    reading = asyncio.create_task(generation.complete())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert [request_id for request_id, _ in asked.cancelled] == [ID]


async def test_cancel_and_aclose_are_harmless_after_the_end() -> None:
    asked = Asked()
    generation = asked.generation()
    asked.finish(0)
    generation.cancel()
    await generation.aclose()
    del generation
    gc.collect()
    await asyncio.sleep(0)
    assert asked.cancelled == []


async def test_a_dropped_generation_cancels_its_request() -> None:
    asked = Asked()
    generation = asked.generation()
    del generation
    gc.collect()
    await asyncio.sleep(0)
    assert [request_id for request_id, _ in asked.cancelled] == [ID]


async def test_one_that_another_thread_drops_cancels_on_the_loop() -> None:
    asked = Asked()
    where: list[int] = []
    held = [Generation(asked.conversation, lambda *_: where.append(threading.get_ident()))]
    await asyncio.to_thread(held.clear)
    await asyncio.sleep(0)
    assert where == [threading.get_ident()]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_one_that_outlives_its_loop_or_never_had_one_dies_in_silence() -> None:
    asked = Asked()

    async def make() -> Generation:
        return asked.generation()

    loop = asyncio.new_event_loop()
    survivor = loop.run_until_complete(make())
    loop.close()
    del survivor
    with pytest.raises(RuntimeError):
        asked.generation()  # there is no loop here
    gc.collect()
    assert asked.cancelled == []


async def test_the_answer_names_its_weakest_seam_and_lists_them_all() -> None:
    asked = Asked()
    generation = asked.generation()
    asked.tokens(0, "a")
    other = NodeId(b"v" * 32)
    for attempt, held in ((2, ResumeClass.EXACT), (3, ResumeClass.TEXT), (4, ResumeClass.IDS)):
        asked.conversation.handle(effects.FailedOver(ID, attempt, WORKER, other, 1, 20, held, "broke"))
    asked.finish(1)
    assert (await generation.complete()).resume == "text"
    assert [seam.resume for seam in generation.failovers] == ["exact", "text", "ids"]
    first = generation.failovers[0]
    assert (first.from_worker, first.to_worker, first.gap_ms) == (WORKER.hex(), other.hex(), 20.0)


async def test_an_answer_without_a_seam_names_none() -> None:
    asked = Asked()
    generation = asked.generation()
    asked.tokens(0, "a")
    asked.finish(1)
    assert (await generation.complete()).resume is None
    assert generation.failovers == []


async def test_a_long_transcript_is_checked_without_holding_up_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []

    def checked(transcript: bytes) -> Verdict:
        threads.append(threading.current_thread())
        return verify_transcript(transcript)

    monkeypatch.setattr(generation_module, "verify_transcript", checked)
    for size, at_once in ((100, True), (generation_module.CHECKED_AT_ONCE_BYTES + 1, False)):
        asked = Asked()
        asked.record = bytes(size)
        asked.finish(0)
        assert asked.conversation.ended is at_once
        answer = await asked.generation().complete()
        assert not answer.verified
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()
