"""Request: one question of this node's user, from submit to its one terminal event.

The law: states move only by the table in states.py; what was tried and why it ended stands in the trail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_gossip.protocol.admission import prompt_bytes
from llama_gossip.protocol.affinity import links_of
from llama_gossip.protocol.agenda import TimerKey
from llama_gossip.protocol.attempt import Attempt
from llama_gossip.protocol.events import Submit
from llama_gossip.protocol.messages import IdsPrompt, NodeId, RequestId
from llama_gossip.protocol.record import record
from llama_gossip.protocol.resumption import Prefix
from llama_gossip.protocol.selection import Candidate, Want
from llama_gossip.protocol.states import REQUEST_ENDS, REQUEST_MOVES, RequestState, RequestStep, move
from llama_gossip.protocol.streams import Delivery, Visibility
from llama_gossip.protocol.timers import Timers

MAX_STRIKES = 3  # accepted attempts in a row without one new token
MAX_ATTEMPTS = 16  # accepted, in all
BYTES_PER_TOKEN = 8  # of a prompt that no tokeniser has seen: no vocabulary makes fewer of usual text
MAX_TRAIL = 64  # lines kept: enough to explain, bounded for a request that waits long


def begun(submit: Submit, timers: Timers, now_mono_ms: int) -> Request:
    deadline_ms = timers.deadline_ms if submit.deadline_ms is None else submit.deadline_ms
    return Request(
        submit,
        prompt_tokens=known_tokens(submit),
        links=links_of(submit.model, submit.prompt),
        submitted_mono_ms=now_mono_ms,
        deadline_mono_ms=now_mono_ms + deadline_ms,
        stall_ms=timers.stall_ms,
    )


def known_tokens(submit: Submit) -> int:
    """How many tokens the prompt has at least, as far as it is known without a tokeniser."""
    prompt = submit.prompt
    if isinstance(prompt, IdsPrompt):
        return len(prompt.ids)
    return submit.prompt_tokens or max(1, prompt_bytes(prompt) // BYTES_PER_TOKEN)


@record(frozen=True, slots=True)
class Spare:
    """A stream that stands ready while the live attempt is silent."""

    candidate: Candidate
    stream: int


@record(frozen=True, slots=True)
class Seam:
    """Where the answer was torn. Told to the user once it is known how it held."""

    from_worker: NodeId
    reason: str


@dataclass(slots=True)
class Request:
    submit: Submit
    prompt_tokens: int  # at least, as far as it is known; what a Request tells of it
    links: tuple[bytes, ...]  # of its conversation
    submitted_mono_ms: int
    deadline_mono_ms: int
    stall_ms: int
    state: RequestState = RequestState.NEW
    attempts: int = 0  # the fencing token: Assigns signed so far
    accepted: int = 0
    strikes: int = 0
    prefix: Prefix = field(default_factory=Prefix)
    last_token_mono_ms: int = 0
    seam: Seam | None = None  # the attempt that made the last token has failed, and no newer one has come
    least_context: int = 0  # a worker with less has refused it as too long
    too_long_told: str = ""  # in the words of the last such worker, which has counted
    dials: dict[int, Candidate] = field(default_factory=dict)
    attempt: Attempt | None = None
    spare: Spare | None = None
    closing: int | None = None  # the stream of a finished attempt, until its own end
    barred: dict[NodeId, str] = field(default_factory=dict)  # said no for good, and why (a code)
    tired: set[NodeId] = field(default_factory=set)  # failed once: others are tried first
    trail: list[tuple[NodeId, int, str]] = field(default_factory=list)
    boot_corrections: int = 0
    too_big: bool = False  # for a Packet
    failed_before: bool = False  # some worker broke, as opposed to refused
    call: int | None = None  # the topic is asked for it
    asking_since_ms: int | None = None
    answered: bool = False  # a round of Claims is over since then
    held: bool = False  # its reader has no room: nothing new begins, and no silence counts

    @property
    def request_id(self) -> RequestId:
        return self.submit.request_id

    @property
    def public(self) -> bool:
        return self.submit.visibility is Visibility.PUBLIC

    @property
    def delivery(self) -> Delivery:
        """What everybody may read takes the way on which everybody hears it."""
        return Delivery.GOSSIP if self.public else self.submit.delivery

    @property
    def delivered(self) -> int:
        """Tokens released to the user."""
        return self.prefix.tokens

    @property
    def ended(self) -> bool:
        """The user has had the terminal event."""
        return self.state in REQUEST_ENDS or self.state is RequestState.DRAINING

    @property
    def idle(self) -> bool:
        """Nothing is under way for it, and something might."""
        return not self.ended and self.attempt is None and not self.dials and not self.held

    def step(self, step: RequestStep) -> None:
        self.state = move(REQUEST_MOVES, self.state, step)

    def note(self, worker: NodeId, attempt: int, reason: str) -> None:
        line = (worker, attempt, reason)
        if self.trail and self.trail[-1][0] == worker and self.trail[-1][2] == reason:
            self.trail[-1] = line  # a full worker asked again and again is one line
        elif len(self.trail) < MAX_TRAIL:
            self.trail.append(line)

    def want(self) -> Want:
        prompt = self.submit.prompt
        known = len(prompt.ids) if isinstance(prompt, IdsPrompt) else 1
        return Want(
            model=self.submit.model,
            model_digest=self.submit.model_digest,
            least_tokens=max(known + self.submit.config.needed, self.least_context),
            max_tokens=self.submit.config.max_tokens,
            worker=self.submit.worker,
            continuation=self.prefix.continuation(self.submit.resume),
        )

    def dialling(self, worker: NodeId) -> bool:
        return any(candidate.node_id == worker for candidate in self.dials.values())

    def key(self, name: str) -> TimerKey:
        return ("request", self.request_id, name)
