"""Cores on a fake wire: the plain life of a request, and its failures before and after the first token."""

from __future__ import annotations

import pytest

from llama_gossip.errors import UsageError
from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.jobqueue import Caps
from llama_gossip.protocol.messages import FinishReason, GenerationConfig, RawPrompt, RequestId
from llama_gossip.protocol.resumption import ResumeClass
from llama_gossip.protocol.transcript import verify_transcript
from tests.protocol.fakewire import FakeNet, FakeNode, check_quiet
from tests.protocol.scripted_model import DIGEST, ScriptedModel, answer_of


def network(seed: int, *models: ScriptedModel) -> tuple[FakeNet, FakeNode, list[FakeNode]]:
    """A client and one worker a model, all joined and known to each other."""
    net = FakeNet(seed)
    client = net.add("client")
    workers = [net.add(f"worker {number}", model) for number, model in enumerate(models)]
    net.join(client, *workers)
    net.run_for(1_500)
    assert len(client.core.peers(net.clock())) == len(workers)
    return net, client, workers


def test_a_request_travels_from_submit_to_complete_between_two_cores() -> None:
    net, client, (worker,) = network(1, ScriptedModel())
    request_id = client.ask(max_tokens=50, seed=4)
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished)
    assert (end.total_tokens, end.finish_reason, end.attempt) == (50, FinishReason.LENGTH, 1)
    assert (end.worker, end.model, end.model_digest) == (worker.node_id, "tiny", DIGEST)
    assert client.text_of(request_id) == answer_of(4, 50)
    assert isinstance(client.user[request_id][0], ef.Accepted)
    verdict = verify_transcript(client.core.take_transcript(request_id))
    assert verdict.verified, verdict.reason
    assert verdict.text == answer_of(4, 50)
    net.run_for(5_000)
    check_quiet(net)
    assert [(job.tokens, job.reason) for job in worker.effects(ef.JobEnded)] == [(50, "done")]


def test_a_node_asks_its_own_worker_over_an_ordinary_stream() -> None:
    net = FakeNet(2)
    hybrid = net.add("hybrid", ScriptedModel())
    net.join(hybrid)
    request_id = hybrid.ask(seed=3)
    assert isinstance(net.finish(hybrid, request_id), ef.Finished)
    assert hybrid.effects(ef.OpenStream)[0].worker == hybrid.node_id
    net.run_for(5_000)
    check_quiet(net)


def test_many_requests_share_the_slots_and_all_are_answered() -> None:
    net, client, workers = network(3, ScriptedModel(slots=2), ScriptedModel(slots=2))
    asked = [client.ask(seed=seed, max_tokens=12) for seed in range(20)]
    for request_id in asked:
        assert isinstance(net.finish(client, request_id), ef.Finished)
    net.run_for(5_000)
    check_quiet(net)
    assert all(worker.model is not None and worker.model.most_running == 2 for worker in workers)


def test_requests_wait_for_a_worker_that_is_merely_full() -> None:
    net = FakeNet(24)
    client = net.add("client")
    policy = Policy(caps=Caps(max_queued=0, max_queued_per_key=0))
    worker = net.add("worker", ScriptedModel(slots=1, token_ms=30), policy=policy)
    net.join(client, worker)
    net.run_for(1_500)
    asked = [client.ask(max_tokens=20) for _ in range(4)]
    for request_id in asked:
        assert isinstance(net.finish(client, request_id, limit_ms=60_000), ef.Finished)
    assert worker.core.counters()["assigns_rejected_full"] >= 3
    net.run_for(5_000)
    check_quiet(net)


def test_an_answer_that_stops_early_is_whole() -> None:
    net, client, _ = network(4, ScriptedModel(stop_after=3))
    end = net.finish(client, client.ask(max_tokens=10))
    assert isinstance(end, ef.Finished)
    assert (end.total_tokens, end.finish_reason) == (3, FinishReason.STOP)


@pytest.mark.parametrize("seed", range(6))
def test_a_refusal_sends_the_request_to_the_next_worker(seed: int) -> None:
    net = FakeNet(seed)
    client = net.add("client")
    strict = net.add("strict", ScriptedModel(token_ms=1), policy=Policy(max_tokens=5))
    kind = net.add("kind", ScriptedModel(token_ms=20))
    net.join(client, strict, kind)
    net.run_for(1_500)
    end = net.finish(client, client.ask(max_tokens=10))
    assert isinstance(end, ef.Finished)
    assert end.worker == kind.node_id
    if strict.core.counters().get("assigns_rejected_policy"):
        assert end.attempt == 2
    net.run_for(5_000)
    check_quiet(net)


def test_the_strict_worker_of_the_test_above_is_really_asked_first() -> None:
    rejects = 0
    for seed in range(6):
        net = FakeNet(seed)
        client = net.add("client")
        strict = net.add("strict", ScriptedModel(token_ms=1), policy=Policy(max_tokens=5))
        net.join(client, strict, net.add("kind", ScriptedModel(token_ms=20)))
        net.run_for(1_500)
        net.finish(client, client.ask(max_tokens=10))
        rejects += strict.core.counters().get("assigns_rejected_policy", 0)
    assert rejects >= 4


def dies(net: FakeNet, worker: FakeNode) -> None:
    net.kill(worker)


def hangs(net: FakeNet, worker: FakeNode) -> None:
    net.freeze(worker)


@pytest.mark.parametrize("how", [dies, hangs])
@pytest.mark.parametrize("after_ms", [0, 3, 6, 12])
def test_a_worker_that_fails_before_its_first_token_is_replaced_and_the_answer_is_whole(
    how: object, after_ms: int
) -> None:
    slow = ScriptedModel(prefill_ms=500)
    net, client, workers = network(5, slow, ScriptedModel(prefill_ms=500))
    request_id = client.ask(seed=9, max_tokens=20)
    net.run_for(after_ms)
    first = next(w for w in workers if w.node_id == client.effects(ef.OpenStream)[0].worker)
    (dies if how is dies else hangs)(net, first)
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished)
    assert end.worker != first.node_id
    assert client.text_of(request_id) == answer_of(9, 20)
    verdict = verify_transcript(client.core.take_transcript(request_id))
    assert verdict.verified, verdict.reason


def test_a_worker_that_dies_after_its_first_token_is_replaced_and_nobody_sees_it_in_the_text() -> None:
    net, client, workers = network(6, ScriptedModel(), ScriptedModel())
    request_id = client.ask(max_tokens=50)
    net.run_until(lambda: bool(client.told(request_id, ef.DeliverTokens)))
    first = client.told(request_id, ef.Accepted)[0].worker
    net.kill(next(w for w in workers if w.node_id == first))
    end = net.finish(client, request_id, limit_ms=1_000)
    assert isinstance(end, ef.Finished)
    assert (end.attempt, end.worker != first) == (2, True)
    assert client.text_of(request_id) == answer_of(1, 50)
    (seam,) = client.told(request_id, ef.FailedOver)
    assert (seam.from_worker, seam.to_worker, seam.resume) == (first, end.worker, ResumeClass.EXACT)


def test_a_lone_worker_that_died_is_reported_within_half_a_minute() -> None:
    net, client, (worker,) = network(7, ScriptedModel(prefill_ms=5_000))
    request_id = client.ask()
    net.run_for(50)
    net.kill(worker)
    took_ms = net.run_until(lambda: client.end_of(request_id) is not None, 30_000)
    assert client.end_of(request_id).code == "peer_failed"
    assert took_ms >= 15_000, "a worker that restarts has time to say so"


def test_a_restarted_worker_is_asked_again_under_its_new_boot() -> None:
    net, client, (worker,) = network(8, ScriptedModel())
    net.kill(worker)
    net.gossip_loss = 1.0  # the client still knows the old boot only
    reborn = net.add("worker 0", ScriptedModel())
    net.join(reborn)
    end = net.finish(client, client.ask(), limit_ms=1_000)
    assert isinstance(end, ef.Finished)
    assert end.attempt == 2
    assert reborn.core.counters()["assigns_rejected_stale_boot"] == 1


def test_a_slow_dial_brings_in_the_next_candidate_after_half_a_second() -> None:
    net, client, workers = network(9, ScriptedModel(token_ms=1), ScriptedModel(token_ms=20))
    net.unreachable.add(workers[0].node_id)
    for _ in range(4):
        start_ms = net.now_ms
        end = net.finish(client, client.ask(max_tokens=2))
        assert isinstance(end, ef.Finished)
        assert end.worker == workers[1].node_id
        assert net.now_ms - start_ms < 800
    assert len(client.effects(ef.AbandonDial)) >= 1


def test_a_refused_dial_moves_on_at_once() -> None:
    net, client, workers = network(10, ScriptedModel(token_ms=1), ScriptedModel(token_ms=20))
    net.refusing.add(workers[0].node_id)
    end = net.finish(client, client.ask(max_tokens=2), limit_ms=300)
    assert isinstance(end, ef.Finished)
    assert end.worker == workers[1].node_id


def test_a_dial_is_given_up_after_four_seconds() -> None:
    net, client, (worker,) = network(11, ScriptedModel())
    net.unreachable.add(worker.node_id)
    start_ms = net.now_ms
    client.ask()
    net.run_until(lambda: client.core.counters().get("dials_failed", 0) == 1)
    assert net.now_ms - start_ms == 4_000


def test_cancel_reaches_the_engine_within_a_round_trip() -> None:
    net, client, (worker,) = network(12, ScriptedModel(token_ms=50))
    request_id = client.ask(max_tokens=100)
    net.run_until(lambda: bool(client.told(request_id, ef.DeliverTokens)))
    client.feed(ev.CancelRequest(request_id, "ctrl-c"))
    assert client.end_of(request_id).code == "cancelled"
    assert net.run_until(lambda: bool(worker.effects(ef.CancelJob))) <= 3
    net.run_for(1_000)
    check_quiet(net)
    assert worker.effects(ef.JobEnded)[0].reason == "cancelled"


def test_a_deadline_ends_the_request_and_the_job() -> None:
    net, client, (worker,) = network(13, ScriptedModel(token_ms=50))
    request_id = client.ask(max_tokens=100, deadline_ms=700)
    took_ms = net.run_until(lambda: client.end_of(request_id) is not None)
    assert took_ms == 700
    assert client.end_of(request_id).code == "timeout"
    net.run_for(1_000)
    check_quiet(net)
    assert worker.effects(ef.CancelJob)


def test_an_empty_network_says_nobody_within_five_seconds_even_before_joining() -> None:
    net = FakeNet(14)
    client = net.add("client")
    request_id = client.ask()
    took_ms = net.run_until(lambda: client.end_of(request_id) is not None)
    assert took_ms <= 5_000
    assert client.end_of(request_id).code == "no_workers"
    assert "0 peers seen" in client.end_of(request_id).message


def test_a_request_submitted_before_joining_waits_for_the_worker_to_appear() -> None:
    net = FakeNet(15)
    client, worker = net.add("client"), net.add("worker", ScriptedModel())
    request_id = client.ask()
    net.run_for(1_000)
    net.join(client, worker)
    assert isinstance(net.finish(client, request_id, limit_ms=3_000), ef.Finished)


def test_a_draining_worker_finishes_and_new_requests_go_elsewhere() -> None:
    net, client, (leaver, other) = network(16, ScriptedModel(token_ms=1), ScriptedModel(token_ms=20))
    running = client.ask(max_tokens=100)
    net.run_until(lambda: bool(client.told(running, ef.Accepted)))
    assert client.told(running, ef.Accepted)[0].worker == leaver.node_id
    leaver.feed(ev.Drain("update"))
    later = client.ask(max_tokens=3)
    assert isinstance(net.finish(client, running), ef.Finished)
    end = net.finish(client, later)
    assert isinstance(end, ef.Finished)
    assert end.worker == other.node_id
    net.run_until(lambda: bool(leaver.effects(ef.Drained)), 5_000)
    leaver.feed(ev.Goodbye("update"))
    net.run_for(1_000)
    assert [view.node_id for view in client.core.peers(net.clock())] == [other.node_id]
    assert ef.PeerDown(leaver.node_id, "update") in client.log


def test_an_engine_failure_is_retried_elsewhere() -> None:
    net, client, workers = network(17, ScriptedModel(token_ms=1, fail_after=0), ScriptedModel(token_ms=20))
    end = net.finish(client, client.ask(seed=2))
    assert isinstance(end, ef.Finished)
    assert end.worker == workers[1].node_id


def test_a_hung_engine_is_told_and_left_before_its_event_loop_notices() -> None:
    net, client, workers = network(18, ScriptedModel(token_ms=1, hang_after=0), ScriptedModel(token_ms=20))
    request_id = client.ask()
    end = net.finish(client, request_id, limit_ms=12_000)
    assert isinstance(end, ef.Finished)
    assert end.worker == workers[1].node_id
    assert [r.worker for r in client.told(request_id, ef.Retried)] == [workers[0].node_id]
    net.run_for(40_000)
    check_quiet(net)


def test_one_seed_makes_one_trace() -> None:
    logs = []
    for _ in range(2):
        net, client, workers = network(19, ScriptedModel(), ScriptedModel())
        net.cut_chunks = True
        for seed in range(5):
            client.ask(seed=seed)
        net.run_for(10_000)
        logs.append([node.log for node in (client, *workers)])
    assert logs[0] == logs[1]


def test_a_config_that_no_wire_can_carry_is_the_callers_fault() -> None:
    net, client, _ = network(20, ScriptedModel())
    request_id = RequestId(bytes(16))
    client.user[request_id] = []
    config = GenerationConfig(temperature=float("nan"))
    client.feed(ev.Submit(request_id, "tiny", RawPrompt("hi"), config, "2026-11-24"))
    end = net.finish(client, request_id, limit_ms=1_000)
    assert end.code == "bad_request"
    net.run_for(5_000)
    assert len(client.core._requester) == 0


def test_names_that_no_announce_can_carry_are_refused_before_they_are_used() -> None:
    net = FakeNet(21)
    with pytest.raises(UsageError, match="node name"):
        net.add("x" * 41)
    node = net.add("worker", ScriptedModel(name="é" * 21))
    with pytest.raises(UsageError, match="model name"):
        net.join(node)


def test_requests_of_a_node_that_has_left_end_at_once() -> None:
    _, client, _ = network(22, ScriptedModel())
    client.feed(ev.Goodbye("off"))
    assert client.end_of(client.ask()).code == "cancelled"


def test_counters_tell_what_became_of_requests_jobs_and_tokens() -> None:
    net, client, (worker,) = network(23, ScriptedModel())
    net.finish(client, client.ask(max_tokens=7))
    net.run_for(3_000)
    asked, served = client.core.counters(), worker.core.counters()
    assert (asked["requests"], asked["requests_done"], asked["attempts"]) == (1, 1, 1)
    assert asked["tokens_received"] == served["tokens_made"] == 7
    assert (served["jobs"], served["jobs_done"]) == (1, 1)


def test_the_driver_is_always_woken_in_time_and_seldom_in_vain() -> None:
    net, client, (worker,) = network(25, ScriptedModel(token_ms=30))
    request_id = client.ask(max_tokens=100)
    net.finish(client, request_id)
    for node in (client, worker):
        due = node.core._desk.agenda.earliest()
        assert due is not None
        assert node.wake_at is not None
        assert node.wake_at <= due
        assert len(node.effects(ef.Wake)) < 60, "far fewer than tokens"
