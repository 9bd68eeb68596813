"""InferenceNode: beginnings that fail, ends in every order, engines that are replaced under load."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import Any

import pytest

from llama_gossip import InferenceNode, NoWorkers, PeerFailed, TransportError, UsageError, load_engine
from llama_gossip.directories import Directories
from llama_gossip.engine.scripted import ScriptedEngine
from llama_gossip.news import RequestEnded

from .conftest import SEEN_S, Spawn, eventually

pytestmark = pytest.mark.live

SLOW = "scripted:delay_ms=20"


def tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("llama-gossip")}


# --- joining ---


async def test_joining_twice_is_joining_once(spawn: Spawn) -> None:
    node = await spawn("node")  # joined
    await asyncio.gather(node.join(), node.join())
    async with node:
        assert len(tasks()) == 1
    assert tasks() == set()


async def test_a_join_that_nobody_waits_for_any_more_goes_on(dirs: Directories) -> None:
    node = await InferenceNode.spawn("node", dirs=dirs)
    joining = asyncio.create_task(node.join())
    await asyncio.sleep(0)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    await node.join()
    await node.shutdown()


async def test_a_shutdown_during_the_join_ends_both(dirs: Directories) -> None:
    for pause in range(4):  # the shutdown comes ever later
        node = await InferenceNode.spawn("node", dirs=dirs)
        joining = asyncio.create_task(node.join())
        for _ in range(pause * 3):
            await asyncio.sleep(0)
        async with asyncio.timeout(SEEN_S):
            await node.shutdown()
            outcome = (await asyncio.gather(joining, return_exceptions=True))[0]
        assert outcome is None or isinstance(outcome, TransportError)
        assert tasks() == set()


async def test_a_node_whose_join_fails_in_its_scope_is_shut_down(dirs: Directories) -> None:
    node = await InferenceNode.spawn("node", dirs=dirs)
    assert node._transport is not None
    await node._transport.join(bytes(32), [])  # another topic: the second is refused
    with pytest.raises(Exception, match="joined one already"):
        async with node:
            pytest.fail("it joined")
    again = await InferenceNode.spawn("node", dirs=dirs)  # its key is free
    await again.shutdown()


async def test_an_engine_that_cannot_be_announced_ends_the_spawn_and_frees_the_key(dirs: Directories) -> None:
    engine = ScriptedEngine(name="x" * 41)
    with pytest.raises(UsageError, match="longer than 40 bytes"):
        await InferenceNode.spawn("node", dirs=dirs, engine=engine)
    engine.close()
    node = await InferenceNode.spawn("node", dirs=dirs)
    await node.shutdown()


async def test_a_scope_is_good_for_one_use_and_says_so(dirs: Directories) -> None:
    scope = InferenceNode.open(name="node", dirs=dirs)
    async with scope as node:
        with pytest.raises(UsageError, match="opened before"):
            async with scope:
                pytest.fail("it opened twice")
        assert node.peers() == []
    with pytest.raises(UsageError, match="opened before"):
        async with scope:
            pytest.fail("it opened twice")
    again = await InferenceNode.spawn("node", dirs=dirs)  # its key is free
    await again.shutdown()


async def test_a_spawn_that_is_cancelled_frees_the_key(dirs: Directories) -> None:
    spawning = asyncio.create_task(InferenceNode.spawn("node", dirs=dirs))
    await asyncio.sleep(0)
    spawning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawning
    node = await InferenceNode.spawn("node", dirs=dirs)
    await node.shutdown()


# --- engines ---


async def test_an_engine_that_cannot_be_announced_leaves_the_old_one_at_work(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine="scripted")
    bad = ScriptedEngine(name="x" * 41)
    with pytest.raises(UsageError):
        node.set_engine(bad)
    bad.close()
    assert (await node.complete("Hello", max_tokens=3)).text


async def test_jobs_of_a_replaced_engine_end_at_once_and_the_new_one_continues_them(spawn: Spawn) -> None:
    worker = await spawn("worker", engine=SLOW)
    client = await spawn("client")
    await eventually(lambda: [p.state for p in client.peers()] == ["ready"], "the client sees the worker")
    ended: list[RequestEnded] = []
    worker.add_listener(lambda event: ended.append(event) if isinstance(event, RequestEnded) else None)
    running = client.generate("Hello", max_tokens=2_000, seed=4)  # forty seconds of the old engine
    await anext(running)
    worker.set_engine(load_engine("scripted"))
    async with asyncio.timeout(SEEN_S):
        answer = await running.complete()
    (seam,) = running.failovers
    assert seam.reason.startswith("engine_lost")
    assert answer.text == (await client.complete("Hello", max_tokens=2_000, seed=4)).text
    await eventually(lambda: bool(ended), "the job ends on the worker too")
    assert ended[0].reason == "engine_lost"
    assert (await client.complete("Hello", max_tokens=3)).text


async def test_replacing_a_hung_engine_does_not_stop_the_event_loop(spawn: Spawn) -> None:
    class Hung(ScriptedEngine):
        def close(self, timeout_s: float = 2.0) -> None:
            loop.call_soon_threadsafe(closing.set)
            assert asyncio.run_coroutine_threadsafe(_true(), loop).result(SEEN_S)  # the loop lives
            super().close(timeout_s)

    async def _true() -> bool:
        return True

    loop, closing = asyncio.get_running_loop(), asyncio.Event()
    node = await spawn("hybrid")
    node.set_engine(Hung())
    node.set_engine(None)
    await asyncio.wait_for(closing.wait(), SEEN_S)


async def test_the_same_engine_again_is_not_closed(spawn: Spawn) -> None:
    node = await spawn("hybrid")
    engine = load_engine("scripted")
    node.set_engine(engine)
    node.set_engine(engine)
    assert (await node.complete("Hello", max_tokens=3)).text


async def test_an_engine_whose_node_has_ended_is_refused_instead_of_announced(dirs: Directories) -> None:
    engine = load_engine("scripted")
    async with InferenceNode.open(name="node", engine=engine, dirs=dirs):
        pass
    with pytest.raises(UsageError, match="closed"):
        await InferenceNode.spawn("node", engine=engine, dirs=dirs)
    node = await InferenceNode.spawn("node", dirs=dirs)
    await node.shutdown()


async def test_one_engine_serves_one_node(spawn: Spawn) -> None:
    one, two = await spawn("one"), await spawn("two")
    engine = load_engine("scripted")
    one.set_engine(engine)
    with pytest.raises(UsageError, match="another"):
        two.set_engine(engine)
    assert (await one.complete("Hello", max_tokens=3, worker=one.node_id)).text


async def test_an_engine_for_a_node_that_was_shut_down_is_refused(spawn: Spawn) -> None:
    node = await spawn("node")
    await node.shutdown()
    engine = load_engine("scripted")
    with pytest.raises(TransportError, match="shut down"):
        node.set_engine(engine)
    engine.close()


# --- ends ---


async def test_draining_twice_is_draining_once_and_after_the_end_an_error(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine="scripted")
    assert await asyncio.gather(node.drain(), node.drain()) == [True, True]
    assert await node.drain()
    await node.shutdown()
    with pytest.raises(TransportError, match="shut down"):
        await node.drain()


async def test_a_shutdown_ends_a_drain_that_waits(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine=SLOW)
    running = node.generate("Hello", max_tokens=10_000)
    await anext(running)
    draining = asyncio.create_task(node.drain(timeout_s=10 * SEEN_S))
    await asyncio.sleep(0)
    async with asyncio.timeout(SEEN_S):
        await node.shutdown()
        assert await draining is False


async def test_a_shutdown_that_is_cancelled_still_frees_the_key_and_the_socket(dirs: Directories) -> None:
    for pause in range(6):
        node = await InferenceNode.spawn("node", dirs=dirs, engine=load_engine("scripted"))
        await node.join()
        ending = asyncio.create_task(node.shutdown())
        for _ in range(pause):
            await asyncio.sleep(0)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        if pause == 0:
            await node.shutdown()  # it had not begun
        assert node._transport is not None
        assert node._transport._fd == -1
        assert tasks() == set()


async def test_a_listener_that_raises_does_not_disturb_the_node(spawn: Spawn) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    node = await spawn("hybrid", engine="scripted")

    def bad(event: object) -> None:
        raise LookupError("bad listener")

    remove = node.add_listener(bad)
    answer = await node.complete("Hello", max_tokens=20)
    assert answer.usage.completion_tokens == 20
    assert answer.verified
    assert {type(context["exception"]) for context in reported} == {LookupError}
    remove()
    remove()


async def test_a_node_that_is_dropped_does_not_live_on_under_its_key(spawn: Spawn, dirs: Directories) -> None:
    client = await spawn("client")
    node = await InferenceNode.spawn("forgotten", dirs=dirs, engine=load_engine("scripted"))
    await node.join()
    await eventually(lambda: [p.name for p in client.peers()] == ["forgotten"], "it is seen")
    transport = node._transport
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del node
        gc.collect()
    assert ResourceWarning in [w.category for w in caught]
    await eventually(lambda: transport is not None and transport._fd == -1, "its transport is ended")
    assert tasks() == {"llama-gossip telemetry"}  # the client's
    with pytest.raises((NoWorkers, PeerFailed)):
        await client.complete("Hello")


async def test_a_request_from_another_thread_is_refused_before_anything_is_sent(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine="scripted")
    with pytest.raises(UsageError, match="another event loop"):
        await asyncio.to_thread(node.generate, "Hello")
    assert node.stats().get("requests", 0) == 0


async def test_a_broken_address_book_does_not_keep_a_node_from_starting(dirs: Directories) -> None:
    node = await InferenceNode.spawn("node", dirs=dirs)
    path = node._book._path
    await node.shutdown()
    path.write_text('{"peers": [{"node_id": "' + "02" * 32 + '", "addresses": ["127.0.0.1:1", "nonsense"]}]}')
    node = await InferenceNode.spawn("node", dirs=dirs)
    await node.shutdown()
