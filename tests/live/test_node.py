"""InferenceNode over the real iroh stack, on loopback, with the scripted engine."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from llama_gossip import (
    Cancelled,
    ConfigError,
    InferenceNode,
    ModelUnavailable,
    NoWorkers,
    PeerFailed,
    RequestTimeout,
    TicketError,
    TransportError,
    UsageError,
    load_engine,
)
from llama_gossip.directories import Directories
from llama_gossip.identity import KeyInUse
from llama_gossip.news import RequestAccepted, RequestEnded
from llama_gossip.protocol.transcript import verify_transcript

from .conftest import SEEN_S, Spawn, eventually

pytestmark = pytest.mark.live

SLOW = "scripted:delay_ms=20"


async def pair(spawn: Spawn, engine: str = "scripted") -> tuple[InferenceNode, InferenceNode]:
    worker = await spawn("worker", engine=engine)
    client = await spawn("client")
    await eventually(lambda: [p.state for p in client.peers()] == ["ready"], "the client sees the worker")
    return worker, client


async def test_a_worker_answers_a_client_with_verified_signatures(spawn: Spawn) -> None:
    worker, client = await pair(spawn)
    generation = client.generate("Hello", max_tokens=20, seed=1)
    tokens = [token async for token in generation]
    answer = generation.answer
    assert answer is not None
    assert [token.index for token in tokens] == list(range(20))
    assert answer.text == "".join(token.text for token in tokens)
    assert answer.worker == worker.node_id.hex()
    assert (answer.finish_reason, answer.attempts, answer.delivery) == ("length", 1, "direct")
    assert answer.verified
    assert answer.usage.completion_tokens == 20


async def test_one_flipped_byte_of_the_transcript_is_noticed(spawn: Spawn) -> None:
    _, client = await pair(spawn)
    answer = await client.complete("Hello", max_tokens=5, seed=1)
    assert verify_transcript(answer.transcript).verified
    for at in range(8, len(answer.transcript), 37):
        broken = bytearray(answer.transcript)
        broken[at] ^= 1
        assert not verify_transcript(bytes(broken)).verified, at


async def test_the_same_seed_gives_the_same_answer_from_another_worker(spawn: Spawn) -> None:
    one = await spawn("one", engine="scripted")
    two = await spawn("two", engine="scripted")
    client = await spawn("client")
    await eventually(lambda: len(client.peers()) == 2, "both workers are seen")
    answers = [await client.complete("Hello", seed=9, worker=node.node_id) for node in (one, two)]
    assert answers[0].text == answers[1].text
    assert answers[0].worker != answers[1].worker


async def test_twenty_requests_at_once_are_not_mixed(spawn: Spawn) -> None:
    _, client = await pair(spawn)
    together = await asyncio.gather(*(client.complete(f"Prompt {n}", seed=n) for n in range(20)))
    alone = [await client.complete(f"Prompt {n}", seed=n) for n in range(20)]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert len({answer.text for answer in alone}) == 20


async def test_a_node_asks_its_own_worker_without_the_network(spawn: Spawn) -> None:
    node = await spawn("hybrid", engine="scripted")
    answer = await node.complete("Hello", seed=1)
    assert answer.worker == node.node_id.hex()
    assert answer.verified


async def test_leaving_the_loop_cancels_the_request_on_the_worker(spawn: Spawn) -> None:
    worker, client = await pair(spawn, SLOW)
    ended: list[RequestEnded] = []
    worker.add_listener(lambda event: ended.append(event) if isinstance(event, RequestEnded) else None)
    async for _ in client.generate("Hello", max_tokens=10_000):
        break
    gc.collect()
    await eventually(lambda: bool(ended), "the worker ends the job")
    assert ended[0].tokens < 10_000


async def test_cancelling_the_reading_task_cancels_the_request(spawn: Spawn) -> None:
    worker, client = await pair(spawn, SLOW)
    ended: list[RequestEnded] = []
    accepted = asyncio.Event()

    def listen(event: object) -> None:
        if isinstance(event, RequestAccepted):
            accepted.set()
        elif isinstance(event, RequestEnded):
            ended.append(event)

    worker.add_listener(listen)
    task = asyncio.create_task(client.complete("Hello", max_tokens=10_000))
    await asyncio.wait_for(accepted.wait(), SEEN_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: bool(ended), "the worker ends the job")


async def test_an_explicit_cancel_ends_the_iteration_with_cancelled(spawn: Spawn) -> None:
    _, client = await pair(spawn, SLOW)
    generation = client.generate("Hello", max_tokens=10_000)
    await anext(generation)
    client.cancel(generation.request_id)
    with pytest.raises(Cancelled):
        async for _ in generation:
            pass


async def test_a_deadline_ends_a_slow_answer(spawn: Spawn) -> None:
    _, client = await pair(spawn, SLOW)
    with pytest.raises(RequestTimeout) as caught:
        await client.complete("Hello", max_tokens=10_000, deadline_s=0.5)
    assert caught.value.exit_code == 6


async def test_nobody_serving_is_said_long_before_the_deadline(spawn: Spawn) -> None:
    client = await spawn("client")
    async with asyncio.timeout(SEEN_S):
        with pytest.raises(NoWorkers) as caught:
            await client.complete("Hello")
    assert caught.value.exit_code == 4
    assert caught.value.hint


async def test_an_unknown_model_names_what_there_is(spawn: Spawn) -> None:
    _, client = await pair(spawn)
    with pytest.raises((ModelUnavailable, NoWorkers), match="no-such-model") as caught:
        await client.complete("Hello", model="no-such-model")
    assert caught.value.exit_code == 4


async def test_a_prompt_over_the_context_is_the_users_error(spawn: Spawn) -> None:
    _, client = await pair(spawn)
    with pytest.raises(UsageError) as caught:
        await client.complete("x" * 300_000)
    assert caught.value.exit_code == 2


async def test_a_failure_before_the_first_token_is_retried_elsewhere(spawn: Spawn) -> None:
    await spawn("broken", engine="scripted:fail_before_first=true")
    sound = await spawn("sound", engine="scripted")
    client = await spawn("client")
    await eventually(lambda: len(client.peers()) == 2, "both workers are seen")
    answers = [await client.complete("Hello", seed=n) for n in range(6)]
    assert {answer.worker for answer in answers} == {sound.node_id.hex()}


async def test_failures_of_the_engine_after_the_first_token_are_continued_to_the_end(spawn: Spawn) -> None:
    _, client = await pair(spawn, "scripted:fail_after=5")
    generation = client.generate("Hello", max_tokens=20, seed=1)
    answer = await generation.complete()
    assert [seam.index for seam in generation.failovers] == [5, 10, 15]
    assert (answer.resume, answer.usage.completion_tokens, answer.verified) == ("exact", 20, True)


async def test_an_engine_that_brings_no_token_in_three_attempts_ends_the_answer_with_its_trail(
    spawn: Spawn,
) -> None:
    _, client = await pair(spawn, "scripted:fail_before_first=1")
    with pytest.raises(PeerFailed) as caught:
        await client.complete("Hello", max_tokens=20)
    assert caught.value.exit_code == 5
    assert "engine_failed" in str(caught.value)


async def test_a_ticket_lets_a_node_of_another_home_in(
    spawn: Spawn, tmp_path_factory: pytest.TempPathFactory
) -> None:
    worker = await spawn("worker", engine="scripted")
    elsewhere = Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path_factory.mktemp("elsewhere"))})
    guest = await spawn("guest", join=worker.ticket(), dirs=elsewhere)
    answer = await guest.complete("Hello", seed=1)
    assert answer.worker == worker.node_id.hex()


async def test_a_node_of_another_network_sees_nobody(
    spawn: Spawn, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await pair(spawn)
    elsewhere = Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path_factory.mktemp("elsewhere"))})
    stranger = await spawn("stranger", dirs=elsewhere)
    with pytest.raises(NoWorkers):
        await stranger.complete("Hello")
    assert stranger.peers() == []


async def test_an_open_network_is_joined_by_its_name(spawn: Spawn) -> None:
    await spawn("worker", engine="scripted", network="some-open-network")
    client = await spawn("client", network="some-open-network")
    assert (await client.complete("Hello", seed=1)).verified


async def test_tickets_of_two_networks_are_a_usage_error(spawn: Spawn, dirs: Directories) -> None:
    one = await spawn("one")
    other = await spawn("other", network="some-open-network")
    with pytest.raises(UsageError, match="different networks"):
        await InferenceNode.spawn("three", join=[one.ticket(), other.ticket()], dirs=dirs)


@pytest.mark.parametrize("text", ["", "nonsense", "lg1", "lg1aaaa", "endpointabc"])
async def test_what_is_no_ticket_is_refused_with_its_defect(text: str, dirs: Directories) -> None:
    with pytest.raises(TicketError) as caught:
        await InferenceNode.spawn("node", join=text, dirs=dirs)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert caught.value.code.startswith("ticket_")


async def test_a_node_whose_spawn_failed_gives_its_key_back(dirs: Directories) -> None:
    with pytest.raises(ConfigError, match="reach"):
        await InferenceNode.spawn("node", dirs=dirs, reach="moon")
    node = await InferenceNode.spawn("node", dirs=dirs)
    await node.shutdown()


async def test_one_key_is_one_node(spawn: Spawn, dirs: Directories) -> None:
    await spawn("same")
    with pytest.raises(KeyInUse):
        await InferenceNode.spawn("same", dirs=dirs)


async def test_a_node_that_was_shut_down_refuses_work_and_closes_twice(spawn: Spawn) -> None:
    node = await spawn("node")
    await node.shutdown()
    await node.shutdown()
    with pytest.raises(TransportError, match="shut down"):
        node.generate("Hello")


async def test_a_shutdown_fails_the_answers_on_their_way(spawn: Spawn) -> None:
    _, client = await pair(spawn, SLOW)
    generation = client.generate("Hello", max_tokens=10_000)
    await anext(generation)
    await client.shutdown()
    with pytest.raises((TransportError, Cancelled)):
        async for _ in generation:
            pass


async def test_a_worker_that_leaves_is_gone_at_once(spawn: Spawn) -> None:
    worker, client = await pair(spawn)
    await worker.shutdown()
    await eventually(lambda: client.peers() == [], "the client forgets the worker")


async def test_a_draining_worker_finishes_and_takes_nothing_new(spawn: Spawn) -> None:
    worker, client = await pair(spawn, SLOW)
    running = client.generate("Hello", max_tokens=20)
    await anext(running)
    drained = asyncio.create_task(worker.drain())
    await eventually(lambda: [p.state for p in client.peers()] == ["draining"], "the drain is announced")
    with pytest.raises(NoWorkers):
        await client.complete("another")
    assert (await running.complete()).usage.completion_tokens == 20
    assert await drained


async def test_an_allowlist_shuts_others_out(spawn: Spawn) -> None:
    friend = await spawn("friend")
    worker = await spawn("worker", engine="scripted", allow=[friend.node_id])
    await eventually(lambda: [p.state for p in friend.peers()] == ["ready"], "the friend sees the worker")
    assert (await friend.complete("Hello", seed=1)).worker == worker.node_id.hex()
    stranger = await spawn("stranger")
    async with asyncio.timeout(SEEN_S):
        with pytest.raises(NoWorkers, match="does not admit this node"):
            await stranger.complete("Hello")


async def test_an_unclosed_node_is_a_resource_warning(dirs: Directories) -> None:
    node = await InferenceNode.spawn("forgotten", dirs=dirs)
    transport = node._transport
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        node.__del__()
    assert [w.category for w in caught] == [ResourceWarning]
    assert transport is not None
    node._ended = True
    await transport.close()


async def test_an_engine_that_is_replaced_is_announced(spawn: Spawn) -> None:
    worker, client = await pair(spawn)
    worker.set_engine(None)
    await eventually(lambda: [p.state for p in client.peers()] == ["client"], "the worker is a client now")
    worker.set_engine(load_engine("scripted"))
    await eventually(lambda: [p.state for p in client.peers()] == ["ready"], "it serves again")


def test_the_sync_face_asks_and_stops(dirs: Directories) -> None:
    with InferenceNode.sync(engine=load_engine("scripted"), dirs=dirs) as node:
        tokens = [token.text for token in node.generate("Hello", seed=1, max_tokens=10)]
        answer = node.complete("Hello", seed=1, max_tokens=10)
        assert answer.text == "".join(tokens)
        for _ in node.generate("Hello", max_tokens=5_000):
            break
        assert node.ticket().startswith("lg1")
        assert node.peers() == []
        assert node.stats()["gossip_lagged"] == 0


def test_the_sync_face_raises_what_the_node_raises(dirs: Directories) -> None:
    with InferenceNode.sync(dirs=dirs) as node, pytest.raises(NoWorkers):
        node.complete("Hello")
