"""Core: the whole node without its senses. `handle(event, now)` returns effects; nothing else happens.

The law: one seed and one list of events give one list of effects. The core owns the roster, this node's
requests (requester), its jobs (worker) and its announces (presence), routes each event to the one that it
concerns, then lets the timers that are due fire, and ends with at most one Wake.

    event ─► roster / requester / worker / presence ─► due timers ─► effects
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import assert_never

from llama_gossip.protocol import events as ev
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.agenda import TimerKey
from llama_gossip.protocol.claimer import Claimer
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import (
    Drained,
    Effect,
    Failed,
    ResetStream,
    Wake,
)
from llama_gossip.protocol.envelope import EnvelopeReader, Signer, Verifier, verify_signature
from llama_gossip.protocol.finder import Finder
from llama_gossip.protocol.ledger import Ledger
from llama_gossip.protocol.membership import Membership
from llama_gossip.protocol.messages import Claim, NodeId, NodeState, RequestId
from llama_gossip.protocol.prekeys import Prekeys
from llama_gossip.protocol.presence import Presence, checked_name
from llama_gossip.protocol.receive import Receiver
from llama_gossip.protocol.requester import Requester
from llama_gossip.protocol.roster import Peer, PeerView, Roster
from llama_gossip.protocol.selection import EXPLORE_SHARE
from llama_gossip.protocol.solicitor import Solicitor
from llama_gossip.protocol.streams import StreamCode
from llama_gossip.protocol.timers import Timers
from llama_gossip.protocol.transcript import TranscriptBook
from llama_gossip.protocol.tunnel import Tunnel
from llama_gossip.protocol.worker import Worker

__all__ = ["Core", "PeerView"]


class Core:
    def __init__(
        self,
        *,
        signer: Signer,
        net_id: bytes,
        boot: int,
        node_name: str,
        rng: random.Random,
        verify: Verifier = verify_signature,
        reader: EnvelopeReader | None = None,
        timers: Timers | None = None,
        allowlist: frozenset[NodeId] | None = None,
        features: tuple[str, ...] = (),
        version: str = "",
        secret_bytes: Callable[[int], bytes] | None = None,
        policy: Policy | None = None,
    ) -> None:
        """boot: start time of this identity's process, ms, risen on disk before. features: what the Announce
        tells beside `role/…` and `v/…`; a `role/…` in it replaces the derived one. allowlist: the only nodes
        that are heard, asked and served, None = every member. secret_bytes: where keys come from;
        None = `rng`, which must then be one that nobody can foresee. reader: of what the topic brings, when
        cores share one; it must know the same net_id and verify."""
        policy = policy or Policy()
        timers = timers or Timers()
        self._desk = desk = Desk(
            signer=signer, verify=verify, net_id=net_id, boot=boot, rng=rng, timers=timers
        )
        self._receiver = Receiver(
            net_id,
            desk.own_id,
            verify,
            allowlist=allowlist,
            open_network=policy.open_network,
            reader=reader,
        )
        self._roster = Roster(timers=timers, allowlist=allowlist)
        self._book = TranscriptBook(net_id)
        self._worker = Worker(desk, policy=policy, allowlist=allowlist, known=self._roster.__contains__)
        self.queue_wait_s = self._worker.jobs.queue_wait_s
        self._prekeys = Prekeys(desk, secret_bytes or rng.randbytes)
        self._presence = Presence(
            desk,
            roster=self._roster,
            jobs=self._worker.jobs,
            node_name=node_name,
            features=features,
            version=version,
            prekeys=self._prekeys,
            skew_ms=self._receiver.skew_ms,
        )
        self._tunnel = Tunnel(
            desk, prekeys=self._prekeys, deliver=self._stream, unopened=self._presence.unopened
        )
        ledger = Ledger(timers=timers)
        solicitor = Solicitor(desk)
        self._solicitor = solicitor
        self._claimer = Claimer(
            desk, jobs=self._worker.jobs, presence=self._presence, policy=policy, allowlist=allowlist
        )
        finder = Finder(
            desk,
            peers=self._candidates,
            offers=solicitor.offers,
            ledger=ledger,
            explore_share=0.0 if policy.open_network else EXPLORE_SHARE,
            allowlist=None if allowlist is None else allowlist | {desk.own_id},
        )
        self._requester = Requester(
            desk,
            finder=finder,
            solicitor=solicitor,
            ledger=ledger,
            book=self._book,
            tunnel=self._tunnel,
        )
        self._membership = Membership(
            desk,
            receiver=self._receiver,
            roster=self._roster,
            presence=self._presence,
            loaded=ledger.announced,
            changed=self._requester.roster_changed,
            packet=self._tunnel.received,
            asked=self._claimer.asked,
            claimed=self._claimed,
            gone=self._gone,
        )
        self._wake_at: int | None = None
        self._drained: bool | None = None  # None: nobody asked to drain; True: it was told
        self._left = False

    # --- the one way in ---

    def handle(self, event: ev.Event, now: ev.Now) -> list[Effect]:
        """Raises UsageError for a Submit whose request id is in use and for an engine whose model's name is
        too long to be announced; nothing that a peer does raises."""
        desk = self._desk
        desk.now = now
        self._dispatch(event)
        while (key := desk.agenda.pop_due(now.mono_ms)) is not None:
            self._fire(key)
        self._tunnel.flush()
        self._presence.look_for_change()
        if self._drained is False and not len(self._worker.jobs):
            self._drained = True
            desk.emit(Drained())
        self._set_wake(desk.agenda.earliest())
        return desk.take_effects()

    def _set_wake(self, due_mono_ms: int | None) -> None:
        """Each token moves timers to later: an idle Tick now and then is cheaper than a Wake a token."""
        if self._wake_at is not None and self._wake_at <= self._desk.now.mono_ms:
            self._wake_at = None
        if due_mono_ms is not None and (self._wake_at is None or due_mono_ms < self._wake_at):
            self._wake_at = due_mono_ms
            self._desk.emit(Wake(due_mono_ms))

    def _dispatch(self, event: ev.Event) -> None:
        """The most frequent kinds stand first: a token costs three events."""
        match event:
            case ev.StreamData():
                self._stream(event)
            case ev.EngineTokens():
                self._worker.jobs.engine_tokens(event)
            case ev.GossipReceived():
                self._membership.received(event)
            case ev.Tick():
                pass  # the due timers fire after every event
            case (
                ev.StreamAccepted()
                | ev.StreamFinished()
                | ev.StreamReset()
                | ev.StreamStopped()
                | ev.StreamLost()
                | ev.StreamFull()
                | ev.StreamWritable()
            ):
                self._stream(event)
            case (
                ev.EngineStepped()
                | ev.EngineStarted()
                | ev.EngineProgress()
                | ev.EngineDone()
                | ev.EngineFailed()
            ):
                self._engine(event)
            case ev.StreamOpened(dial, stream):
                self._requester.connector.opened(dial, stream)
            case ev.DialFailed(dial, reason, refused):
                self._requester.connector.failed(dial, reason, refused=refused)
            case ev.Submit() | ev.CancelRequest() | ev.ReaderFull() | ev.ReaderReady():
                self._user(event)
            case ev.EngineChanged():
                self._engine_changed(event)
            case ev.NeighborUp() | ev.NeighborDown() | ev.Joined() | ev.Drain() | ev.Goodbye():
                self._network(event)
            case _:
                assert_never(event)

    # --- the network ---

    def _network(self, event: ev.NeighborUp | ev.NeighborDown | ev.Joined | ev.Drain | ev.Goodbye) -> None:
        match event:
            case ev.NeighborUp():
                self._presence.neighbor_up()
            case ev.NeighborDown():
                pass  # a neighbour of the overlay, not a peer: its own Announces say whether it lives
            case ev.Joined(addresses):
                self._presence.joined(addresses)
                self._requester.joined()
            case ev.Drain():
                self._worker.jobs.drain()
                self._drained = bool(self._drained)
            case ev.Goodbye(reason):
                self._left = True
                self._requester.goodbye(reason)
                self._worker.goodbye()
                self._presence.leave(reason)
            case _:
                assert_never(event)

    def _candidates(self) -> Iterator[tuple[NodeId, Peer]]:
        """Everybody in the roster, and the own worker."""
        yield from self._roster.items()
        if self._presence.state() is not NodeState.CLIENT:
            yield self._desk.own_id, self._presence.own_peer()

    def _claimed(self, sender: NodeId, claim: Claim) -> None:
        self._claimer.overheard(sender, claim)
        self._requester.claimed(sender, claim)

    def _gone(self, sender: NodeId, order: tuple[int, int]) -> None:
        self._solicitor.left(sender, order)
        self._worker.jobs.requester_gone(sender, order)

    # --- streams ---

    def _stream(self, event: ev.StreamEvent) -> None:
        if isinstance(event, ev.StreamAccepted):
            if self._left:
                self._desk.emit(ResetStream(event.stream, StreamCode.SHUTDOWN))
            else:
                self._worker.accepted(event.stream, event.remote)
        elif self._requester.owns(event.stream):
            self._stream_of_ours(event)
        elif self._worker.owns(event.stream):
            self._stream_of_peer(event)
        # else: an echo of a stream that has ended here

    def _stream_of_ours(self, event: ev.StreamWord | ev.StreamPressure) -> None:
        match event:
            case ev.StreamData(stream, data):
                self._requester.data(stream, data)
            case ev.StreamFinished(stream):
                self._requester.finished(stream)
            case ev.StreamReset(stream, code):
                self._requester.was_reset(stream, code)
            case ev.StreamStopped():
                pass  # it may overtake the worker's last frames, which say more
            case ev.StreamLost(stream, reason, refused):
                self._requester.lost(stream, reason, refused=refused)
            case ev.StreamFull() | ev.StreamWritable():
                pass  # a large Assign is on its way
            case _:
                assert_never(event)

    def _stream_of_peer(self, event: ev.StreamWord | ev.StreamPressure) -> None:
        match event:
            case ev.StreamData(stream, data):
                self._worker.data(stream, data)
            case ev.StreamFinished(stream):
                self._worker.finished(stream)
            case ev.StreamReset(stream, code) | ev.StreamStopped(stream, code):
                reason = "cancelled" if code == StreamCode.CANCELLED else "requester_gone"
                self._worker.gone(stream, reason, answer=True)
            case ev.StreamLost(stream):
                self._worker.gone(stream, "requester_lost", answer=False)
            case ev.StreamFull(stream):
                self._worker.full(stream)
            case ev.StreamWritable(stream):
                self._worker.writable(stream)
            case _:
                assert_never(event)

    # --- user and engine ---

    def _user(self, event: ev.Submit | ev.CancelRequest | ev.ReaderFull | ev.ReaderReady) -> None:
        match event:
            case ev.Submit() if self._left:
                self._desk.emit(Failed(event.request_id, "cancelled", "this node has left", "open a new one"))
            case ev.Submit():
                self._requester.submit(event)
            case ev.CancelRequest():
                self._requester.cancel(event)
            case ev.ReaderFull(request_id):
                self._requester.hold(request_id)
            case ev.ReaderReady(request_id):
                self._requester.read_on(request_id)
            case _:
                assert_never(event)

    def _engine_changed(self, event: ev.EngineChanged) -> None:
        for offer in event.capacity.models if event.capacity is not None else ():
            checked_name("model name", offer.name)
        self._worker.jobs.change(event.capacity, event.loading)
        self._requester.roster_changed()

    def _engine(
        self,
        event: ev.EngineStarted | ev.EngineProgress | ev.EngineDone | ev.EngineFailed | ev.EngineStepped,
    ) -> None:
        jobs = self._worker.jobs
        match event:
            case ev.EngineStepped():
                jobs.stepped()
            case ev.EngineStarted():
                jobs.engine_started(event)
            case ev.EngineProgress():
                jobs.engine_progress(event)
            case ev.EngineDone():
                jobs.engine_done(event)
            case ev.EngineFailed():
                jobs.engine_failed(event)
            case _:
                assert_never(event)

    # --- timers ---

    def _fire(self, key: TimerKey) -> None:
        owner, which, name = key
        match owner, which:
            case "request", bytes():
                self._requester.request_timer(RequestId(which), name)
            case "dial", int():
                self._requester.connector.timed_out(which)
            case "attempt", int():
                self._requester.attempt_timer(which, name)
            case "call", int():
                self._requester.call_timer(which, name)
            case "claim", int():
                self._claimer.timer(which)
            case "job", int():
                self._worker.jobs.timer(which, name)
            case "jobs", None:
                self._worker.jobs.sweep()
            case "inbound", int():
                self._worker.inbound_timer(which, name)
            case "tunnel", int():
                self._tunnel.timer(which, name)
            case "prekeys", None:
                self._prekeys.rotate()
            case "presence", None:
                self._presence.announce()
            case "roster", None:
                self._membership.expire()
            case _:
                raise AssertionError(f"no owner of the timer {key}")

    # --- looking ---

    def peers(self, now: ev.Now) -> tuple[PeerView, ...]:
        """Who is in the network as far as this node heard, itself not counted."""
        return self._roster.views(now)

    def counters(self) -> dict[str, int]:
        """Since the start; names end in what was counted."""
        dropped = {f"dropped_{reason.value}": count for reason, count in self._receiver.dropped.items()}
        return {**self._desk.counters, **dropped, "gossip_accepted": self._receiver.accepted}

    def load(self) -> dict[str, int]:
        """Of this node's worker now; {} where there is none."""
        return self._worker.jobs.figures()

    def is_mute(self, now: ev.Now) -> bool:
        """Nobody seems to hear this node any more."""
        return self._presence.is_mute(now.mono_ms)

    def skew_ms(self) -> int:
        """The others' clocks minus ours, median."""
        return self._receiver.skew_ms()

    def transcript(self, request_id: RequestId) -> bytes:
        """The signed record so far (PROTOCOL section 8); kept until it is taken."""
        return self._book.read(request_id)

    def take_transcript(self, request_id: RequestId) -> bytes:
        return self._book.take(request_id)
