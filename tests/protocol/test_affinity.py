"""Affinity: the next turn of a conversation goes to the worker of the turns before, and when it does not."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_gossip.protocol import affinity
from llama_gossip.protocol import effects as ef
from llama_gossip.protocol.affinity import AFFINITY_FACTOR, Affinity, links_of
from llama_gossip.protocol.messages import ChatPrompt, IdsPrompt, NodeId, RawPrompt
from llama_gossip.protocol.timers import Timers
from tests.protocol.fakewire import FakeNet, FakeNode, network
from tests.protocol.scripted_model import ScriptedModel

MINUTE_MS = 60_000
SECRET = bytes(32)
Messages = tuple[tuple[str, str], ...]


def four_equal_workers(seed: int = 3) -> tuple[FakeNet, FakeNode]:
    net, client, _ = network(seed, *(ScriptedModel(slots=2) for _ in range(4)))
    return net, client


def turn(net: FakeNet, client: FakeNode, messages: Messages, **options: object) -> NodeId:
    """Who has answered it."""
    request_id = client.ask(prompt=ChatPrompt(messages), **options)  # type: ignore[arg-type]
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished)
    return end.worker


def more(messages: Messages, number: int) -> Messages:
    return (*messages, ("assistant", f"answer {number}"), ("user", f"question {number}"))


def test_every_turn_of_a_conversation_goes_to_the_worker_of_the_first() -> None:
    net, client = four_equal_workers()
    workers = set()
    for conversation in range(12):
        messages: Messages = (("system", "be brief"), ("user", f"conversation {conversation}"))
        first = turn(net, client, messages)
        workers.add(first)
        net.run_for(3_000)  # its load is announced
        for number in range(4):
            messages = more(messages, number)
            assert turn(net, client, messages) == first
    assert len(workers) == 4, "the conversations themselves are spread"


def test_equal_single_questions_are_spread() -> None:
    net, client = four_equal_workers()
    answered: Counter[NodeId] = Counter()
    for _ in range(200):
        answered[turn(net, client, (("user", "hello"),))] += 1
        net.run_for(3_000)
    assert max(answered.values()) <= 1.3 * min(answered.values())
    assert len(answered) == 4


def test_a_common_system_prompt_is_no_conversation() -> None:
    net, client = four_equal_workers()
    system: Messages = (("system", "be brief"),)
    answered: Counter[NodeId] = Counter()
    for number in range(40):
        answered[turn(net, client, (*system, ("user", str(number))))] += 1
        net.run_for(3_000)
    assert len(answered) == 4


def test_after_twenty_minutes_a_conversation_is_nobodys() -> None:
    held = Affinity(Timers(), SECRET)
    links = links_of("tiny", ChatPrompt((("user", "a"),)))
    next_links = links_of("tiny", ChatPrompt(more((("user", "a"),), 1)))
    held.keep(links, NodeId(bytes(32)), 0)
    assert held.worker(next_links, 20 * MINUTE_MS - 1) == bytes(32)
    assert held.worker(next_links, 20 * MINUTE_MS) is None


def test_a_worker_that_is_gone_does_not_keep_its_conversation() -> None:
    net, client = four_equal_workers()
    messages: Messages = (("user", "a"),)
    first = turn(net, client, messages)
    holder = net.node_of(first)
    assert holder is not None
    net.kill(holder)
    messages = more(messages, 1)
    second = turn(net, client, messages)
    assert second != first
    assert turn(net, client, more(messages, 2)) == second, "who answered last holds it now"


def test_a_holder_that_is_much_worse_is_left_and_one_that_is_a_little_worse_is_not() -> None:
    net, client, workers = network(5, *(ScriptedModel(slots=1, token_ms=20) for _ in range(4)))
    messages: Messages = (("user", "a"),)
    first = turn(net, client, messages)
    record = client.core._requester._ledger.record(first)
    others = [worker.node_id for worker in workers if worker.node_id != first]
    best = min(client.core._requester._ledger.record(other).tokens_per_s or 50.0 for other in others)
    record.tokens_per_s = best / (AFFINITY_FACTOR * 0.8)
    assert turn(net, client, more(messages, 1), max_tokens=400) == first
    client.core._requester._ledger.record(first).tokens_per_s = best / (AFFINITY_FACTOR * 4)
    assert turn(net, client, more(messages, 2), max_tokens=400) != first


@pytest.mark.parametrize("prompt", [RawPrompt("a text"), IdsPrompt((1, 2, 3)), ChatPrompt(())])
def test_what_is_no_conversation_is_kept_nowhere(prompt: RawPrompt | IdsPrompt | ChatPrompt) -> None:
    held = Affinity(Timers(), SECRET)
    assert links_of("tiny", prompt) == ()
    held.keep(links_of("tiny", prompt), NodeId(bytes(32)), 0)
    assert len(held) == 0


def test_the_table_is_bounded_and_the_oldest_go_first() -> None:
    held = Affinity(Timers(), SECRET)
    for number in range(affinity.MAX_CONVERSATIONS + 1):
        held.keep(links_of("tiny", ChatPrompt((("user", str(number)),))), NodeId(bytes(32)), number)
    assert len(held) == affinity.MAX_CONVERSATIONS
    oldest, newest = (
        links_of("tiny", ChatPrompt(more((("user", str(number)),), 1)))
        for number in (0, affinity.MAX_CONVERSATIONS)
    )
    assert held.worker(oldest, 5_000) is None
    assert held.worker(newest, 5_000) is not None


MESSAGES = st.lists(st.tuples(st.text(max_size=4), st.text(max_size=8)), min_size=1, max_size=5).map(tuple)


@given(first=MESSAGES, second=MESSAGES, models=st.tuples(st.text(max_size=3), st.text(max_size=3)))
def test_only_equal_beginnings_of_equal_models_have_equal_links(
    first: Messages, second: Messages, models: tuple[str, str]
) -> None:
    one, other = (links_of(model, ChatPrompt(m)) for model, m in zip(models, (first, second), strict=True))
    for length in range(1, min(len(first), len(second)) + 1):
        equal = models[0] == models[1] and first[:length] == second[:length]
        assert (one[length - 1] == other[length - 1]) is equal
