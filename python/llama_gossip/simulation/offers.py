"""Offers: I17, who answers a Request is chosen when its offer window is over, not before.

    Request ─► first Claim ─ 150 ms ─► over          and after 2 s at the latest

The law: it speaks only of what nobody but a Claim can have brought about: a public request, which is nobody's
before the topic was asked, and a worker whose Announce does not name the model, as long as the request whose
id the Request bears waits for nothing else. Late Claims are as good as early ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.limits import KEY_BYTES
from llama_gossip.protocol.messages import Assign, Claim, Kind, NodeId, Request, RequestId
from llama_gossip.protocol.streams import Visibility
from llama_gossip.simulation.history import Story
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.reading import message_of, raw_of

if TYPE_CHECKING:
    from llama_gossip.simulation.world import World

WINDOW_MS = 150  # after the first Claim
LATEST_MS = 2_000  # after the Request

Life = tuple[int, int]  # place and life
Question = tuple[Life, str, int, int, RequestId | None]


@dataclass(slots=True)
class _Round:
    number: int  # of its question
    lead: RequestId
    asked_ms: int
    attempts: int  # that the lead had had
    first_ms: int | None = None  # its first Claim
    left: bool = False  # the lead has stopped waiting meanwhile: what comes now is late

    @property
    def over_ms(self) -> int:
        latest_ms = self.asked_ms + LATEST_MS
        return latest_ms if self.first_ms is None else min(latest_ms, self.first_ms + WINDOW_MS)


class Offers:
    def __init__(self, world: World) -> None:
        self._world = world
        self._rounds: dict[Question, _Round] = {}  # the newest of each
        self._questions: dict[tuple[Life, RequestId], Question] = {}
        # When a worker has claimed a question first, and whether the lead waited for just that.
        self._claimed: dict[tuple[Question, NodeId], tuple[int, bool]] = {}
        self.judged = 0

    def said(self, node: Process, data: bytes) -> None:
        """A node's own broadcast."""
        if data[2] != Kind.REQUEST:
            return
        request = message_of(data)
        assert isinstance(request, Request)
        life, lead = (node.place, node.life), request.request_id
        public = lead if request.prompt is not None else None
        question = (life, request.model, request.prompt_tokens, request.max_tokens, public)
        before, story = self._rounds.get(question), self._story(node, lead)
        number = 1 if before is None else before.number + 1
        attempts = 0 if story is None else len(story.assigns)
        self._rounds[question] = _Round(number, lead, self._world.clock.now_ms, attempts)
        self._questions[life, lead] = question

    def heard(self, node: Process, data: bytes) -> None:
        """A message that its core has taken, and acted on."""
        if data[2] != Kind.CLAIM or data.find(node.node_id, KEY_BYTES) < 0:
            return
        claim = message_of(data)
        assert isinstance(claim, Claim)
        question = self._questions.get(((node.place, node.life), claim.request_id))
        if claim.requester != node.node_id or question is None:
            return
        now_ms, open_round = self._world.clock.now_ms, self._rounds[question]
        if open_round.first_ms is None:
            open_round.first_ms = now_ms
        waits = _waits(node, open_round.lead, claim.worker)
        self._claimed.setdefault((question, claim.worker), (now_ms, waits))

    def dialled(self, node: Process, worker: NodeId) -> None:
        """Whoever goes to a worker that is none of the round's offers does not wait for the round."""
        if _claims(node.event, worker):
            return  # an offer that is known as heard only after this event
        for question, asked in self._rounds.items():
            if question[0] != (node.place, node.life) or asked.left:
                continue
            claimed_ms, _ = self._claimed.get((question, worker), (-1, False))
            request = None if node.core is None else node.core._requester._requests.get(asked.lead)
            if claimed_ms < asked.asked_ms and request is not None and request.dialling(worker):
                asked.left = True

    def reads(self, node: Process, request_id: RequestId) -> None:
        """A request whose reader stops waits for nothing until it reads again."""
        question = self._questions.get(((node.place, node.life), request_id))
        if question is not None and self._rounds[question].lead == request_id:
            self._rounds[question].left = True

    def assigned(self, node: Process, assign: Assign) -> None:
        """It is not in the story yet."""
        story = self._story(node, assign.request_id)
        if story is None:
            return
        question = self._questions.get(((node.place, node.life), assign.request_id))
        if story.submit.visibility is Visibility.PUBLIC:
            self._judge_public(node, assign, question)
        elif question is not None and self._rounds[question].lead == assign.request_id:
            self._judge_claimed(node, assign, question, len(story.assigns))

    def _judge_public(self, node: Process, assign: Assign, question: Question | None) -> None:
        if assign.attempt > 1:
            return
        asked = None if question is None else self._rounds[question]
        if asked is None:
            self._blame(f"{node.name} assigns what is public and has not asked the topic")
        elif asked.number == 1:
            self._judge(node, asked)

    def _judge_claimed(self, node: Process, assign: Assign, question: Question, attempts: int) -> None:
        claimed_ms, waited = self._claimed.get((question, assign.worker), (0, False))
        asked = self._rounds[question]
        in_it = claimed_ms > asked.asked_ms and waited and attempts == asked.attempts and not asked.left
        if in_it and self._is_known_by_claims_alone(node, assign.worker, question):
            self._judge(node, asked)

    def _judge(self, node: Process, asked: _Round) -> None:
        self.judged += 1
        early_ms = asked.over_ms - self._world.clock.now_ms
        if early_ms > 0:
            self._blame(f"{node.name} assigns {early_ms} ms before the offer window is over")

    def _is_known_by_claims_alone(self, node: Process, worker: NodeId, question: Question) -> bool:
        process, model = self._world.by_id.get(worker), question[1]
        machine = None if process is None or process is node else process.machine
        return machine is not None and machine.crowded and model != ""

    def _story(self, node: Process, request_id: RequestId) -> Story | None:
        return self._world.oracles.stories.get((node.node_id, request_id))

    def _blame(self, what: str) -> None:
        self._world.oracles.blame("I17", self._world.clock.now_ms, what)


def _claims(event: ev.Event, worker: NodeId) -> bool:
    if not isinstance(event, ev.GossipReceived) or event.data[2:3] != bytes((Kind.CLAIM,)):
        return False
    return raw_of(event.data).sender == worker


def _waits(node: Process, lead: RequestId, worker: NodeId) -> bool:
    """For an offer, or for just this worker, who has made one in this event."""
    request = None if node.core is None else node.core._requester._requests.get(lead)
    if request is None or request.attempt is not None:
        return False
    return all(candidate.node_id == worker for candidate in request.dials.values())
