"""Second chances: who has failed is asked again once the topic had nobody better, or has nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.attempt import How
from llama_gossip.protocol.call import MAX_CALLS
from llama_gossip.protocol.messages import Error, Frame, NodeId, NodeState
from llama_gossip.protocol.timers import Timers
from tests.protocol.asking import Asking
from tests.protocol.hand import Hand, complete, key, progress, token
from tests.protocol.scripted_model import ScriptedModel

TIMERS = Timers()
BROKEN = Error(0, "the model's step failed", "engine_failed", retryable=True)
SHORT = complete("ab", 2)  # more than it has sent


class Net(Asking):
    """One worker is known to serve the model. A stranger is there too, whose Announce names another."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.known, self.stranger = key("the known worker"), key("a stranger")
        self.streams = 100
        self.hear(self.known)
        self.hear(self.stranger, model=ScriptedModel(name="another"))

    def connect(self) -> Hand:
        """The newest dial becomes a stream, and its Assign is read."""
        dial = self.client.all(ef.OpenStream)[-1]
        self.streams += 1
        effects = self.client.feed(ev.StreamOpened(dial.dial, self.streams))
        written = b"".join(e.data for e in effects if isinstance(e, ef.WriteStream))
        signers = {signer.node_id: signer for signer in (self.known, self.stranger)}
        return Hand(self.client, signers[NodeId(dial.worker)], self.streams, written)

    def fail(self, *frames: Frame) -> None:
        """Asks the known worker, which fails so."""
        self.submit(model="tiny")
        self.connect().send(*frames)
        self.dials = len(self.dialled())

    def dialled_since(self) -> list[bytes]:
        return self.dialled()[self.dials :]


@pytest.mark.parametrize("last", [BROKEN, SHORT])
def test_a_stranger_that_claims_is_preferred_to_the_one_that_has_failed(last: Frame) -> None:
    net = Net()
    net.fail(progress(), token(0, "a"), last)
    assert net.dialled_since() == []
    net.claim(net.stranger)
    net.client.wait(TIMERS.offer_window_ms)
    assert net.dialled_since() == [net.stranger.node_id]
    hand = net.connect()
    assert hand.assign.resume is not None
    assert hand.assign.resume.from_index == 1


@pytest.mark.parametrize("last", [BROKEN, SHORT])
def test_when_no_claim_comes_the_one_that_has_failed_is_asked_again(last: Frame) -> None:
    net = Net()
    net.fail(progress(), token(0, "a"), last)
    net.client.wait(TIMERS.offer_latest_ms - 1)
    assert net.dialled_since() == []
    net.client.wait(1)
    assert net.dialled_since() == [net.known.node_id]


def test_each_second_chance_needs_a_round_of_its_own() -> None:
    net = Net()
    net.fail(progress(), token(0, "a"), BROKEN)
    net.client.wait(TIMERS.offer_latest_ms)
    net.dials = len(net.dialled())
    net.connect().send(progress(), BROKEN)
    assert net.dialled_since() == []
    net.client.wait(TIMERS.offer_latest_ms + TIMERS.solicit_gap_ms)
    assert net.dialled_since() == [net.known.node_id]
    assert len(net.asked()) == 2


def test_a_fault_that_another_request_has_met_counts_while_the_cooldown_lasts() -> None:
    net = Net()
    net.fail(progress(), BROKEN)
    net.client.feed(ev.CancelRequest(net.submit(2, model="tiny", max_tokens=9), "enough"))
    assert net.dialled_since() == []
    net.client.wait(TIMERS.cooldown_ms)
    net.hear(net.known)
    net.dials = len(net.dialled())
    net.submit(3, model="tiny")
    assert net.dialled_since() == [net.known.node_id]


def test_the_worker_that_the_user_has_named_is_asked_again_at_once() -> None:
    net = Net()
    net.submit(model="tiny", worker=net.known.node_id)
    net.connect().send(progress(), token(0, "a"), BROKEN)
    assert net.dialled() == [net.known.node_id] * 2
    assert net.asked() == []


def test_where_nobody_else_could_claim_nobody_is_asked() -> None:
    net = Net()
    net.hear(net.stranger, state=NodeState.CLIENT)
    net.fail(progress(), token(0, "a"), BROKEN)
    assert net.asked() == []
    assert net.dialled() == [net.known.node_id] * 2


def test_a_young_roster_does_not_tell_that_nobody_else_is_there() -> None:
    net = Net(joined_for_ms=TIMERS.join_grace_ms - 1)
    net.hear(net.stranger, state=NodeState.CLIENT)
    net.fail(progress(), token(0, "a"), BROKEN)
    assert net.dialled_since() == []
    assert len(net.asked()) == 1


def test_a_node_that_never_joined_does_not_wait_for_claims_for_ever() -> None:
    net = Net(joined_for_ms=0)
    net.client.core._requester._solicitor._joined = False
    net.fail(progress(), token(0, "a"), BROKEN)
    net.client.wait(TIMERS.nobody_latest_ms)
    assert net.asked() == []
    assert net.dialled_since() == [net.known.node_id]
    assert net.failed() == []


def test_what_cannot_be_asked_for_because_of_too_many_questions_is_not_kept_waiting() -> None:
    net = Net()
    for number in range(MAX_CALLS):
        net.submit(1_000 + number, model=f"rare-{number}")
    net.fail(progress(), token(0, "a"), BROKEN)
    net.client.wait(TIMERS.nobody_latest_ms)
    assert net.dialled_since()[:1] == [net.known.node_id]


def test_in_advance_nobody_is_dialled_who_has_failed() -> None:
    net = Net()
    net.fail(progress(), BROKEN)
    net.claim(net.stranger)
    net.client.wait(TIMERS.offer_window_ms)
    hand = net.connect()
    hand.send(progress(), token(0, "a"))
    net.dials = len(net.dialled())
    net.client.wait(TIMERS.stall_ms // 2)
    assert net.dialled_since() == []
    net.client.wait(TIMERS.stall_ms // 2)
    assert net.client.core.counters()[f"attempts_{How.SILENT.name.lower()}"] == 1
