"""Failover under any sequence of faults: one terminal event, contiguous indices, the fault-free text."""

from __future__ import annotations

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.transcript import verify_transcript
from tests.protocol.fakewire import FakeNet, FakeNode, check_promises, check_quiet
from tests.protocol.scripted_model import ScriptedModel, answer_of

FAULTS = ["cut", "kill", "stop", "hang", "fail", "leave", "junk", "restart", "wake"]
STORIES = st.lists(
    st.tuples(st.integers(0, 150), st.sampled_from(FAULTS), st.integers(0, 2**16)), min_size=1, max_size=9
)
SLOW = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
WORKERS = 3


class Story:
    """A client that asks and three workers that things happen to."""

    def __init__(self, seed: int, token_ms: int, tokens: int) -> None:
        self.net = net = FakeNet(seed, delay_ms=(1, 9))
        net.cut_chunks = True
        self.token_ms = token_ms
        self.client = net.add("client")
        for number in range(WORKERS):
            net.add(f"worker {number}", ScriptedModel(token_ms=token_ms))
        net.join(*net.nodes)
        net.run_for(500)
        self.asked = [self.client.ask(seed=seed % 9 + n, max_tokens=tokens) for n in range(2)]

    def workers(self) -> list[FakeNode]:
        return [node for node in self.net.nodes if node is not self.client]

    def happen(self, what: str, pick: int) -> None:
        net = self.net
        node = self.workers()[pick % WORKERS]
        runs = node.alive and node.frozen is None and node.model is not None
        match what:
            case "cut" if net.ends:
                net.cut(sorted(net.ends)[pick % len(net.ends)])
            case "kill":
                net.kill(node)
            case "stop" if runs:
                net.freeze(node)
            case "wake":
                net.thaw(node)
            case "hang" if runs and node.model is not None:
                node.model.running.clear()  # it says no more about what it runs
            case "fail" if runs and node.model is not None:
                for job in list(node.model.running):
                    node.feed(ev.EngineFailed(job, "engine_failed", "story", retryable=True))
            case "leave" if runs:
                node.feed(ev.Goodbye("story"))
            case "junk":
                self.junk(pick)
            case "restart" if not node.alive:
                net.join(net.add(node.name, ScriptedModel(token_ms=self.token_ms)))
            case _:
                pass

    def junk(self, pick: int) -> None:
        mine = sorted(n for n, end in self.net.ends.items() if end.owner is self.client and not end.deaf)
        if mine:
            self.client.feed(ev.StreamData(mine[pick % len(mine)], self.net.rng.randbytes(1 + pick % 80)))

    def rescue(self) -> None:
        """Somebody who can is there in the end, so that the answers can be completed."""
        net = self.net
        for node in self.workers():
            if not node.alive:
                net.join(net.add(node.name, ScriptedModel(token_ms=self.token_ms)))
            net.thaw(node)
        net.join(net.add("rescuer", ScriptedModel(token_ms=self.token_ms, slots=8)))


@SLOW
@given(st.integers(0, 2**32), st.sampled_from([2, 20, 90]), st.integers(4, 30), STORIES)
def test_any_sequence_of_faults_ends_once_and_the_text_is_the_fault_free_one(
    seed: int, token_ms: int, tokens: int, story: list[tuple[int, str, int]]
) -> None:
    told = Story(seed, token_ms, tokens)
    for wait_ms, what, pick in story:
        told.net.run_for(wait_ms)
        told.happen(what, pick)
        check_promises(told.net)
    told.rescue()
    told.net.run_for(120_000)
    client = told.client
    for request_id in told.asked:
        end = client.end_of(request_id)
        assert isinstance(end, ef.Finished | ef.Failed)
        event(f"{type(end).__name__}, {len(client.told(request_id, ef.FailedOver))} seams")
        check_seams(client, request_id)
        whole = answer_of(client.submitted[request_id].config.seed, tokens)
        assert whole.startswith(client.text_of(request_id)), "also what a failed request has shown"
        if isinstance(end, ef.Finished):
            verdict = verify_transcript(client.core.take_transcript(request_id))
            assert (verdict.verified, verdict.text) == (True, whole), verdict.reason
    check_promises(told.net)


def check_seams(client: FakeNode, request_id: object) -> None:
    """An attempt's tokens are one piece, pieces come in the order of attempts, each seam before its piece."""
    attempt, worker, at = 0, b"", 0
    announced: ef.FailedOver | None = None
    for effect in client.user[request_id]:  # type: ignore[index]
        if isinstance(effect, ef.FailedOver):
            assert (effect.index, effect.from_worker, effect.attempt > attempt) == (at, worker, True)
            announced = effect
        elif isinstance(effect, ef.DeliverTokens):
            if effect.attempt != attempt and attempt:
                assert announced is not None
                assert (announced.attempt, announced.to_worker) == (effect.attempt, effect.worker)
            assert effect.attempt >= attempt
            attempt, worker, at = effect.attempt, effect.worker, at + len(effect.texts)


@SLOW
@given(st.integers(0, 2**32), st.lists(st.integers(1, 6), max_size=8), st.integers(1, 40))
def test_a_request_whose_worker_is_lost_again_and_again_is_completed(
    seed: int, cuts: list[int], tokens: int
) -> None:
    net = FakeNet(seed)
    client = net.add("client")
    for number in range(WORKERS):
        net.add(f"worker {number}", ScriptedModel(token_ms=20))
    net.join(*net.nodes)
    net.run_for(500)
    request_id = client.ask(seed=seed % 50, max_tokens=tokens)
    done = 0
    for more in cuts:
        done += more
        net.run_until(
            lambda done=done: (
                len(client.text_of(request_id).split()) >= done  # type: ignore[misc]
                or client.end_of(request_id) is not None
            )
        )
        if client.end_of(request_id) is None:
            attempt = client.core._requester._requests[request_id].attempt
            assert attempt is not None
            net.cut(attempt.stream)
    end = net.finish(client, request_id)
    assert isinstance(end, ef.Finished), end
    assert client.text_of(request_id) == answer_of(seed % 50, tokens)
    net.run_for(60_000)
    check_quiet(net)
