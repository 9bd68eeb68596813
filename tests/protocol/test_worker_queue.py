"""The worker's queue against requesters played by hand: turns, deadlines, and a hung engine's jobs."""

from __future__ import annotations

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.envelope import decode_envelope, split_envelope
from llama_gossip.protocol.jobqueue import Caps
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import Announce, Error, NumericsClass, Progress, PromptFacts, RejectReason
from tests.protocol.hand import Asked, HandClient, done, ended, key, kinds, only, rejected, running
from tests.protocol.scripted_model import ScriptedModel

FLOODER, HONEST = key("flooder"), [key(f"honest {number}") for number in range(9)]


def asks(client: HandClient, signer: object, count: int, **changes: object) -> list[Asked]:
    begin = client.streams
    return [
        client.ask(signer, request_id=client.other(begin + n), **changes)  # type: ignore[arg-type]
        for n in range(count)
    ]


def next_started(client: HandClient, job: int) -> ef.StartJob:
    """Ends a job; the one that gets its slot."""
    start = only(client.worker.feed(done(job, "", 0)), ef.StartJob)
    assert isinstance(start, ef.StartJob)
    return start


def last_frame(asked: Asked) -> tuple[str, bool]:
    last = asked.frames()[-1]
    assert isinstance(last, Error)
    return last.code, last.retryable


def announced_load(client: HandClient) -> tuple[int, int]:
    messages = [
        decode_envelope(split_envelope(e.data, MAX_TOPIC_BYTES)) for e in client.worker.all(ef.Broadcast)
    ]
    newest = [m for m in messages if isinstance(m, Announce)][-1]
    return newest.capacity.current_load, newest.capacity.queue_depth


# --- whose turn it is ----------------------------------------------------------------------------


def test_a_flood_of_one_key_is_answered_in_turn_with_nine_others() -> None:
    client = HandClient(ScriptedModel(slots=1))
    flood = asks(client, FLOODER, 30)
    honest = [client.ask(signer, request_id=client.other(100)) for signer in HONEST]
    assert [f.value for asked in honest for f in asked.frames() if isinstance(f, Progress)] == [*range(9)]
    order, job = [], flood[0].job
    for _ in range(12):
        start = next_started(client, job)
        order.append(start.requester)
        job = start.job
    theirs = [signer.node_id for signer in HONEST]
    assert order == [*theirs, *[FLOODER.node_id] * 3]


def test_a_strangers_question_is_answered_before_the_rest_of_a_more_urgent_flood_in_an_open_network() -> None:
    client = HandClient(ScriptedModel(slots=1), policy=Policy(open_network=True))
    flood = asks(client, FLOODER, 5, priority=9)
    client.ask(HONEST[0], priority=5)
    assert next_started(client, flood[0].job).requester == HONEST[0].node_id


def test_an_allow_listed_key_may_use_the_top_class_in_an_open_network() -> None:
    allowed = frozenset({FLOODER.node_id, HONEST[0].node_id})
    client = HandClient(ScriptedModel(slots=1), policy=Policy(open_network=True), allowlist=allowed)
    flood = asks(client, FLOODER, 12)
    client.ask(HONEST[0], priority=9, request_id=client.other(99))
    assert next_started(client, flood[0].job).requester == HONEST[0].node_id


def test_ageing_brings_the_least_urgent_to_its_turn() -> None:
    client = HandClient(ScriptedModel(slots=1))
    job = asks(client, FLOODER, 1)[0].job
    client.ask(HONEST[0], priority=0)
    for second in range(200):
        asks(client, FLOODER, 1, priority=3)
        client.worker.wait(1_000)
        start = next_started(client, job)
        if start.requester == HONEST[0].node_id:
            assert 29 <= second <= 41
            return
        job = start.job
    raise AssertionError("it was never begun")


def test_a_deadline_ends_a_job_that_waits() -> None:
    client = HandClient(ScriptedModel(slots=1))
    first, waiting = asks(client, FLOODER, 2, deadline_ms=700)
    client.worker.wait(700)
    assert (last_frame(waiting), last_frame(first)) == (("deadline", False), ("deadline", False))
    client.worker.feed(ended(first.job))
    assert (running(client), client.worker.core._worker.jobs.queue.queued) == (0, 0)


def test_a_full_queue_says_when_to_come_again_by_what_its_jobs_take() -> None:
    caps = Caps(max_queued_per_key=1)
    client = HandClient(ScriptedModel(slots=1), policy=Policy(caps=caps))
    first = client.ask()
    client.worker.wait(3_000)
    client.worker.feed(done(first.job, "", 0))
    asks(client, FLOODER, 2)
    reject = rejected(asks(client, FLOODER, 1)[0])
    assert (reject.reason, reject.retry_after_ms) == (RejectReason.FULL, 3_000)


# --- a hung engine -------------------------------------------------------------------------------


def test_new_jobs_do_not_keep_a_hung_engine_alive() -> None:
    client = HandClient(ScriptedModel(slots=3))
    first = asks(client, FLOODER, 1)[0]
    client.worker.wait(20_000)
    later = asks(client, HONEST[0], 1)[0]
    client.worker.wait(9_500)
    last = asks(client, HONEST[1], 1)[0]
    client.worker.wait(1_000)
    for asked in (first, later, last):
        assert last_frame(asked) == ("engine_stalled", True)
        assert ef.CancelJob(asked.job, "engine_stalled") in client.worker.told


def test_what_waits_for_a_hung_engine_ends_with_it() -> None:
    client = HandClient(ScriptedModel(slots=1))
    _, waiting = asks(client, FLOODER, 2)
    client.worker.wait(30_500)
    assert last_frame(waiting) == ("engine_stalled", True)
    assert client.worker.core._worker.jobs.queue.queued == 0


def test_a_hung_engine_takes_nothing_new_until_it_steps_again() -> None:
    client = HandClient(ScriptedModel(slots=4))
    hung = asks(client, FLOODER, 1)[0]
    client.worker.wait(33_000)
    assert rejected(asks(client, HONEST[0], 1)[0]).reason is RejectReason.FULL
    assert announced_load(client) == (4, 0), "nobody is sent here"
    client.worker.feed(ev.EngineStepped())
    assert ef.StartJob in kinds(asks(client, HONEST[0], 1)[0].effects)
    client.worker.feed(ended(hung.job))
    client.worker.wait(2_000)
    assert announced_load(client) == (1, 0)


def test_an_engine_that_was_idle_has_its_whole_time_for_the_first_job() -> None:
    client = HandClient(ScriptedModel(slots=2))
    client.worker.wait(600_000)
    asked = asks(client, FLOODER, 1)[0]
    client.worker.wait(29_999)
    assert {type(frame) for frame in asked.frames()} == {Progress}
    client.worker.feed(done(asked.job, "", 0))
    client.worker.wait(60_000)
    again = asks(client, FLOODER, 1)[0]
    client.worker.wait(29_999)
    assert {type(frame) for frame in again.frames()} == {Progress}


def test_a_job_that_its_requester_gave_up_still_shows_that_the_engine_hangs() -> None:
    client = HandClient(ScriptedModel(slots=2))
    given_up = asks(client, FLOODER, 1)[0]
    client.worker.wait(10_000)
    client.worker.feed(ev.StreamReset(given_up.stream, 1))
    later = asks(client, HONEST[0], 1)[0]
    client.worker.wait(20_500)
    assert last_frame(later) == ("engine_stalled", True)


def test_the_wait_of_a_job_is_observed_when_the_engine_begins_with_it() -> None:
    client = HandClient(ScriptedModel(slots=1))
    first, _ = asks(client, FLOODER, 2)
    seen = client.worker.core.queue_wait_s
    facts = PromptFacts(3, None, None, None, NumericsClass.EXACT)
    client.worker.feed(ev.EngineStarted(first.job, facts))
    client.worker.wait(2_000)
    assert (seen.count, seen.sum) == (1, 0.0)
    start = next_started(client, first.job)
    assert start.requester == FLOODER.node_id
    client.worker.feed(ev.EngineStarted(start.job, facts))
    client.worker.feed(ev.EngineStarted(99, facts))  # of a job that has gone meanwhile
    assert (seen.count, seen.sum) == (2, 2.0)
