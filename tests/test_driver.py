"""Driver: what goes wrong in one event or effect costs no other, and no Wake is lost."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from llama_gossip import driver as driver_module
from llama_gossip import news
from llama_gossip.driver import Driver, now
from llama_gossip.errors import LlamaGossipError, NoWorkers, RequestTimeout, TransportError, UsageError
from llama_gossip.generation import Conversation
from llama_gossip.protocol import effects, events
from llama_gossip.protocol.core import Core, PeerView
from llama_gossip.protocol.envelope import KeySigner
from llama_gossip.protocol.messages import ChatPrompt, GenerationConfig, NodeId, RequestId

PEER = NodeId(b"p" * 32)
FAR_MS = 600_000  # a timer that no test waits for
LATEST_S = 60.0  # only a failure waits so long


def submit(request_id: bytes = b"r" * 16, deadline_ms: int = FAR_MS) -> events.Submit:
    config = GenerationConfig(max_tokens=5, temperature=0.0, top_p=1.0, top_k=None, seed=1)
    prompt = ChatPrompt((("user", "Hello"),))
    return events.Submit(RequestId(request_id), "", prompt, config, "2026-01-01", deadline_ms=deadline_ms)


class Answers:
    """In the core's place: says to each event what the test has put in; an exception is raised."""

    def __init__(self) -> None:
        self.said: dict[type[events.Event], list[effects.Effect] | Exception] = {}
        self.heard: list[events.Event] = []
        self.moments: list[events.Now] = []

    def handle(self, event: events.Event, moment: events.Now) -> list[effects.Effect]:
        self.heard.append(event)
        self.moments.append(moment)
        answer = self.said.get(type(event), [])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def peers(self, moment: events.Now) -> tuple[PeerView, ...]:
        return ()


@pytest.fixture
async def core() -> Answers:
    return Answers()


@pytest.fixture
async def driver(core: Answers) -> Driver:
    return Driver(core, NodeId(b"m" * 32))  # type: ignore[arg-type]


@pytest.fixture
async def real() -> Driver:
    signer = KeySigner(bytes(32))
    core = Core(signer=signer, net_id=bytes(32), boot=1, node_name="me", rng=random.Random(1))
    return Driver(core, signer.node_id)


@pytest.fixture
async def reported() -> list[Any]:
    found: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(context["exception"]))
    return found


async def test_a_listener_that_raises_costs_no_other_listener_and_no_effect(
    core: Answers, driver: Driver, reported: list[Any]
) -> None:
    heard: list[news.NodeEvent] = []

    def bad(_: news.NodeEvent) -> None:
        raise LookupError("bad listener")

    driver.listeners += [bad, heard.append]
    core.said[events.Tick] = [effects.PeerDown(PEER, "gone"), effects.Drained()]
    driver.feed(events.Tick())
    assert heard == [news.PeerDown(PEER.hex(), "gone")]
    assert driver.drained.is_set()
    assert [type(error) for error in reported] == [LookupError]


async def test_an_effect_that_fails_does_not_swallow_the_events_that_wait(
    core: Answers, driver: Driver, reported: list[Any]
) -> None:
    class Broken:
        def broadcast(self, data: bytes, *, urgent: bool) -> bool:
            driver.feed(events.NeighborUp(PEER))
            raise OSError("no network")

    driver.transport = Broken()  # type: ignore[assignment]
    core.said[events.Tick] = [effects.Broadcast(b"x"), effects.Drained()]
    driver.feed(events.Tick())
    assert core.heard == [events.Tick(), events.NeighborUp(PEER)]
    assert driver.drained.is_set()
    assert [type(error) for error in reported] == [OSError]


async def test_what_the_core_refuses_is_raised_to_whoever_asked_after_all_else_is_done(
    core: Answers, driver: Driver
) -> None:
    core.said[events.EngineChanged] = UsageError("a bad name")
    with pytest.raises(UsageError, match="bad name"):
        driver.feed(events.EngineChanged(None))
    driver.feed(events.NeighborUp(PEER))
    assert core.heard[-1] == events.NeighborUp(PEER)


async def test_an_event_that_a_listener_feeds_and_the_core_refuses_is_reported_not_raised(
    core: Answers, driver: Driver, reported: list[Any]
) -> None:
    driver.listeners.append(lambda _: driver.feed(events.EngineChanged(None)))
    core.said[events.EngineChanged] = UsageError("a bad name")
    core.said[events.NeighborUp] = [effects.PeerDown(PEER, "gone"), effects.Drained()]
    driver.feed(events.NeighborUp(PEER))
    assert driver.drained.is_set()
    assert [type(error) for error in reported] == [UsageError]


async def test_after_an_error_in_the_core_its_timers_still_get_a_tick(
    core: Answers, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "RETRY_S", 0.001)
    core.said[events.NeighborUp] = AssertionError("a bug")
    ticked = asyncio.Event()
    core.said[events.Tick] = [effects.Drained()]
    driver.drained = ticked
    with pytest.raises(AssertionError):
        driver.feed(events.NeighborUp(PEER))
    await asyncio.wait_for(ticked.wait(), LATEST_S)


async def test_a_timer_that_fires_before_its_time_is_set_again(
    core: Answers, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = now()
    early = events.Now(moment.mono_ms - 1, moment.wall_ms)
    clock = iter([early])
    monkeypatch.setattr(driver_module, "now", lambda: next(clock, moment))
    core.said[events.Tick] = [effects.Drained()]
    driver.perform(effects.Wake(moment.mono_ms))  # due at once; the core's clock is a moment behind
    await asyncio.wait_for(driver.drained.wait(), LATEST_S)
    assert core.moments == [moment]  # an earlier Tick would find nothing due, and be the core's last


async def test_a_later_wake_replaces_an_earlier_one(core: Answers, driver: Driver) -> None:
    driver.perform(effects.Wake(now().mono_ms))
    driver.perform(effects.Wake(now().mono_ms + FAR_MS))
    await asyncio.sleep(0.005)
    assert core.heard == []
    driver.stop()


async def test_nothing_happens_after_the_stop(core: Answers, driver: Driver) -> None:
    core.said[events.NeighborUp] = [effects.Wake(now().mono_ms)]
    driver.feed(events.NeighborUp(PEER))
    driver.stop()
    driver.feed(events.NeighborUp(PEER))
    await asyncio.sleep(0.005)
    assert core.heard == [events.NeighborUp(PEER)]


async def test_a_stop_ends_the_conversations_and_whoever_waits_for_the_drain(real: Driver) -> None:
    request = submit()
    conversation = Conversation(request.request_id, real.core.take_transcript)
    real.conversations[request.request_id] = conversation
    real.feed(request)
    waiting = asyncio.create_task(conversation.next())
    await asyncio.sleep(0)
    real.stop()
    with pytest.raises(TransportError):
        await waiting
    await asyncio.wait_for(real.drained.wait(), LATEST_S)
    assert real.conversations == {}


async def test_a_request_that_is_refused_at_its_submit_is_told_as_asked_and_answered(real: Driver) -> None:
    told: list[news.NodeEvent] = []
    real.feed(submit())
    real.listeners.append(told.append)
    with pytest.raises(UsageError, match="in use"):
        real.ask(submit())
    asked, answered = told
    assert asked == news.RequestAsked((b"r" * 16).hex(), "")
    assert isinstance(answered, news.RequestAnswered)
    assert (answered.request_id, answered.outcome) == (asked.request_id, "usage")
    assert (answered.worker, answered.first_token_ms, answered.attempts) == ("", None, 0)
    assert real.conversations == {}
    real.stop()


async def test_an_answer_that_cannot_be_put_together_fails_instead_of_hanging(
    core: Answers, driver: Driver, reported: list[Any]
) -> None:
    def no_transcript(_: RequestId) -> bytes:
        raise LookupError("no transcript")

    request = submit()
    conversation = Conversation(request.request_id, no_transcript)
    driver.conversations[request.request_id] = conversation
    core.said[events.Tick] = [effects.Failed(request.request_id, "timeout", "late", "")]
    driver.feed(events.Tick())
    with pytest.raises(LlamaGossipError, match="put together"):
        await conversation.next()
    assert core.heard[1] == events.CancelRequest(request.request_id, "internal error")
    assert driver.conversations == {}
    assert [type(error) for error in reported] == [LookupError]


async def test_a_deadline_fires_with_nobody_around(real: Driver) -> None:
    request = submit(deadline_ms=30)
    conversation = Conversation(request.request_id, real.core.take_transcript)
    real.conversations[request.request_id] = conversation
    real.feed(request)
    async with asyncio.timeout(LATEST_S):
        with pytest.raises((RequestTimeout, NoWorkers)):
            await conversation.next()
    assert conversation.ended
    real.stop()


async def test_a_job_without_an_engine_is_lost_and_retried_elsewhere(core: Answers, driver: Driver) -> None:
    start = effects.StartJob(
        4, PEER, RequestId(b"r" * 16), 1, "m", submit().prompt, submit().config, "2026-01-01", None, 1
    )
    core.said[events.Tick] = [start, effects.CancelJob(4, "cancelled")]
    driver.feed(events.Tick())
    (failed,) = (event for event in core.heard if isinstance(event, events.EngineFailed))
    assert (failed.job, failed.code, failed.retryable) == (4, "engine_lost", True)


async def test_a_dial_without_a_network_fails(core: Answers, driver: Driver) -> None:
    core.said[events.Tick] = [effects.OpenStream(3, PEER, 100), effects.AbandonDial(3)]
    driver.feed(events.Tick())
    assert isinstance(core.heard[1], events.DialFailed)


async def test_the_streams_of_a_node_that_was_restarted_are_given_up(core: Answers, driver: Driver) -> None:
    renewed: list[NodeId] = []
    driver.transport = SimpleNamespace(renew=renewed.append)  # type: ignore[assignment]
    other = NodeId(b"o" * 32)
    for node_id, boot in ((PEER, 5), (other, 9), (PEER, 5), (PEER, 7), (other, 9), (PEER, 7)):
        core.said[events.Tick] = [effects.PeerUp(node_id, boot)]
        driver.feed(events.Tick())
    assert renewed == [PEER]


async def test_a_dial_to_oneself_is_looped_in_process(core: Answers, driver: Driver) -> None:
    core.said[events.Tick] = [effects.OpenStream(3, NodeId(b"m" * 32), 100)]
    driver.feed(events.Tick())
    assert core.heard[1:] == [
        events.StreamAccepted(-2, NodeId(b"m" * 32)),
        events.StreamOpened(3, -1),
    ]


async def test_another_loop_or_thread_is_refused(driver: Driver) -> None:
    driver.check_loop()
    with pytest.raises(UsageError, match="another event loop") as caught:
        await asyncio.to_thread(driver.check_loop)
    assert caught.value.hint


async def test_a_mute_node_rebuilds_its_gossip_and_says_so_in_one_sentence(
    core: Answers, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    rebuilt: list[str] = []
    driver.transport = SimpleNamespace(rebuild_gossip=lambda: rebuilt.append("rebuilt"))  # type: ignore[assignment]
    for times in (1, 2):
        core.said[events.Tick] = [effects.RebuildGossip(times)]
        driver.feed(events.Tick())
    assert rebuilt == ["rebuilt", "rebuilt"]
    first, second = caplog.messages
    assert first.endswith("are made anew; if this comes again and again, restart the node")
    assert "are made anew (try 2 in a row);" in second
