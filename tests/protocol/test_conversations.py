"""Marks of conversations: a worker tells whose it holds in words that only their requester can read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.affinity import MARKED_LINKS, Affinity, links_of, mark_secret
from llama_gossip.protocol.conversations import Conversations
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.limits import MAX_CONVERSATION_MARKS, MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import Announce, ChatPrompt, Kind, NodeId
from llama_gossip.protocol.streams import Visibility
from llama_gossip.protocol.timers import Timers
from tests.protocol.fakewire import NET_ID, FakeNet, FakeNode, network
from tests.protocol.hand import HandClient, done, ended, key
from tests.protocol.scripted_model import ScriptedModel
from tests.protocol.test_affinity import MINUTE_MS, Messages, more, turn

WORKERS = 6
ANNOUNCED_MS = 20_000  # every worker has announced itself anew by then
MARK, OTHER = b"12345678", b"abcdefgh"


def six_equal_workers(seed: int = 4) -> tuple[FakeNet, FakeNode, list[FakeNode]]:
    return network(seed, *(ScriptedModel(slots=2) for _ in range(WORKERS)))


def restarted(net: FakeNet, client: FakeNode) -> FakeNode:
    """A new process of the same key: it knows nothing but what is announced."""
    net.kill(client)
    net.run_for(1_000)
    again = net.add(client.name)
    net.join(again)
    net.run_for(ANNOUNCED_MS)
    return again


def announced(net: FakeNet, worker: NodeId) -> tuple[bytes, ...]:
    """In its newest Announce."""
    for data in reversed(net.taps):
        if data[2] == Kind.ANNOUNCE:
            raw = split_envelope(data, MAX_TOPIC_BYTES)
            message = decode_envelope(raw)
            if raw.sender == worker and isinstance(message, Announce):
                return message.conversations
    raise AssertionError("it has announced nothing")


def test_after_a_restart_of_the_requester_conversations_go_home() -> None:
    net, client, _ = six_equal_workers()
    asked: dict[Messages, NodeId] = {}
    for number in range(5):
        messages: Messages = (("system", "be brief"), ("user", f"conversation {number}"))
        asked[messages] = turn(net, client, messages)
        net.run_for(3_000)
    client = restarted(net, client)
    for messages, worker in asked.items():
        assert turn(net, client, more(messages, 1)) == worker
        net.run_for(3_000)


def test_the_same_words_of_another_requester_are_not_drawn_there() -> None:
    net, client, _ = six_equal_workers()
    messages: Messages = (("user", "hello"),)
    turn(net, client, messages)
    other = net.add("another client")
    net.join(other)
    net.run_for(ANNOUNCED_MS)
    assert len({turn(net, other, more(messages, number)) for number in range(30)}) > 1


def test_a_worker_that_repeats_the_marks_of_another_draws_nothing() -> None:
    net, client, workers = six_equal_workers()
    messages: Messages = (("user", "hello"),)
    first = turn(net, client, messages)
    net.run_for(ANNOUNCED_MS)
    marks = announced(net, first)
    assert len(marks) == 1
    thief = next(worker for worker in workers if worker.node_id != first)
    thief.core._worker.jobs.conversations.keep(marks[0], net.now_ms)
    client = restarted(net, client)
    assert announced(net, thief.node_id) == marks
    assert turn(net, client, more(messages, 1)) == first


def test_a_public_request_and_a_plain_text_bear_no_mark() -> None:
    net, client, workers = six_equal_workers()
    turn(net, client, (("user", "hello"),), visibility=Visibility.PUBLIC)
    net.finish(client, client.ask(prompt=ChatPrompt(())))
    assert [len(worker.core._worker.jobs.conversations) for worker in workers] == [0] * WORKERS


# --- the worker ------------------------------------------------------------------------------------------


def conversations(client: HandClient) -> tuple[bytes, ...]:
    return client.worker.core._presence.own_peer().announce.conversations


def test_what_was_answered_to_its_end_is_held_and_nothing_else() -> None:
    client = HandClient()
    whole = client.ask(request_id=client.other(1), conversation=MARK)
    cut = client.ask(request_id=client.other(2), conversation=OTHER)
    assert conversations(client) == ()
    client.worker.feed(done(whole.job, "", 0))
    client.worker.feed(ended(cut.job))
    assert conversations(client) == (MARK,)


@pytest.mark.parametrize(
    "event",
    [
        ev.EngineChanged(None),
        ev.EngineChanged(None, loading=True),
        ev.EngineChanged(ScriptedModel(digest=bytes(32)).capacity()),
        ev.EngineFailed(99, "engine_lost", "gone", retryable=True),
    ],
    ids=["no engine", "a reload", "other weights", "a lost engine"],
)
def test_another_engine_holds_nothing(event: ev.Event) -> None:
    client = HandClient()
    client.worker.feed(done(client.ask(conversation=MARK).job, "", 0))
    client.worker.feed(ev.EngineChanged(ScriptedModel().capacity()))
    assert conversations(client) == (MARK,), "the same engine, said again"
    client.worker.feed(event)
    assert conversations(client) == ()


def test_marks_are_few_the_newest_first_and_end_with_their_age() -> None:
    held = Conversations(Timers())
    for number in range(MAX_CONVERSATION_MARKS + 3):
        held.keep(bytes(7) + bytes((number,)), number)
    held.keep(None, 99)
    marks = held.announced(100)
    assert [mark[7] for mark in marks] == list(range(MAX_CONVERSATION_MARKS + 2, 2, -1))
    held.keep(marks[-1], 200)
    assert held.announced(200)[0] == marks[-1]
    assert held.announced(20 * MINUTE_MS + 100) == (marks[-1],)


# --- the mark --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Says:
    node_id: NodeId
    conversations: tuple[bytes, ...]


ONE, TWO = NodeId(b"1" * 32), NodeId(b"2" * 32)


def test_a_mark_is_its_requesters_its_networks_and_its_workers() -> None:
    link = links_of("tiny", ChatPrompt((("user", "a"),)))[0]
    makers = [
        Affinity(Timers(), mark_secret(key(name), net_id))
        for name, net_id in (("me", NET_ID), ("you", NET_ID), ("me", bytes(32)))
    ]
    marks = {maker.mark(link, worker) for maker in makers for worker in (ONE, TWO)}
    assert len(marks) == 6
    again = Affinity(Timers(), mark_secret(key("me"), NET_ID))
    assert again.mark(link, ONE) == makers[0].mark(link, ONE)


def test_the_longest_beginning_counts_and_the_whole_is_no_beginning() -> None:
    affinity = Affinity(Timers(), bytes(32))
    links = links_of("tiny", ChatPrompt(tuple(("user", str(n)) for n in range(MARKED_LINKS + 2))))
    shorter, longer = affinity.mark(links[-3], ONE), affinity.mark(links[-2], TWO)
    assert affinity.marked(links, [Says(ONE, (shorter,)), Says(TWO, (OTHER, longer))]) == TWO
    assert affinity.marked(links, [Says(ONE, (shorter,)), Says(TWO, ())]) == ONE
    assert affinity.marked(links, [Says(ONE, (affinity.mark(links[-1], ONE),))]) is None
    assert affinity.marked(links, [Says(ONE, (affinity.mark(links[0], ONE),))]) is None, "too long ago"
    assert affinity.marked((), [Says(ONE, (shorter,))]) is None


def test_whoever_listens_sees_eight_bytes_on_which_no_guess_can_be_tried() -> None:
    net, client, _ = six_equal_workers()
    worker = turn(net, client, (("user", "a secret"),))
    net.run_for(ANNOUNCED_MS)
    (mark,) = announced(net, worker)
    links = links_of("tiny", ChatPrompt((("user", "a secret"),)))
    stranger = Affinity(Timers(), mark_secret(key("stranger"), NET_ID))
    assert mark not in {stranger.mark(links[-1], worker), links[-1][:8]}
