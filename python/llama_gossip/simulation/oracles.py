"""Oracles: the invariants of PROTOCOL section 10 as code. They see the history and nothing of the core.

The law: an oracle speaks only of what was promised, and every one of them can fail: a test breaks a history
for each. I6, I8, I13, I14, I15 and I17 are asked where their evidence is (guards.py, world.py, campaign.py,
conversations.py, offers.py).

    user      I1 indices · I2 segments · I3 one end · I4 digest · I16 the fault-free text · I11 liveness
    work      I5 one generator · I7 slots · I9 waste · I10 only by a live Assign
    wire      I12 no storms
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.messages import Assign, NodeId
from llama_gossip.protocol.request import MAX_ATTEMPTS, MAX_STRIKES
from llama_gossip.simulation.history import Key, Story, Violation, Work
from llama_gossip.simulation.waste import Waste

ASSIGNS_AT_ONCE = 24  # of one request, and then
ASSIGNS_PER_S = 5.0  # what the shortest retry_after allows
ANNOUNCE_GAP_MS = 500  # never two Announces of a node within it
UNDISTURBED_LEASE_MS = 1_500  # the way of a reset, and one step of the engine
GOSSIP_LEASE_MS = 19_000  # 15 s since the last Ack that counts, which may be on its way for long
DISTURBED_LEASE_MS = 13_000  # the idle timeout of the connection, and the same
LIVE_MS = 3_000  # whoever is well for so long, and was heard since, can be asked
AFTER_HEAL_MS = 120_000  # every request has ended by then, long before the default deadline
WELL_BEFORE_MS = 60_000  # a deadline nearer than this is the user's own hurry

Capable = Callable[
    [Story, int], str
]  # (request, now) → the name of a worker that could have served it, or ""
Disturbed = Callable[[Work, Story | None, int], int]  # since when on: extra ms, or -1 for an undisturbed path


class Oracles:
    def __init__(
        self,
        *,
        failover: bool,
        capable: Capable = lambda story, now_ms: "",
        disturbed: Disturbed = lambda work, story, since_ms: -1,
        lied: Callable[[NodeId], bool] = lambda worker: False,
        late_ms: Callable[[Story], int] = lambda story: 0,
    ) -> None:
        """failover: a request that has delivered tokens goes on elsewhere; without it, it may fail.
        lied: whether this worker lies about digests, the one fault that no other worker makes good.
        late_ms: for how long the requester was stopped meanwhile."""
        self.violations: list[Violation] = []
        self.stories: dict[Key, Story] = {}
        self.works: dict[tuple[NodeId, int, int], Work] = {}  # (worker, life, job)
        self.foreign: dict[tuple[Key, int], Assign] = {}  # good Assigns of strangers
        self.started: set[tuple[Key, int]] = set()
        self.let_go: set[tuple[NodeId, int, int]] = set()
        self.waste = Waste()
        self.failovers = 0
        self.attempts = 0
        self._failover = failover
        self._capable = capable
        self._disturbed = disturbed
        self._lied = lied
        self._late_ms = late_ms
        self._announced: dict[tuple[NodeId, int], int] = {}

    def blame(self, oracle: str, now_ms: int, what: str) -> None:
        self.violations.append(Violation(oracle, now_ms, what))

    # --- the user ---

    def submitted(self, requester: NodeId, submit: ev.Submit, now_ms: int) -> Story:
        story = Story(requester, submit, now_ms)
        self.stories[story.key] = story
        return story

    def cancelled(self, key: Key) -> None:
        self.stories[key].cancelled = True

    def left(self, requester: NodeId) -> None:
        """Its user has ended the node: what is open may end as cancelled."""
        for story in self.stories.values():
            story.cancelled = story.cancelled or story.requester == requester

    def told(
        self,
        requester: NodeId,
        effect: ef.Accepted | ef.DeliverTokens | ef.Retried | ef.Finished | ef.Failed,
        now_ms: int,
    ) -> None:
        story = self.stories.get((requester, effect.request_id))
        if story is None:
            self.blame("I3", now_ms, "an event of a request that nobody submitted")
            return
        if story.end is not None:
            self.blame("I3", now_ms, f"{story.name}: {type(effect).__name__} after its end")
            return
        match effect:
            case ef.DeliverTokens():
                self._delivered(story, effect, now_ms)
            case ef.Accepted():
                story.accepted += 1
                story.fruitless += 1
            case ef.Retried():
                story.fenced.setdefault(effect.attempt, now_ms)
            case ef.Finished():
                self._ended(story, effect, now_ms)
                self._finished(story, effect, now_ms)
            case ef.Failed():
                self._ended(story, effect, now_ms)
                self._failed(story, effect, now_ms)

    def _delivered(self, story: Story, tokens: ef.DeliverTokens, now_ms: int) -> None:
        story.fruitless = 0
        if tokens.index != story.delivered or not tokens.texts:
            self.blame("I1", now_ms, f"{story.name}: token {tokens.index} after {story.delivered} tokens")
        if len(tokens.token_ids) not in (0, len(tokens.texts)):
            self.blame("I1", now_ms, f"{story.name}: as many ids as texts")
        if tokens.attempt != story.attempt:
            self._new_segment(story, tokens, now_ms)
        elif tokens.attempt in story.fenced:
            self.blame("I2", now_ms, f"{story.name}: a token of attempt {tokens.attempt}, which has ended")
        story.delivered += len(tokens.texts)
        if self._lied(tokens.worker):
            story.tainted = True
        if story.delivered > story.submit.config.max_tokens:
            self.blame("I1", now_ms, f"{story.name}: {story.delivered} tokens, more than were asked for")
        story.texts.extend(tokens.texts)

    def _new_segment(self, story: Story, tokens: ef.DeliverTokens, now_ms: int) -> None:
        if tokens.attempt < story.attempt:
            self.blame("I2", now_ms, f"{story.name}: attempt {tokens.attempt} after {story.attempt}")
        assign = story.assigns.get(tokens.attempt)
        if assign is None or assign.worker != tokens.worker:
            self.blame("I2", now_ms, f"{story.name}: tokens of an attempt that was not assigned")
            return
        if tokens.attempt in story.fenced:
            self.blame("I2", now_ms, f"{story.name}: a token of attempt {tokens.attempt}, which has ended")
        start = 0 if assign.resume is None else assign.resume.from_index
        if start != story.delivered or tokens.index != start:
            self.blame("I2", now_ms, f"{story.name}: a segment from {start} behind {story.delivered} tokens")
        if assign.resume is not None and assign.resume.text != "".join(story.texts):
            self.blame("I2", now_ms, f"{story.name}: resumes from another text than was delivered")
        if story.delivered:
            story.continued += 1
            self.failovers += 1
        story.attempt = tokens.attempt

    def _ended(self, story: Story, end: ef.Finished | ef.Failed, now_ms: int) -> None:
        story.end, story.end_ms = end, now_ms
        story.fence_all(now_ms)
        deadline_ms = story.submit.deadline_ms
        if deadline_ms is not None and now_ms > story.at_ms + deadline_ms + self._late_ms(story):
            self.blame("I11", now_ms, f"{story.name}: ended after its deadline of {deadline_ms} ms")

    def _finished(self, story: Story, end: ef.Finished, now_ms: int) -> None:
        text = "".join(story.texts)
        if end.total_tokens != story.delivered:
            self.blame("I4", now_ms, f"{story.name}: {end.total_tokens} told, {story.delivered} delivered")
        if end.text_digest != blake2b(text.encode(), digest_size=32).digest():
            self.blame("I4", now_ms, f"{story.name}: the digest is not that of the text")
        if story.submit.model_digest is not None and end.model_digest != story.submit.model_digest:
            self.blame("I4", now_ms, f"{story.name}: other weights than were asked for")
        if text != story.whole.text and not (story.tainted and self._failover):
            self.blame("I16", now_ms, f"{story.name}: another text than without faults")

    def _failed(self, story: Story, end: ef.Failed, now_ms: int) -> None:
        """I11: a failure needs a reason that holds."""
        if end.code == "cancelled":
            if not story.cancelled:
                self.blame("I11", now_ms, f"{story.name}: cancelled by nobody: {end.message}")
            return
        if self._excused(story, end, now_ms):
            return
        worker = self._capable(story, now_ms) or ("everybody" if story.calm else "")
        if worker:
            trail = "; ".join(f"{node.hex()[:6]} {number} {why}" for node, number, why in end.trail[-4:])
            what = (
                f"failed ({end.code}: {end.message}) after {story.delivered} tokens though {worker} was well"
            )
            self.blame("I11", now_ms, f"{story.name}: {what} [{trail}]")

    def _excused(self, story: Story, end: ef.Failed, now_ms: int) -> bool:
        deadline_ms = story.submit.deadline_ms
        if deadline_ms is not None and now_ms >= story.at_ms + deadline_ms:
            return deadline_ms < WELL_BEFORE_MS
        if end.code == "digest":
            return any(self._lied(assign.worker) for assign in story.assigns.values())
        if end.code == "bad_request" and story.tainted:
            return True  # nobody continues what a liar has made up
        if story.fruitless >= MAX_STRIKES or story.accepted >= MAX_ATTEMPTS:
            return True
        return story.delivered > 0 and not self._failover

    # --- the work ---

    def assigned(self, requester: NodeId, assign: Assign, now_ms: int) -> None:
        """The requester has signed and written it."""
        story = self.stories.get((requester, assign.request_id))
        if story is None or story.end is not None:
            self.blame("I10", now_ms, "an Assign for a request that is not open")
            return
        self.attempts += 1
        if assign.attempt <= max(story.assigns, default=0):
            self.blame(
                "I2", now_ms, f"{story.name}: attempt {assign.attempt} is not higher than those before"
            )
        for attempt in story.assigns.keys() - story.fenced.keys():
            self.blame("I5", now_ms, f"{story.name}: assigned anew while attempt {attempt} is live")
            story.fenced[attempt] = now_ms
        resumed = 0 if assign.resume is None else assign.resume.from_index
        if resumed != story.delivered:
            self.blame("I2", now_ms, f"{story.name}: assigned from {resumed} behind {story.delivered} tokens")
        story.assigns[assign.attempt] = assign
        age_s = (now_ms - story.at_ms) / 1_000
        if len(story.assigns) > ASSIGNS_AT_ONCE + ASSIGNS_PER_S * age_s:
            self.blame("I12", now_ms, f"{story.name}: {len(story.assigns)} Assigns in {age_s:.1f} s")

    def foreign_assign(self, requester: NodeId, assign: Assign) -> None:
        """A good one by a stranger: it may start work, once."""
        self.foreign[(requester, assign.request_id), assign.attempt] = assign

    def work_started(self, work: Work, boot: int, now_ms: int, *, running: int, slots: int) -> None:
        """running: jobs of this machine, this one included."""
        if not 0 < running <= slots:
            self.blame("I7", now_ms, f"{running} jobs in {slots} slots")
        story = self.stories.get(work.key)
        assign = self._assign_of(work)
        if assign is None or assign.worker != work.worker or assign.worker_boot != boot:
            self.blame("I10", now_ms, "work without an Assign that names this worker and its boot")
        if (work.key, work.attempt) in self.started:
            self.blame("I10", now_ms, f"attempt {work.attempt} begun twice")
        self.started.add((work.key, work.attempt))
        if (work.worker, work.life, work.job) in self.let_go:
            self.blame("I5", now_ms, "work is begun for a requester that is gone")
        fenced = story is not None and work.attempt in story.fenced  # on its way since before
        for other in self.works.values():
            if other.key == work.key and (other.attempt == work.attempt or not fenced):
                if story is not None and other.attempt in story.fenced:
                    continue
                if story is None and other.cancelled_ms is not None:
                    continue
                self.blame("I5", now_ms, f"attempts {other.attempt} and {work.attempt} are made at once")
        self.works[work.worker, work.life, work.job] = work
        resume = None if assign is None else assign.resume
        if story and resume and not (story.tainted or story.whole.continues(resume)):
            self.blame("I16", now_ms, f"{story.name}: continues what is not its beginning")
        self._zombie(work, story, now_ms, "begun")

    def work_cancelled(self, worker: NodeId, life: int, job: int, now_ms: int) -> None:
        work = self.works.get((worker, life, job))
        if work is not None and work.cancelled_ms is None:
            work.cancelled_ms = now_ms
            self._zombie(work, self.stories.get(work.key), now_ms, "stopped")

    def work_let_go(self, worker: NodeId, life: int, job: int, now_ms: int) -> None:
        """I5: the requester's side of the stream is over. The engine has been told in the same event."""
        work = self.works.get((worker, life, job))
        if work is not None and work.cancelled_ms is None:
            self.blame("I5", now_ms, "a requester is gone and its work goes on")
        self.let_go.add((worker, life, job))

    def requester_gone(
        self, worker: NodeId, life: int, requester: NodeId, order: tuple[int, int], now_ms: int
    ) -> None:
        """I5: a worker has heard that the process which signed what came before (boot, seq) has ended."""
        for work in self.works.values():
            if work.cancelled_ms is None and (work.worker, work.life) == (worker, life):
                assign = self._assign_of(work) if work.key[0] == requester else None
                if assign is not None and (assign.head.boot, assign.head.seq) < order:
                    self.blame("I5", now_ms, "a requester has said that it is gone and its work goes on")

    def _assign_of(self, work: Work) -> Assign | None:
        story = self.stories.get(work.key)
        return story.assigns.get(work.attempt) if story else self.foreign.get((work.key, work.attempt))

    def work_ended(self, worker: NodeId, life: int, job: int, now_ms: int) -> None:
        work = self.works.pop((worker, life, job), None)
        if work is None:
            self.blame("I7", now_ms, "a slot is freed that was not taken")
        elif work.cancelled_ms is None:
            self._zombie(work, self.stories.get(work.key), now_ms, "ended")

    def _zombie(self, work: Work, story: Story | None, now_ms: int, what: str) -> None:
        """I5: whoever is gone or has turned to another is computed for no longer than the lease."""
        since = None if story is None else story.fenced.get(work.attempt)
        if since is None:
            return
        extra_ms = self._disturbed(work, story, since)
        bound_ms = UNDISTURBED_LEASE_MS if extra_ms < 0 else DISTURBED_LEASE_MS + extra_ms
        if story is not None and work.attempt in story.by_gossip:
            bound_ms = GOSSIP_LEASE_MS + max(0, extra_ms) + work.worker_set_back_ms
        if now_ms - max(since, work.start_ms if what != "begun" else since) > bound_ms:
            late_ms = now_ms - since
            self.blame("I5", now_ms, f"work of a fenced attempt {what} {late_ms} ms late, {bound_ms} allowed")

    def process_gone(self, node: NodeId, life: int, now_ms: int) -> None:
        for key in [key for key in self.works if key[0] == node and key[1] == life]:
            del self.works[key]
        for story in self.stories.values():
            if story.requester == node and not story.over:
                story.void = True
                story.fence_all(now_ms)

    # --- the wire ---

    def announced(self, node: NodeId, life: int, now_ms: int) -> None:
        last = self._announced.get((node, life))
        if last is not None and now_ms - last < ANNOUNCE_GAP_MS:
            self.blame("I12", now_ms, f"two Announces of a node within {now_ms - last} ms")
        self._announced[node, life] = now_ms

    # --- the end ---

    def finish(self, now_ms: int, *, healed_ms: int) -> None:
        """After quiescence."""
        for story in self.stories.values():
            if not story.over:
                what = f"{story.name} is open {now_ms - story.at_ms} ms after its submit"
                self.blame("I3", now_ms, f"{what}, {now_ms - healed_ms} ms after the heal")
            elif story.end is not None and story.end_ms > max(healed_ms, story.at_ms) + AFTER_HEAL_MS:
                self.blame("I11", now_ms, f"{story.name} ended {story.end_ms - healed_ms} ms after the heal")
        for work in self.works.values():
            self.blame("I7", now_ms, f"a slot is held since {work.start_ms} ms, attempt {work.attempt}")
        if self.waste.too_high:
            self.blame("I9", now_ms, f"{self.waste.made} tokens made, {self.waste.needed} needed")
