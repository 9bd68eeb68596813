"""The worker against a requester played by hand: what starts work, what ends it, what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.frames import encode_assign
from llama_gossip.protocol.jobqueue import Caps
from llama_gossip.protocol.messages import (
    Complete,
    GenerationConfig,
    IdsPrompt,
    Progress,
    RawPrompt,
    Reject,
    RejectReason,
    Token,
)
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.fakewire import NET_ID
from tests.protocol.hand import (
    FACTS,
    OWN_BOOT,
    HandClient,
    done,
    ended,
    key,
    kinds,
    rejected,
    running,
    tokens,
)
from tests.protocol.scripted_model import ScriptedModel

# --- acceptance ------------------------------------------------------------


def test_a_valid_assign_starts_work_at_once() -> None:
    client = HandClient()
    asked = client.ask()
    assert kinds(asked.effects) == [ef.TrustStream, ef.JobAccepted, ef.StartJob]
    assert running(client) == 1


def test_the_whole_answer_travels_and_the_stream_is_finished() -> None:
    client = HandClient()
    asked = client.ask()
    worker = client.worker
    worker.feed(ev.EngineStarted(asked.job, FACTS))
    worker.feed(tokens(asked.job, 0, "a", "b"))
    worker.feed(tokens(asked.job, 2, "c"))
    effects = worker.feed(done(asked.job, "abc", 3))
    assert ef.FinishStream(asked.stream) in effects
    assert running(client) == 0
    frames = asked.frames()
    assert [type(frame) for frame in frames] == [Progress, Token, Token, Complete]
    assert isinstance(frames[0], Progress)
    assert frames[0].facts == FACTS
    assert isinstance(frames[-1], Complete)
    assert (frames[-1].total_tokens, frames[-1].prompt_tokens) == (3, 7)
    last = worker.feed(ev.StreamFinished(asked.stream))
    assert [(e.tokens, e.reason) for e in last if isinstance(e, ef.JobEnded)] == [(3, "done")]


def test_a_requester_that_never_ends_its_side_is_reset_after_the_answer() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(done(asked.job, "", 0))
    client.worker.wait(2_000)
    assert asked.resets() == [StreamCode.DONE]
    assert not client.worker.core._worker._inbound


def foreign_signer(client: HandClient) -> tuple[int, bytes]:
    """Signed by one key, sent by another."""
    data, _ = encode_assign(client.assign(), key("somebody else"), NET_ID)
    return 77, data


def other_worker(client: HandClient) -> tuple[int, bytes]:
    data, _ = encode_assign(client.assign(worker=key("another").node_id), client.signer, NET_ID)
    return 77, data


def other_network(client: HandClient) -> tuple[int, bytes]:
    data, _ = encode_assign(client.assign(), client.signer, bytes(32))
    return 77, data


def junk(client: HandClient) -> tuple[int, bytes]:
    return 77, (20).to_bytes(4, "big") + b"\x95" * 20


def too_large(client: HandClient) -> tuple[int, bytes]:
    return 77, (1024 * 1024 + 4_097).to_bytes(4, "big")


def one_bit(client: HandClient) -> tuple[int, bytes]:
    data, _ = encode_assign(client.assign(), client.signer, NET_ID)
    return 77, data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("bytes_of", [foreign_signer, other_worker, other_network, junk, too_large, one_bit])
def test_what_is_no_valid_assign_is_reset_and_starts_nothing(
    bytes_of: Callable[[HandClient], tuple[int, bytes]],
) -> None:
    client = HandClient()
    neighbour = client.ask()
    stream, data = bytes_of(client)
    client.worker.feed(ev.StreamAccepted(stream, client.signer.node_id))
    effects = client.worker.feed(ev.StreamData(stream, data))
    assert kinds(effects) == [ef.ResetStream]
    assert ef.ResetStream(stream, StreamCode.PROTOCOL) in effects
    assert len(client.worker.all(ef.StartJob)) == 1
    client.worker.feed(tokens(neighbour.job, 0, "a"))
    assert [type(f) for f in neighbour.frames()] == [Token], "the neighbour's stream goes on"


def test_a_bad_length_right_behind_a_good_assign_ends_the_job_at_once() -> None:
    client = HandClient()
    data, _ = encode_assign(client.assign(), client.signer, NET_ID)
    client.worker.feed(ev.StreamAccepted(9, client.signer.node_id))
    effects = client.worker.feed(ev.StreamData(9, data + (65_537).to_bytes(4, "big")))
    assert ef.ResetStream(9, StreamCode.PROTOCOL) in effects
    assert ef.CancelJob in kinds(effects)


def test_a_stream_that_brings_no_assign_is_reset_after_ten_seconds() -> None:
    client = HandClient()
    client.worker.feed(ev.StreamAccepted(9, client.signer.node_id))
    client.worker.feed(ev.StreamData(9, b"\x00\x00"))
    client.worker.wait(9_999)
    assert not client.worker.all(ef.ResetStream)
    client.worker.wait(1)
    assert client.worker.all(ef.ResetStream) == [ef.ResetStream(9, StreamCode.PROTOCOL)]


def test_nobody_off_the_allowlist_is_served() -> None:
    friend = key("friend")
    client = HandClient(allowlist=frozenset({friend.node_id}))
    assert ef.StartJob not in kinds(client.ask().effects)
    assert ef.StartJob in kinds(client.ask(friend).effects)


# --- refusals ------------------------------------------------------------


def test_an_assign_for_an_earlier_boot_is_told_the_present_one() -> None:
    client = HandClient()
    asked = client.ask(worker_boot=OWN_BOOT - 1)
    assert (rejected(asked).reason, rejected_boot(client)) == (RejectReason.STALE_BOOT, OWN_BOOT)
    assert kinds(asked.effects) == [ef.TrustStream, ef.WriteStream, ef.FinishStream]
    assert not client.worker.all(ef.StartJob)


def rejected_boot(client: HandClient) -> int:
    return rejected(client.ask(worker_boot=OWN_BOOT - 2)).boot


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "other"}, RejectReason.MODEL),
        ({"model_digest": bytes(32)}, RejectReason.DIGEST),
        ({"prompt": IdsPrompt(tuple(range(510)))}, RejectReason.TOO_LONG),
        ({"config": GenerationConfig(max_tokens=600)}, RejectReason.TOO_LONG),
        (
            {"config": GenerationConfig(fit=True), "prompt": IdsPrompt(tuple(range(512)))},
            RejectReason.TOO_LONG,
        ),
        ({"config": GenerationConfig(max_tokens=40_000)}, RejectReason.POLICY),
    ],
)
def test_what_cannot_be_served_is_refused_before_any_work(
    changes: dict[str, object], reason: RejectReason
) -> None:
    client = HandClient()
    assert rejected(client.ask(**changes)).reason is reason
    assert not client.worker.all(ef.StartJob)


def test_a_prompt_over_the_owners_limit_is_refused_as_too_long() -> None:
    client = HandClient(policy=Policy(max_prompt_bytes=10))
    assert rejected(client.ask(prompt=RawPrompt("x" * 11))).reason is RejectReason.TOO_LONG


def test_a_loading_node_asks_to_come_again_and_a_client_serves_nothing() -> None:
    client = HandClient()
    client.worker.feed(ev.EngineChanged(None, loading=True))
    reject = rejected(client.ask())
    assert (reject.reason, reject.retry_after_ms) == (RejectReason.FULL, 1_000)
    client.worker.feed(ev.EngineChanged(None))
    assert rejected(client.ask()).reason is RejectReason.MODEL


def test_a_full_queue_refuses_with_a_time_to_come_again() -> None:
    policy = Policy(caps=Caps(max_queued_per_key=1))
    client = HandClient(ScriptedModel(slots=1), policy=policy)
    client.ask(request_id=client.other(1))
    client.ask(request_id=client.other(2))
    reject = rejected(client.ask(request_id=client.other(3)))
    assert reject.reason is RejectReason.FULL
    assert reject.retry_after_ms > 0


def test_in_an_open_network_a_stranger_gets_two_slots_and_eight_places() -> None:
    client = HandClient(ScriptedModel(slots=8), policy=Policy(open_network=True))
    asked = [client.ask(request_id=client.other(n)) for n in range(11)]
    assert [ef.StartJob in kinds(a.effects) for a in asked] == [True, True] + [False] * 9
    assert [isinstance(a.frames()[0], Reject) for a in asked[2:]] == [False] * 8 + [True]


# --- fencing ------------------------------------------------------------


def test_the_same_attempt_again_is_reset_as_superseded_and_starts_nothing() -> None:
    client = HandClient()
    client.ask()
    again = client.ask()
    assert again.resets() == [StreamCode.SUPERSEDED]
    assert len(client.worker.all(ef.StartJob)) == 1


def test_a_newer_attempt_ends_the_older_one() -> None:
    client = HandClient()
    old = client.ask()
    new = client.ask(attempt=2)
    assert old.resets() == [StreamCode.SUPERSEDED]
    assert ef.CancelJob(old.job, "superseded") in new.effects
    assert ef.StartJob in kinds(new.effects)
    assert running(client) == 2, "the old slot is free at the engine's end, not before"
    client.worker.feed(ended(old.job))
    assert running(client) == 1


def test_an_ended_attempt_stays_fenced_for_120_seconds() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(done(asked.job, "", 0))
    client.worker.feed(ev.StreamFinished(asked.stream))
    client.worker.wait(119_999)
    assert client.ask().resets() == [StreamCode.SUPERSEDED]
    client.worker.wait(2)
    assert ef.StartJob in kinds(client.ask().effects)


def test_tombstones_are_forgotten_even_if_their_requester_never_comes_again() -> None:
    client = HandClient()
    asked = client.ask()
    client.worker.feed(done(asked.job, "", 0))
    client.worker.feed(ev.StreamFinished(asked.stream))
    assert len(client.worker.core._worker.jobs._fences) == 1
    client.worker.wait(240_000)
    assert len(client.worker.core._worker.jobs._fences) == 0


def test_a_requester_keeps_256_tombstones_at_most() -> None:
    client = HandClient()
    for number in range(300):
        asked = client.ask(request_id=client.other(number))
        client.worker.feed(done(asked.job, "", 0))
        client.worker.feed(ev.StreamFinished(asked.stream))
    assert len(client.worker.core._worker.jobs._fences) == 256


def test_the_same_request_id_of_another_key_is_another_request() -> None:
    client = HandClient()
    client.ask()
    assert ef.StartJob in kinds(client.ask(key("another client")).effects)
