"""Worker: the streams that peers open to this node, and the Assigns they bring.

The law: no work without a valid Assign that names this node and this boot, signed by the very peer at the
other end of the stream; the stream is the lease, so whoever is gone is not computed for. What one stream
does wrong touches no other.
"""

from __future__ import annotations

from collections.abc import Callable

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.admission import Policy, Refusal, is_friend, refusal_of
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import FinishStream, ResetStream, TrustStream, WriteStream
from llama_gossip.protocol.frames import FrameWriter, open_assign
from llama_gossip.protocol.inbound import Inbound
from llama_gossip.protocol.job import Job
from llama_gossip.protocol.jobs import Jobs
from llama_gossip.protocol.messages import Assign, Cancel, NodeId, Reject, RejectReason
from llama_gossip.protocol.states import JobState
from llama_gossip.protocol.streams import StreamCode, is_virtual


class Worker:
    def __init__(
        self,
        desk: Desk,
        *,
        policy: Policy,
        allowlist: frozenset[NodeId] | None,
        known: Callable[[NodeId], bool],
    ) -> None:
        """known: whether a key is in the roster."""
        self._desk = desk
        self._known = known
        self._policy = policy
        self._allowlist = allowlist
        self._inbound: dict[int, Inbound] = {}
        self.jobs = Jobs(desk, policy=policy, closed=lambda job: self._forget(job.stream))

    def owns(self, stream: int) -> bool:
        return stream in self._inbound

    def goodbye(self) -> None:
        self.jobs.goodbye()
        for stream, inbound in list(self._inbound.items()):
            if inbound.job is None:
                self._reset(stream, StreamCode.SHUTDOWN)

    # --- streams ---

    def accepted(self, stream: int, remote: NodeId) -> None:
        self._inbound[stream] = Inbound(stream, remote)
        self._desk.after(("inbound", stream, "first"), self._desk.timers.first_item_ms)

    def data(self, stream: int, data: bytes) -> None:
        inbound = self._inbound[stream]
        if inbound.refused:
            return
        try:
            for item in inbound.splitter.feed(data):
                self._item(inbound, item)
                if not self.owns(stream) or inbound.refused:
                    return
            inbound.splitter.feed(b"")  # a bad length behind good items shows now
        except ProtocolError as error:
            self._wrong(inbound, error.code)

    def _item(self, inbound: Inbound, item: bytes) -> None:
        if inbound.job is None:
            self._first_item(inbound, item)
        else:
            self._frame(inbound.job, item)

    def _frame(self, job: Job, item: bytes) -> None:
        frame = job.reader.decode(item)
        if isinstance(frame, Cancel) and job.state is not JobState.DRAINING:
            self.jobs.close(job, "cancelled", StreamCode.CANCELLED)

    def _wrong(self, inbound: Inbound, code: str) -> None:
        """Wrong bytes: this stream ends, nothing else changes."""
        self._desk.count(f"streams_wrong_{code}")
        if inbound.job is not None:
            self.jobs.close(inbound.job, "protocol", StreamCode.PROTOCOL)
        else:
            self._reset(inbound.stream, StreamCode.PROTOCOL)

    def finished(self, stream: int) -> None:
        """The requester keeps its side open until the end: an early end is a cancel."""
        inbound = self._inbound[stream]
        job = inbound.job
        if job is not None:
            early = job.state is not JobState.DRAINING
            self.jobs.close(job, "requester_ended", StreamCode.CANCELLED if early else None)
        elif inbound.refused:
            self._forget(stream)
        else:
            self._wrong(inbound, "ended")

    def gone(self, stream: int, reason: str, *, answer: bool) -> None:
        """Reset, stopped or lost by the other side. answer: our side still has to be ended."""
        inbound = self._inbound[stream]
        job = inbound.job
        ours_ended = inbound.refused or (job is not None and job.state is JobState.DRAINING)
        code = StreamCode.CANCELLED if answer and not ours_ended else None
        if job is not None:
            self.jobs.close(job, reason, code)
        elif code is not None:
            self._reset(stream, code)
        else:
            self._forget(stream)

    def full(self, stream: int) -> None:
        job = self._inbound[stream].job
        if job is not None:
            self.jobs.stream_full(job)

    def writable(self, stream: int) -> None:
        job = self._inbound[stream].job
        if job is not None:
            self.jobs.stream_writable(job)

    def _reset(self, stream: int, code: StreamCode) -> None:
        self._forget(stream)
        self._desk.emit(ResetStream(stream, code))

    def _forget(self, stream: int) -> None:
        del self._inbound[stream]
        self._desk.agenda.cancel(("inbound", stream, "first"))
        self._desk.agenda.cancel(("inbound", stream, "closing"))

    def inbound_timer(self, stream: int, name: str) -> None:
        if name == "first":
            self._desk.count("streams_silent")
        self._reset(stream, StreamCode.PROTOCOL if name == "first" else StreamCode.DONE)

    # --- the Assign ---

    def _first_item(self, inbound: Inbound, item: bytes) -> None:
        assign, sender, context, _ = open_assign(item, self._desk.net_id, self._desk.verify)
        self._check_parties(inbound, assign, sender)
        self._desk.agenda.cancel(("inbound", inbound.stream, "first"))
        self._desk.emit(TrustStream(inbound.stream))
        for_this_boot = assign.worker_boot == self._desk.boot
        if for_this_boot and not self.jobs.passes_fence((sender, assign.request_id), assign.attempt):
            self._desk.count("assigns_superseded")
            self._reset(inbound.stream, StreamCode.SUPERSEDED)
            return
        friend = is_friend(sender, self._desk.own_id, self._allowlist)
        refusal = self._too_late(inbound, assign) or self._refusal(assign, sender, friend)
        if refusal is not None:
            self._reject(inbound, context, refusal)
            return
        inbound.job = self.jobs.accept(
            assign, requester=sender, stream=inbound.stream, context=context, friend=friend
        )

    def _check_parties(self, inbound: Inbound, assign: Assign, sender: NodeId) -> None:
        """Raises ProtocolError: the Assign is not for us, or not by whom it should be."""
        if sender != inbound.remote:
            raise ProtocolError("an Assign signed by another than the peer that sent it", code="author")
        if assign.worker != self._desk.own_id:
            raise ProtocolError("an Assign for another worker", code="worker")
        if self._allowlist is not None and sender not in self._allowlist and sender != self._desk.own_id:
            raise ProtocolError("an Assign of a node that is not on the allowlist", code="not_allowed")

    def _too_late(self, inbound: Inbound, assign: Assign) -> Refusal | None:
        """Only gossip can hold an Assign back for long; its requester may have turned to another by then."""
        on_time = self._desk.now.wall_ms <= assign.accept_by
        if on_time or not is_virtual(inbound.stream) or assign.worker_boot != self._desk.boot:
            return None
        return Refusal(RejectReason.LATE)

    def _refusal(self, assign: Assign, sender: NodeId, friend: bool) -> Refusal | None:
        jobs, full_retry_ms = self.jobs, self._desk.timers.full_retry_ms
        refusal = refusal_of(
            assign, boot=self._desk.boot, offer=jobs.offer, policy=self._policy, retry_ms=full_retry_ms
        )
        if refusal is not None:
            return refusal
        has_place = jobs.queue.admits(sender, self._policy.caps_for(friend)) and not jobs.is_stalled()
        known = friend or self._known(sender)
        if has_place and jobs.remembers_another((sender, assign.request_id), known=known):
            return None
        return Refusal(RejectReason.FULL, jobs.pace.retry_ms(jobs.queue.slots) or full_retry_ms)

    def _reject(self, inbound: Inbound, context: bytes, refusal: Refusal) -> None:
        self._desk.count(f"assigns_rejected_{refusal.reason.name.lower()}")
        reject = Reject(0, refusal.reason, refusal.retry_after_ms, self._desk.boot)
        data = FrameWriter(context, self._desk.signer).encode(reject)
        inbound.refused = True
        self._desk.emit(WriteStream(inbound.stream, data))
        self._desk.emit(FinishStream(inbound.stream))
        self._desk.after(("inbound", inbound.stream, "closing"), self._desk.timers.closing_ms)
