"""Witness: sees what an oracle needs and no history tells: who could hear whom, who was well, what changed.

The law: it looks at processes, paths and cores, moves none of them (but for a core that has raised, which is
dead), and blames only what PROTOCOL section 10 promises.
"""

from __future__ import annotations

import traceback
from collections import Counter
from typing import TYPE_CHECKING

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.limits import MAX_AGE_MS, MAX_AHEAD_MS, NEWCOMER_MS
from llama_gossip.protocol.messages import Kind, NodeId, RequestId
from llama_gossip.protocol.streams import Delivery, Visibility
from llama_gossip.simulation import guards
from llama_gossip.simulation.history import Story, Work
from llama_gossip.simulation.machine import PLANNED
from llama_gossip.simulation.oracles import LIVE_MS
from llama_gossip.simulation.process import Process
from llama_gossip.simulation.reading import raw_of
from llama_gossip.simulation.wires import End

if TYPE_CHECKING:
    from llama_gossip.simulation.world import World

# may be good: its own, or what was lost on its first way
OWN_WORDS = ("flood", "claim", "replay", "copy", "crowd")
FLOOD_BURST, FLOOD_PER_S = 7, 1.05  # Announces of one signer that a node may take
CROWD_BURST, CROWD_PER_S = 202, 20.2  # of all newcomers of an open network
HUNG_MS = 32_000  # a heartbeat later a hung engine is known to be one
FRESH_MS = 40_000  # an Announce that is younger has not run out


class Witness:
    def __init__(self, world: World, evil_checks: int) -> None:
        self.attempt_ends: dict[tuple[NodeId, RequestId, int], End] = {}
        self.heard_at: dict[tuple[int, int, int], int] = {}  # (hearer, life, signer's place) → when
        self.failed_at: dict[tuple[int, int], int] = {}  # (requester, worker) → the last bad news
        self._world = world
        self._evil_left = evil_checks
        self._evil_before: int | None = None
        self._jobs: dict[tuple[int, int, int], int] = {}  # (place, life, stream) → job
        self._crowd_since: dict[tuple[tuple[int, int], NodeId], int] = {}
        self._flood_taken: Counter[tuple[str, tuple[int, int]]] = Counter()
        self._newest: dict[tuple[int, int, int], tuple[int, int]] = {}  # of an Announce

    def _blame(self, oracle: str, what: str) -> None:
        self._world.oracles.blame(oracle, self._world.clock.now_ms, what)

    def progressed(self, node: Process) -> None:
        """I5: what waits for an engine that hangs, or runs in it, is not kept alive by its event loop."""
        hung_ms = node.machine.hung_for_ms() if node.machine is not None else 0
        if hung_ms > HUNG_MS:
            self._blame("I5", f"progress of an engine that hangs for {hung_ms} ms")

    def must_be_let_go(self, node: Process, request_id: RequestId, attempt: int) -> None:
        """I5: the worker of an attempt that is over hears of it in the same event."""
        end = self.attempt_ends.pop((node.node_id, request_id, attempt), None)
        if end is not None and end.number in self._world.wires.ends and not end.ended and not end.deaf:
            self._blame("I5", f"attempt {attempt} is over and its stream still open")

    def retried(self, node: Process, end: ef.Retried) -> None:
        """I11: an engine that nothing is wrong with makes what it is asked for."""
        worker = self._world.by_id.get(end.worker)
        sound = (
            worker is not None
            and worker.machine is not None
            and not worker.machine.failing
            and worker.liar is None
        )
        if sound and end.reason.startswith("engine_failed") and PLANNED not in end.reason:
            self._blame(
                "I11", f"a job of {worker.name if worker else ''}'s sound engine has failed: {end.reason}"
            )
        self.bad_news(node, end.worker)
        self.must_be_let_go(node, end.request_id, end.attempt)

    def finished(self, end: ef.Finished) -> None:
        liar = self._world.by_id[end.worker].liar
        if liar is not None and (end.request_id, end.attempt) in liar.spoilt:
            what = f"an answer with a lie in it ({liar.lie.value}) was taken"
            self._blame("I4", what)

    def failed(self, node: Process, end: ef.Failed) -> None:
        for key in [key for key in self.attempt_ends if key[1] == end.request_id]:
            self.must_be_let_go(node, end.request_id, key[2])

    def bad_news(self, node: Process, worker: NodeId) -> None:
        target = self._world.by_id.get(worker)
        if target is not None:
            self.failed_at[node.place, target.place] = self._world.clock.now_ms

    def job_accepted(self, node: Process, job: ef.JobAccepted) -> None:
        event = node.event
        if isinstance(event, ev.StreamData) and (end := self._world.wires.ends.get(event.stream)) is not None:
            at_the_other_end = end.twin.owner.node_id
            self._jobs[node.place, node.life, event.stream] = job.job
            if at_the_other_end != job.requester:
                self._blame("I10", "a job for one who is not at the other end")

    def turn_taken(self, node: Process, start: ef.StartJob) -> None:
        assert node.core is not None
        queue = node.core._worker.jobs.queue
        waiting = set(queue.waiting())
        self._world.turns.started(
            (node.node_id, node.life),
            start.requester,
            start.job,
            self._world.clock.now_ms,
            is_there=lambda job: job in waiting or queue.runs(job),
        )

    def stream_over(self, node: Process, stream: int) -> None:
        """The other side is gone or has ended its part: nothing is computed for it from this event on."""
        job = self._jobs.get((node.place, node.life, stream))
        if job is not None:
            self._world.oracles.work_let_go(node.node_id, node.life, job, self._world.clock.now_ms)

    def stream_pressed(self, node: Process, stream: int, *, full: bool) -> None:
        """Too much waits to be written to it, or no longer. The core has done what it does about it."""
        job = self._jobs.get((node.place, node.life, stream))
        if job is not None:
            parked, key = self._world.parked, (node.node_id, node.life, job)
            tell = parked.full if full else parked.writable
            tell(key, self._world.clock.now_ms)

    def disturbed(self, work: Work, story: Story | None, since_ms: int) -> int:
        """-1: nothing was wrong between the two since just before `since_ms`; else extra ms for pauses."""
        worker = self._world.nodes[work.place]
        asker = self._world.by_id.get(work.key[0])
        extra_ms = worker.stopped_ms - work.worker_paused_ms
        if since_ms < work.start_ms:  # begun late: its Assign has waited for a stopped process
            extra_ms = worker.stopped_ms
        if asker is None:
            return extra_ms
        extra_ms += asker.stopped_ms - work.requester_paused_ms
        calm = (
            self._world.wires.disturbed_until(asker.place, work.place) < since_ms - 1_000
            and max(asker.healthy_since_ms, worker.healthy_since_ms) < since_ms - 1_000
            and asker.life
            and extra_ms == 0
        )
        return -1 if calm else extra_ms

    def heard(self, node: Process, event: ev.GossipReceived, evil: str, accepted: bool) -> None:
        data = event.data
        now_ms = self._world.clock.now_ms
        signer = self._world.by_id.get(NodeId(data[5:37]))  # behind version, kind and the key's header
        if accepted and (evil or node.skew_ms or signer is None or signer.skew_ms):
            self._check_time(node, data, evil)  # elsewhere nothing is old or of the future
        if evil:
            self._after_evil(node, data, evil, accepted)
        elif accepted:
            if data in node.accepted:
                self._blame("I6", f"{node.name} has taken the same message twice")
            if data[2] == Kind.ANNOUNCE and signer is not None:
                self.heard_at[node.place, node.life, signer.place] = now_ms
                self._check_order(node, signer)
            elif data[2] == Kind.LEAVE and signer is not None:
                head = raw_of(data).head
                self._requester_gone(node, signer, (head.boot, head.seq))
        if accepted:
            node.accepted.add(data)

    def _check_time(self, node: Process, data: bytes, evil: str) -> None:
        raw = raw_of(data)
        ahead_ms = raw.head.ts - node.now().wall_ms
        if not -MAX_AGE_MS <= ahead_ms <= MAX_AHEAD_MS:
            what = f"{node.name} has taken a message {ahead_ms} ms from now"
            self._blame("I6", what)
        if evil in ("flood", "crowd") and data[2] == Kind.ANNOUNCE:
            key = (node.place, node.life)
            if evil == "crowd" and self._has_settled(key, raw.sender):
                return
            self._flood_taken[evil, key] += 1
            crowd = evil == "crowd"
            burst, per_s = (CROWD_BURST, CROWD_PER_S) if crowd else (FLOOD_BURST, FLOOD_PER_S)
            if self._flood_taken[evil, key] > burst + per_s * self._world.clock.now_ms / 1_000:
                self._blame("I12", f"{node.name} takes all that a {evil} says")

    def _has_settled(self, hearer: tuple[int, int], sender: NodeId) -> bool:
        """One of the crowd that has stayed long enough has a rate of its own, as everybody has."""
        now_ms = self._world.clock.now_ms
        return now_ms - self._crowd_since.setdefault((hearer, sender), now_ms) >= NEWCOMER_MS

    def _check_order(self, node: Process, signer: Process) -> None:
        """I6: old news changes nothing, in whatever order it comes."""
        peer = node.core._roster.get(signer.node_id) if node.core is not None else None
        key = (node.place, node.life, signer.place)
        if peer is not None:
            if peer.order < self._newest.get(key, (0, 0)):
                self._blame("I6", f"{node.name} believes older news of {signer.name}")
            if peer.announce.head.boot > self._newest.get(key, (0, 0))[0]:
                self._requester_gone(node, signer, (peer.announce.head.boot, 0))
            self._newest[key] = max(peer.order, self._newest.get(key, (0, 0)))

    def _requester_gone(self, node: Process, signer: Process, order: tuple[int, int]) -> None:
        now_ms = self._world.clock.now_ms
        self._world.oracles.requester_gone(node.node_id, node.life, signer.node_id, order, now_ms)

    def before_evil(self, node: Process, event: ev.GossipReceived, evil: str) -> None:
        self._evil_before = None
        own = evil in OWN_WORDS or evil == "misattributed"  # its own seq is used up by it
        harmless = own and event.data not in node.accepted
        if harmless or self._evil_left <= 0 or self._world.rng.random() < 0.5:
            return
        self._evil_left -= 1
        node.feed(ev.Tick())  # what is due now is due anyway
        if node.core is not None:
            self._evil_before = guards.fingerprint(node.core, self._world.clock.now_ms)

    def _after_evil(self, node: Process, data: bytes, evil: str, accepted: bool) -> None:
        now_ms = self._world.clock.now_ms
        if accepted and (evil not in OWN_WORDS or data in node.accepted):
            self._blame("I6", f"{node.name} has taken a {evil} message")
        if self._evil_before is not None and node.core is not None:
            self._world.struck["state_compared"] += 1
            if guards.fingerprint(node.core, now_ms) != self._evil_before:
                self._blame("I6", f"a {evil} message has changed {node.name}")

    def broken(self, node: Process, event: ev.Event, error: Exception) -> None:
        """The core has raised: no peer and no engine may bring that about."""
        where = traceback.extract_tb(error.__traceback__)[-1:]
        place = f" in {where[0].name}, line {where[0].lineno}" if where else ""
        what = f"{type(event).__name__} raised {error!r}{place}"
        self._blame("I15", f"{node.name}: {what}")
        self._world.trouble.kill(node, silently=False)

    def late_ms(self, story: Story) -> int:
        return self._world.by_id[story.requester].paused_ms

    def lied(self, worker: NodeId) -> bool:
        return worker in self._world.liars

    def capable(self, story: Story, now_ms: int) -> str:
        submit = story.submit
        if submit.delivery is Delivery.GOSSIP or submit.visibility is Visibility.PUBLIC:
            return ""  # the topic may lose what it likes
        asker = self._world.by_id[story.requester]
        if now_ms - asker.healthy_since_ms < LIVE_MS:
            return ""
        last = story.assigns[max(story.assigns)].worker if story.assigns else None
        for worker in self._world.workers:
            if worker.node_id == last or (worker.machine is not None and worker.machine.crowded):
                continue  # it has failed just now; it may not have heard the Request
            if self.could_serve(asker, worker, now_ms):
                return worker.name
        return ""

    def could_serve(self, asker: Process, worker: Process, now_ms: int) -> bool:
        machine = worker.machine
        if not worker.life or worker.paused or worker.leaving or worker.liar is not None or machine is None:
            return False
        if machine.hung or machine.failing or worker.node_id in self._world.liars:
            return False
        well_ms = max(worker.healthy_since_ms, self._world.wires.disturbed_until(asker.place, worker.place))
        heard_ms = self.heard_at.get((asker.place, asker.life, worker.place), -1)
        bad_ms = self.failed_at.get((asker.place, worker.place), -1)
        return now_ms - well_ms >= LIVE_MS and heard_ms > max(well_ms, bad_ms, now_ms - FRESH_MS)
