"""Two cores and a fake wire: the plain life of a request."""

from __future__ import annotations

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol.messages import FinishReason
from llama_gossip.protocol.transcript import verify_transcript
from tests.protocol.fakewire import FakeNet, check_quiet
from tests.protocol.scripted_model import DIGEST, ScriptedModel, answer_of


def test_a_request_travels_from_submit_to_complete_between_two_cores() -> None:
    net = FakeNet(1)
    worker, client = net.add("worker", ScriptedModel()), net.add("client")
    net.join(worker, client)
    net.run_for(1_000)
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
    assert [(end.tokens, end.reason) for end in worker.effects(ef.JobEnded)] == [(50, "done")]
