"""Load: who asks what and when, drawn from the seed. Each prompt has a canary that no gossip may carry."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import ChatPrompt, GenerationConfig, RequestId
from llama_gossip.protocol.streams import Delivery, Visibility
from llama_gossip.simulation.answers import WEIGHTS
from llama_gossip.simulation.machine import MODEL
from llama_gossip.simulation.scenario import Scenario

CANARY = "canary:"  # what I13 looks for on the topic
DATE = "2026-11-24"
RECENT = 20  # asks among which a conversation goes on


@dataclass(frozen=True, slots=True)
class Ask:
    at_ms: int
    who: float  # 0 ≤ … < 1: which of those who can ask
    submit: ev.Submit
    cancel_after_ms: int | None
    calm: bool  # long after the heal


def draw(rng: random.Random, scenario: Scenario, *, start_ms: int, late_ms: int) -> tuple[list[Ask], int]:
    """The questions, those before the heal first, and when the last of these comes."""
    per_s: float = rng.randint(*scenario.requests_per_s)
    if rng.random() < scenario.patient_share:
        per_s /= 5
    late = round(scenario.requests * scenario.late_share)
    asks: list[Ask] = []
    at_ms = float(start_ms)
    early = min(scenario.early, scenario.requests - late)
    for _ in range(scenario.requests - late - early):
        at_ms += rng.expovariate(per_s / 1_000)
        asks.append(_ask(rng, scenario, round(at_ms), calm=False))
    end_ms = round(at_ms)
    asks.extend(_ask(rng, scenario, end_ms + late_ms + 300 * n, calm=True) for n in range(late))
    first = [_ask(rng, scenario, rng.randrange(start_ms), calm=False) for _ in range(early)]
    return _conversations(rng, scenario, [*first, *asks]), end_ms


def _conversations(rng: random.Random, scenario: Scenario, asks: list[Ask]) -> list[Ask]:
    """Some become the next turn of one that was asked before."""
    turns: list[Ask] = []
    for ask in asks:
        if turns and rng.random() < scenario.turn_share:
            before, own = rng.choice(turns[-RECENT:]).submit.prompt, ask.submit.prompt
            assert isinstance(before, ChatPrompt)
            assert isinstance(own, ChatPrompt)
            prompt = ChatPrompt((*before.messages, ("assistant", "…"), *own.messages))
            ask = replace(ask, submit=replace(ask.submit, prompt=prompt))
        turns.append(ask)
    return turns


def _ask(rng: random.Random, scenario: Scenario, at_ms: int, *, calm: bool) -> Ask:
    request_id = RequestId(rng.randbytes(16))
    filler = "x" * (2_000 if rng.random() < 0.02 else rng.randrange(40))
    long = rng.random() < 0.06
    submit = ev.Submit(
        request_id=request_id,
        model=MODEL if rng.random() < 0.8 else "",
        prompt=ChatPrompt((("user", f"{CANARY}{request_id.hex()} {filler}"),)),
        config=GenerationConfig(
            max_tokens=rng.randint(100, 300) if long else rng.randint(2, 24), seed=rng.getrandbits(64)
        ),
        date=DATE,
        priority=rng.choice((5, 5, 5, 0, 9)),
        deadline_ms=_deadline_ms(rng, scenario, calm),
        model_digest=WEIGHTS if rng.random() < 0.1 else None,
        delivery=_delivery(request_id, scenario),
        visibility=_visibility(request_id, scenario),
    )
    cancelled = not calm and rng.random() < scenario.cancel_share
    return Ask(at_ms, rng.random(), submit, rng.randrange(3_000) if cancelled else None, calm)


def _delivery(request_id: RequestId, scenario: Scenario) -> Delivery:
    chance = request_id[0] / 256  # random bytes of its own
    if chance < scenario.gossip_share:
        return Delivery.GOSSIP
    return Delivery.DIRECT if chance < scenario.gossip_share + scenario.direct_share else Delivery.AUTO


def _visibility(request_id: RequestId, scenario: Scenario) -> Visibility:
    return Visibility.PUBLIC if request_id[1] / 256 < scenario.public_share else Visibility.PRIVATE


def _deadline_ms(rng: random.Random, scenario: Scenario, calm: bool) -> int | None:
    if not calm and rng.random() < scenario.hurried_share:
        return rng.randint(200, 5_000)
    return None if rng.random() < 0.7 else rng.randint(120_000, 300_000)
