"""Every oracle falls on a history that is broken on purpose: one that cannot fall proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

import pytest

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import (
    Assign,
    ChatPrompt,
    FinishReason,
    GenerationConfig,
    Head,
    NodeId,
    RequestId,
    Resume,
)
from llama_gossip.simulation.history import Story, Work
from llama_gossip.simulation.oracles import AFTER_HEAL_MS, DISTURBED_LEASE_MS, Oracles
from llama_gossip.simulation.waste import FEW_TOKENS

ASKER, WORKER, OTHER = NodeId(b"a" * 32), NodeId(b"w" * 32), NodeId(b"o" * 32)
REQUEST = RequestId(b"r" * 16)
BOOT = 7
SUBMIT = ev.Submit(
    request_id=REQUEST,
    model="tiny",
    prompt=ChatPrompt((("user", "hello"),)),
    config=GenerationConfig(max_tokens=8, seed=1),
    date="2026-11-24",
)


class Told:
    """A history, told step by step; by default a good one."""

    def __init__(self, *, failover: bool = False, capable: str = "", lied: bool = False) -> None:
        self.oracles = Oracles(
            failover=failover,
            capable=lambda story, now_ms: capable,
            lied=lambda worker: lied and worker == WORKER,
        )
        self.story: Story = self.oracles.submitted(ASKER, SUBMIT, 1_000)
        self.now_ms = 1_000

    @property
    def fallen(self) -> set[str]:
        return {violation.oracle for violation in self.oracles.violations}

    def later(self, ms: int) -> Told:
        self.now_ms += ms
        return self

    def assign(
        self, attempt: int = 1, worker: NodeId = WORKER, resume: Resume | None = None, boot: int = BOOT
    ) -> Told:
        assign = Assign(
            head=Head(1, attempt, 1),
            request_id=REQUEST,
            attempt=attempt,
            worker=worker,
            worker_boot=boot,
            accept_by=0,
            prompt=SUBMIT.prompt,
            config=SUBMIT.config,
            resume=resume,
            priority=5,
            deadline_ms=1_000,
            model="tiny",
            model_digest=None,
            date=SUBMIT.date,
        )
        self.oracles.assigned(ASKER, assign, self.now_ms)
        return self

    def work(
        self, attempt: int = 1, worker: NodeId = WORKER, boot: int = BOOT, running: int = 1, job: int = 1
    ) -> Told:
        work = Work(worker, 1, 1, job, (ASKER, REQUEST), attempt, self.now_ms)
        self.oracles.work_started(work, boot, self.now_ms, running=running, slots=1)
        return self

    def work_over(self, worker: NodeId = WORKER, job: int = 1) -> Told:
        self.oracles.work_ended(worker, 1, job, self.now_ms)
        return self

    def effect(self, effect: ef.Accepted | ef.DeliverTokens | ef.Retried | ef.Finished | ef.Failed) -> Told:
        self.oracles.told(ASKER, effect, self.now_ms)
        return self

    def tokens(self, start: int, stop: int, attempt: int = 1, worker: NodeId = WORKER) -> Told:
        whole = self.story.whole
        return self.effect(
            ef.DeliverTokens(
                REQUEST, start, whole.ids[start:stop], whole.texts[start:stop], None, worker, attempt
            )
        )

    def retried(self, attempt: int = 1, worker: NodeId = WORKER) -> Told:
        return self.effect(ef.Retried(REQUEST, attempt, worker, "broken on purpose"))

    def finished(self, **changes: object) -> Told:
        whole = self.story.whole
        end = ef.Finished(
            request_id=REQUEST,
            finish_reason=FinishReason.LENGTH,
            total_tokens=len(whole.texts),
            prompt_tokens=1,
            duration_secs=0.1,
            worker=WORKER,
            attempt=1,
            model="tiny",
            model_digest=None,
            text_digest=whole.text_digest,
        )
        return self.effect(replace(end, **changes))  # type: ignore[arg-type]

    def failed(self, code: str = "peer_failed") -> Told:
        return self.effect(ef.Failed(REQUEST, code, "broken on purpose", ""))

    def end(self) -> Told:
        self.oracles.finish(self.now_ms, healed_ms=1_000)
        return self


def whole(told: Told) -> int:
    return len(told.story.whole.texts)


def resume(told: Told, index: int, text: str | None = None) -> Resume:
    answer = told.story.whole
    beginning = "".join(answer.texts[:index]) if text is None else text
    return Resume(index, answer.ids[:index], beginning, None, None)


def test_a_good_history_brings_no_oracle_down() -> None:
    told = Told(failover=True, capable="w")
    told.assign().work().tokens(0, 2).retried().work_over()
    told.assign(2, OTHER, resume(told, 2)).work(2, OTHER).tokens(2, whole(told), 2, OTHER)
    told.work_over(OTHER).finished(attempt=2, worker=OTHER).end()
    assert told.oracles.violations == []
    assert told.oracles.failovers == 1


BROKEN: dict[str, tuple[str, Callable[[], Told]]] = {
    "a token is missing": ("I1", lambda: Told().assign().tokens(0, 2).tokens(3, 4)),
    "a token comes twice": ("I1", lambda: Told().assign().tokens(0, 2).tokens(1, 2)),
    "more tokens than were asked for": ("I1", lambda: more_tokens()),
    "an earlier attempt speaks again": (
        "I2",
        lambda: Told().assign().retried().assign(2).tokens(0, 1, 2).tokens(1, 2, 1),
    ),
    "a segment begins anew behind tokens": (
        "I2",
        lambda: Told().assign().tokens(0, 2).retried().assign(2).tokens(2, 3, 2),
    ),
    "a resume has another text": ("I2", lambda: other_resume()),
    "attempts do not rise": ("I2", lambda: Told().assign(2).retried(2).assign(1)),
    "tokens of nobody's attempt": ("I2", lambda: Told().tokens(0, 1)),
    "two ends": ("I3", lambda: Told().assign().failed().failed()),
    "tokens after the end": ("I3", lambda: Told().assign().failed().tokens(0, 1)),
    "no end at all": ("I3", lambda: Told().assign().end()),
    "a truncated success": ("I4", lambda: Told().assign().tokens(0, 2).finished()),
    "a digest of another text": (
        "I4",
        lambda: (lambda told: told.assign().tokens(0, whole(told)).finished(text_digest=bytes(32)))(Told()),
    ),
    "two attempts made at once": ("I5", lambda: Told().assign().work().assign(2, OTHER).work(2, OTHER)),
    "assigned anew while the last attempt lives": ("I5", lambda: Told().assign().assign(2)),
    "a zombie": (
        "I5",
        lambda: Told().assign().work().retried().later(DISTURBED_LEASE_MS + 1).work_over(),
    ),
    "work for one who is gone": ("I5", lambda: let_go()),
    "work for one who has said goodbye": ("I5", lambda: said_goodbye(before=2)),
    "more jobs than slots": ("I7", lambda: Told().assign().work(running=2)),
    "a slot that is never freed": ("I7", lambda: Told().assign().work().failed().later(1).end()),
    "a slot that is freed twice": ("I7", lambda: Told().assign().work().work_over().work_over()),
    "twice as many tokens made as needed": ("I9", lambda: waste()),
    "work without an Assign": ("I10", lambda: Told().work()),
    "work for another boot": ("I10", lambda: Told().assign(boot=BOOT - 1).work()),
    "work that another was assigned": ("I10", lambda: Told().assign(worker=OTHER).work()),
    "an attempt begun twice": ("I10", lambda: Told().assign().work().work_over().work(job=2)),
    "an Assign after the end": ("I10", lambda: Told().assign().failed().assign(2)),
    "a failure though somebody could": ("I11", lambda: Told(capable="w").assign().failed()),
    "a failure after tokens where failover is": (
        "I11",
        lambda: Told(capable="w", failover=True).assign().tokens(0, 1).failed(),
    ),
    "cancelled by nobody": ("I11", lambda: Told().assign().failed("cancelled")),
    "no end for minutes": ("I11", lambda: Told().later(AFTER_HEAL_MS + 1).failed().end()),
    "an end after the deadline": ("I11", lambda: late()),
    "a storm of Assigns": ("I12", lambda: storm()),
    "two Announces at once": ("I12", lambda: announces()),
    "another text than without faults": ("I16", lambda: other_text()),
}


def more_tokens() -> Told:
    told = Told().assign().tokens(0, whole(Told()))
    extra = ef.DeliverTokens(REQUEST, whole(told), (), ("x",) * 9, None, WORKER, 1)
    return told.effect(extra)


def other_resume() -> Told:
    told = Told().assign().tokens(0, 2).retried()
    return told.assign(2, OTHER, resume(told, 2, "another")).tokens(2, 3, 2, OTHER)


def let_go() -> Told:
    told = Told().assign().work()
    told.oracles.work_let_go(WORKER, 1, 1, told.now_ms)
    return told


def said_goodbye(*, before: int) -> Told:
    """before: the seq of the Leave; the Assign has 1."""
    told = Told().assign().work()
    told.oracles.requester_gone(WORKER, 1, ASKER, (1, before), told.now_ms)
    return told


def test_an_old_goodbye_ends_nothing_that_was_asked_since() -> None:
    assert said_goodbye(before=1).fallen == set()


def waste() -> Told:
    told = Told()
    told.oracles.waste.made_for(told.story, 1, 0, FEW_TOKENS)
    told.oracles.waste.made_for(told.story, 2, 0, FEW_TOKENS)
    return told.failed().end()


def late() -> Told:
    told = Told()
    told.story.submit = replace(SUBMIT, deadline_ms=500)
    return told.later(501).failed("timeout")


def storm() -> Told:
    told = Told()
    for attempt in range(1, 30):
        told.assign(attempt).retried(attempt)
    return told


def announces() -> Told:
    told = Told()
    for at_ms in (1_000, 1_499):
        told.oracles.announced(WORKER, 1, at_ms)
    return told


def other_text() -> Told:
    told = Told().assign()
    made_up = ("x",) * whole(told)
    digest = blake2b("".join(made_up).encode(), digest_size=32).digest()
    told.effect(ef.DeliverTokens(REQUEST, 0, (), made_up, None, WORKER, 1))
    return told.finished(text_digest=digest)


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_history_brings_its_oracle_down(what: str) -> None:
    oracle, history = BROKEN[what]
    assert oracle in history().fallen


def test_every_oracle_of_the_history_has_a_history_that_breaks_it() -> None:
    # Their evidence is in the cores: test_guards, test_world, test_choices.
    elsewhere = {"I6", "I8", "I13", "I14", "I15", "I17"}
    assert {oracle for oracle, _ in BROKEN.values()} == {f"I{n}" for n in range(1, 18)} - elsewhere


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(lambda: Told(capable="w").assign().tokens(0, 1).failed(), id="no failover"),
        pytest.param(lambda: Told(capable="w", lied=True).assign().failed("digest"), id="a lying worker"),
        pytest.param(lambda: Told().assign().failed(), id="nobody who could"),
    ],
)
def test_a_failure_with_a_good_reason_is_none_of_the_oracles_business(told: Callable[[], Told]) -> None:
    assert told().fallen == set()
