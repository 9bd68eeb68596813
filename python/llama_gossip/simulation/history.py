"""History: what happened in one seed, as the oracles judge it. Plain records; nothing here decides."""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import Assign, NodeId, RequestId
from llama_gossip.simulation.answers import WholeAnswer, answer_to

Key = tuple[NodeId, RequestId]


@dataclass(frozen=True, slots=True)
class Violation:
    oracle: str  # I1 … I17
    at_ms: int
    what: str

    def __str__(self) -> str:
        return f"{self.oracle} at {self.at_ms} ms: {self.what}"


@dataclass(slots=True)
class Story:
    """One request, as its user and its requester's wire saw it."""

    requester: NodeId
    submit: ev.Submit
    at_ms: int
    delivered: int = 0
    made: int = 0  # tokens from the answer's start on, while they were wanted
    texts: list[str] = field(default_factory=list)
    attempt: int = 0  # of the newest tokens
    assigns: dict[int, Assign] = field(default_factory=dict)
    by_gossip: dict[int, int] = field(default_factory=dict)  # attempt → when its Assign was sent first
    fenced: dict[int, int] = field(default_factory=dict)  # attempt → when it stopped being live
    accepted: int = 0  # attempts
    fruitless: int = 0  # accepted in a row, without one new token
    continued: int = 0  # attempts that went on behind tokens
    end: ef.Finished | ef.Failed | None = None
    end_ms: int = 0
    cancelled: bool = False  # by its user
    calm: bool = False  # asked when nothing has been wrong for long
    tainted: bool = False  # a liar has made some of its tokens
    void: bool = False  # its requester's process is gone

    @property
    def key(self) -> Key:
        return (self.requester, self.submit.request_id)

    @property
    def name(self) -> str:
        return f"request {self.submit.request_id.hex()[:8]}"

    @property
    def whole(self) -> WholeAnswer:
        """The answer without any fault."""
        config = self.submit.config
        return answer_to(self.submit.prompt, config.seed, config.max_tokens)

    @property
    def over(self) -> bool:
        return self.end is not None or self.void

    def fence_all(self, now_ms: int) -> None:
        for attempt in self.assigns:
            self.fenced.setdefault(attempt, now_ms)


@dataclass(slots=True)
class Work:
    """One engine job of one worker's life."""

    worker: NodeId
    place: int
    life: int
    job: int
    key: Key
    attempt: int
    start_ms: int
    cancelled_ms: int | None = None  # the core has told the engine to stop
    worker_paused_ms: int = 0  # at the start
    requester_paused_ms: int = 0
    worker_set_back_ms: int = 0  # its wall clock, which tells whether an Assign over gossip is in time
