"""Resumption: who may continue an answer, how exactly, and what travels to whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    NumericsClass,
    PromptFacts,
    Reject,
    RejectReason,
    Resume,
)
from llama_gossip.protocol.resumption import Maker, ResumeClass, class_between
from llama_gossip.protocol.streams import StreamCode
from tests.protocol.fakewire import network
from tests.protocol.hand import (
    FACTS,
    OWN_BOOT,
    HandWorker,
    kinds,
    progress_with,
    token,
)
from tests.protocol.scripted_model import DIGEST, ScriptedModel

OTHER = bytes(32)


MAKER = Maker(DIGEST, "n", NumericsClass.EXACT, DIGEST)


@pytest.mark.parametrize(
    ("other", "held"),
    [
        (MAKER, ResumeClass.EXACT),
        (replace(MAKER, numerics_id="m"), ResumeClass.IDS),
        (replace(MAKER, numerics_id=None), ResumeClass.IDS),
        (replace(MAKER, prompt_digest=OTHER), ResumeClass.IDS),
        (replace(MAKER, prompt_digest=None), ResumeClass.IDS),
        (replace(MAKER, numerics_class=NumericsClass.FAST), ResumeClass.IDS),
        (replace(MAKER, numerics_class=NumericsClass.FP32), ResumeClass.EXACT),
        (replace(MAKER, model_digest=OTHER), ResumeClass.TEXT),
        (replace(MAKER, model_digest=None), ResumeClass.TEXT),
    ],
)
def test_the_class_of_a_continuation(other: Maker, held: ResumeClass) -> None:
    assert class_between(MAKER, other) is held
    assert class_between(other, MAKER) is held


def test_nil_equals_nothing_not_even_nil() -> None:
    bare = Maker(None, None, NumericsClass.EXACT, None)
    assert class_between(bare, bare) is ResumeClass.TEXT
    assert class_between(replace(bare, model_digest=DIGEST), replace(bare, model_digest=DIGEST)) is (
        ResumeClass.IDS
    )


def offer(**changes: Any) -> dict[str, Any]:
    return {"model": ScriptedModel(**changes)}


def torn(least: ResumeClass, facts: PromptFacts = FACTS, **second: Any) -> tuple[HandWorker, bool]:
    """A worker is lost after two tokens; another with these properties is there. Whether it is asked."""
    worker = HandWorker()
    worker.submit(resume=least)
    hand = worker.connect()
    hand.send(progress_with(facts), token(0, "a", "b"))
    other = worker.another("second", **offer(**second))
    hand.client.feed(ev.StreamLost(hand.stream, "gone"))
    return worker, worker.client.all(ef.OpenStream)[-1].worker == other.node_id


@pytest.mark.parametrize(
    ("second", "held"),
    [
        ({}, ResumeClass.EXACT),
        ({"numerics_id": "other"}, ResumeClass.IDS),
        ({"numerics_class": NumericsClass.FAST}, ResumeClass.IDS),
        ({"digest": OTHER}, ResumeClass.TEXT),
        ({"digest": None}, ResumeClass.TEXT),
    ],
)
@pytest.mark.parametrize("least", list(ResumeClass))
def test_only_who_continues_exactly_enough_is_asked(
    second: dict[str, Any], held: ResumeClass, least: ResumeClass
) -> None:
    worker, asked = torn(least, **second)
    assert asked is (held >= least)
    if asked:
        assign = worker.connect().assign
        ids, digest = ((0, 1), DIGEST) if held > ResumeClass.TEXT else ((), None)
        assert assign.resume == Resume(2, ids, "ab", DIGEST, "scripted-1")
        assert assign.model_digest == digest, "ids are bound to their weights"
        assert (assign.config.seed, assign.date) == (1, "2026-11-24")


def test_when_nobody_may_continue_the_reason_names_the_option() -> None:
    worker, _ = torn(ResumeClass.EXACT, numerics_id="other")
    worker.client.wait(20_000)
    (end,) = worker.client.all(ef.Failed)
    assert end.code == "peer_failed"
    assert "--resume" in end.hint
    assert any("by ids only" in reason for _, _, reason in end.trail)


def test_the_worker_that_continues_most_exactly_is_preferred() -> None:
    worker = HandWorker()
    worker.submit(resume=ResumeClass.TEXT)
    hand = worker.connect()
    hand.send(progress_with(FACTS), token(0, "a"))
    for number in range(4):
        worker.another(f"fast {number}", **offer(digest=OTHER, token_ms=1))
        worker.another(f"same weights {number}", **offer(numerics_id="other", token_ms=1))
    equal = worker.another("equal", **offer(token_ms=90))
    hand.client.feed(ev.StreamLost(hand.stream, "gone"))
    assert worker.client.all(ef.OpenStream)[-1].worker == equal.node_id


@pytest.mark.parametrize(("least", "held"), [(ResumeClass.IDS, ResumeClass.IDS), (ResumeClass.EXACT, None)])
def test_a_prompt_that_was_rendered_otherwise_shows_before_the_first_token(
    least: ResumeClass, held: ResumeClass | None
) -> None:
    worker, _ = torn(least)
    effects = worker.connect().send(progress_with(replace(FACTS, prompt_digest=OTHER)), token(2, "c"))
    seams = [effect.resume for effect in effects if isinstance(effect, ef.FailedOver)]
    assert seams == ([held] if held is not None else [])
    assert (ef.DeliverTokens in kinds(effects)) is (held is not None)


def test_an_unequal_worker_is_stopped_before_it_computes_a_token() -> None:
    worker, _ = torn(ResumeClass.EXACT)
    hand = worker.connect()
    effects = hand.send(progress_with(replace(FACTS, prompt_digest=OTHER)))
    assert kinds(effects)[:3] == [ef.Accepted, ef.WriteStream, ef.ResetStream]
    assert worker.client.core.counters()["attempts_unequal"] == 1


def test_a_worker_whose_weights_are_not_those_it_announced_gives_no_token() -> None:
    worker, _ = torn(ResumeClass.TEXT)
    hand = worker.connect()
    effects = hand.send(progress_with(replace(FACTS, model_digest=OTHER)), token(2, "c"))
    assert ef.DeliverTokens not in kinds(effects)
    assert ef.ResetStream(hand.stream, StreamCode.CANCELLED) in effects


def test_without_a_word_about_the_prompt_nothing_counts_as_exact() -> None:
    worker, _ = torn(ResumeClass.IDS)
    worker.connect().send(token(2, "c"))
    (seam,) = worker.client.all(ef.FailedOver)
    assert seam.resume is ResumeClass.IDS


def test_after_a_seam_by_text_the_ids_of_two_vocabularies_never_travel_together() -> None:
    worker, _ = torn(ResumeClass.TEXT, digest=OTHER)
    hand = worker.connect()
    hand.send(progress_with(replace(FACTS, model_digest=OTHER)), token(2, "c"))
    worker.another("third", **offer(digest=OTHER))
    hand.client.feed(ev.StreamLost(hand.stream, "gone"))
    resume = worker.connect().assign.resume
    assert resume is not None
    assert (resume.from_index, resume.token_ids, resume.text) == (3, (), "abc")


def test_an_engine_without_ids_is_continued_by_its_text() -> None:
    net, client, _ = network(9, *(ScriptedModel(ids=False, fail_after=3) for _ in range(2)))
    request_id = client.ask(max_tokens=5, resume=ResumeClass.TEXT)
    assert isinstance(net.finish(client, request_id), ef.Finished)
    assert client.told(request_id, ef.FailedOver)[0].resume is ResumeClass.TEXT


def test_a_worker_with_other_weights_refuses_and_is_not_asked_again() -> None:
    worker, _ = torn(ResumeClass.IDS)
    worker.connect().send(Reject(0, RejectReason.DIGEST, 0, OWN_BOOT))
    worker.client.wait(30_000)
    (end,) = worker.client.all(ef.Failed)
    assert end.code == "peer_failed"
