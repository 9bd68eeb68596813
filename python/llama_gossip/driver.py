"""Driver: feeds events to the core and performs its effects. The only place where the core meets the world.

Everything runs on one event loop. Events that arise while an effect is performed wait their turn, so the
core is never entered twice. An effect that fails (a listener that raises) costs no other effect and no other
event: it is reported to the loop's exception handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import assert_never

from llama_gossip import news
from llama_gossip.answered import answered, under_way
from llama_gossip.engine_set import EngineSet
from llama_gossip.errors import LlamaGossipError, TransportError, UsageError
from llama_gossip.generation import Conversation
from llama_gossip.loopback import Loopback
from llama_gossip.meters import Gaps, Meters
from llama_gossip.protocol import effects, events
from llama_gossip.protocol.core import Core, PeerView
from llama_gossip.protocol.messages import NodeId, RequestId
from llama_gossip.transport import Lagged, PeerFound, Transport, TransportEvent

MAX_BOOTS = 4_096  # as many as the roster holds
# Filled with how often in a row.
MUTE_NEWS = (
    "for a minute nobody has named this node among those it hears: its connections of the topic are made "
    "anew%s; if this comes again and again, restart the node"
)
RETRY_S = 1.0  # after an error inside the core: its timers live on, at a pace that a log can bear

log = logging.getLogger(__name__)


def now() -> events.Now:
    """Both clocks, in milliseconds."""
    return events.Now(time.monotonic_ns() // 1_000_000, time.time_ns() // 1_000_000)


class Driver:
    """One node's loop: `feed` is the way in, listeners and conversations are the way out."""

    def __init__(self, core: Core, own_id: NodeId, meters: Meters | None = None) -> None:
        self.core = core
        self.meters = meters or Meters()
        self.transport: Transport | None = None
        self.engines: EngineSet | None = None
        self.listeners: list[Callable[[news.NodeEvent], None]] = []
        self.conversations: dict[RequestId, Conversation] = {}
        self.drained = asyncio.Event()
        self.lagged = 0
        self._own_id = own_id
        self._gaps = Gaps(self.meters.received_gaps_s)
        self._boots: dict[NodeId, int] = {}  # of the peers, newest last
        self._waiting: deque[events.Event] = deque()
        self._performing = False
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()
        self._loopback = Loopback(own_id, self.feed, self.loop.call_soon)

    def listen(self, listener: Callable[[news.NodeEvent], None]) -> Callable[[], None]:
        """Tells it all news from now on; the returned function ends that."""
        self.listeners.append(listener)

        def remove() -> None:
            with contextlib.suppress(ValueError):  # it was called before
                self.listeners.remove(listener)

        return remove

    def on_transport(self, event: TransportEvent) -> None:
        match event:
            case Lagged(dropped):
                self.lagged += dropped
            case PeerFound():
                pass  # the native maintainer dials it; its Announce will tell the rest
            case _:
                self.feed(event)

    def feed(self, event: events.Event) -> None:
        """Hands one event to the core and performs what it asks for. After `stop` nothing happens.

        Raises what the core raises for this event (see `Core.handle`), once all that waits is performed."""
        if self._stopped:
            return
        self._waiting.append(event)
        if self._performing:
            return
        self._performing = True
        refusal: Exception | None = None
        try:
            while self._waiting:
                current = self._waiting.popleft()
                try:
                    asked = self.core.handle(current, now())
                except Exception as error:  # noqa: BLE001  raised below or reported
                    self._try_again_soon()
                    if current is event:
                        refusal = error
                    else:
                        self._report(f"the event {type(current).__name__} was refused", error)
                    continue
                self._perform_all(asked)
        finally:
            self._performing = False
        if refusal is not None:
            raise refusal

    def ask(self, submit: events.Submit) -> Conversation:
        """Raises what the core raises for it."""
        request_id = submit.request_id

        def reader(full: bool) -> None:
            self.feed(events.ReaderFull(request_id) if full else events.ReaderReady(request_id))

        conversation = Conversation(
            request_id,
            self.core.take_transcript,
            submit.config.seed,
            reader,
            model=submit.model,
            gaps=self._gaps,
            ended=lambda it: self._tell(answered(it)),
        )
        self.conversations[request_id] = conversation
        self._tell(news.RequestAsked(request_id.hex(), submit.model))
        try:
            self.feed(submit)
        except BaseException as error:
            del self.conversations[request_id]
            if not isinstance(error, LlamaGossipError):
                error = LlamaGossipError("the request could not be submitted")
            conversation.fail(error)
            raise
        return conversation

    def _perform_all(self, asked: Iterable[effects.Effect]) -> None:
        for effect in asked:
            try:
                self.perform(effect)
            except Exception as error:  # noqa: BLE001  the effects behind it belong to others
                self._report(f"the effect {type(effect).__name__} failed", error)

    def _report(self, what: str, error: Exception) -> None:
        self.loop.call_exception_handler({"message": f"llama-gossip: {what}", "exception": error})

    def _try_again_soon(self) -> None:
        """What the core could not finish (effects, its next Wake) comes with its next event: there is one."""
        if self._retry is None:
            self._retry = self.loop.call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.feed(events.Tick())

    def check_loop(self) -> None:
        """Raises UsageError when this is not the event loop (or its thread) that the node lives on."""
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not self.loop:
            raise UsageError(
                "this node lives on another event loop",
                hint="ask it from the loop that made it, or use InferenceNode.sync",
            )

    def stop(self) -> None:
        """No event is handled and no timer fires after this; conversations that still wait fail."""
        self._stopped = True
        self._waiting.clear()
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        self.drained.set()  # whoever waits for it waits in vain
        for conversation in list(self.conversations.values()):
            conversation.fail(
                TransportError("the node was shut down before the answer was complete", code="closed")
            )
        self.conversations.clear()

    def perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Broadcast() | effects.AddressHint() | effects.RebuildGossip():
                self._to_network(effect)
            case (
                effects.OpenStream()
                | effects.AbandonDial()
                | effects.WriteStream()
                | effects.FinishStream()
                | effects.ResetStream()
                | effects.PauseStream()
                | effects.ResumeStream()
                | effects.TrustStream()
            ):
                self._to_stream(effect)
            case effects.StartJob() | effects.CancelJob() | effects.ParkJob() | effects.UnparkJob():
                self._to_engine(effect)
            case effects.Wake(at):
                self._set_timer(at)
            case (
                effects.Accepted()
                | effects.DeliverTokens()
                | effects.Retried()
                | effects.FailedOver()
                | effects.Finished()
                | effects.Failed()
            ):
                self._to_user(effect)
            case effects.PeerUp(node_id, boot):
                self._note_boot(node_id, boot, heard=False)
                self._tell(self._news_of(effect))
            case effects.JobAccepted(_, _, requester, _, boot):
                self._note_boot(requester, boot, heard=True)
                self._tell(self._news_of(effect))
            case effects.PeerDown() | effects.JobEnded():
                self._tell(self._news_of(effect))
            case effects.Drained():
                self.drained.set()
            case _:
                assert_never(effect)

    def _to_network(self, effect: effects.Broadcast | effects.AddressHint | effects.RebuildGossip) -> None:
        if self.transport is None:
            return
        match effect:
            case effects.Broadcast(data, urgent):
                self.transport.broadcast(data, urgent=urgent)
            case effects.AddressHint(node_id, addresses):
                self.transport.add_addresses(node_id, addresses)
            case effects.RebuildGossip(times):
                log.warning(MUTE_NEWS, "" if times == 1 else f" (try {times} in a row)")
                self.transport.rebuild_gossip()
            case _:
                assert_never(effect)

    def _to_stream(
        self,
        effect: effects.OpenStream
        | effects.AbandonDial
        | effects.WriteStream
        | effects.FinishStream
        | effects.ResetStream
        | effects.PauseStream
        | effects.ResumeStream
        | effects.TrustStream,
    ) -> None:
        if isinstance(effect, effects.OpenStream | effects.AbandonDial):
            self._dial(effect)
            return
        far = self._loopback if self._loopback.owns(effect.stream) else self.transport
        if far is None:
            return
        match effect:
            case effects.WriteStream(stream, data):
                far.write(stream, data)
            case effects.FinishStream(stream):
                far.finish(stream)
            case effects.ResetStream(stream, code):
                far.reset(stream, code)
            case effects.PauseStream(stream):
                far.pause(stream)
            case effects.ResumeStream(stream):
                far.resume(stream)
            case effects.TrustStream(stream):
                if isinstance(far, Transport):
                    far.trust(stream)
            case _:
                assert_never(effect)

    def _dial(self, effect: effects.OpenStream | effects.AbandonDial) -> None:
        match effect:
            case effects.OpenStream(dial, worker, timeout_ms):
                if worker == self._own_id:
                    self._loopback.open(dial)
                elif self.transport is None:
                    self.feed(events.DialFailed(dial, "the node has no network"))
                else:
                    self.transport.open(dial, worker, timeout_ms)
            case effects.AbandonDial(dial):
                if self.transport is not None:
                    self.transport.abandon(dial)
            case _:
                assert_never(effect)

    def _to_engine(
        self, effect: effects.StartJob | effects.CancelJob | effects.ParkJob | effects.UnparkJob
    ) -> None:
        done = self.engines is not None and self.engines.perform(effect)
        if not done and isinstance(effect, effects.StartJob):
            self.feed(
                events.EngineFailed(effect.job, "engine_lost", "the model is not loaded", retryable=True)
            )

    def _set_timer(self, at_mono_ms: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at_mono_ms is not None:
            delay_s = max(0.0, at_mono_ms / 1000 - time.monotonic())
            self._timer = self.loop.call_later(delay_s, self._wake, at_mono_ms)

    def _wake(self, at_mono_ms: int) -> None:
        """Some loops' clocks are coarser than ours. A Tick that comes too early would be the core's last."""
        if now().mono_ms < at_mono_ms:
            self._set_timer(at_mono_ms)
        else:
            self.feed(events.Tick())

    def _to_user(
        self,
        effect: effects.Accepted
        | effects.DeliverTokens
        | effects.Retried
        | effects.FailedOver
        | effects.Finished
        | effects.Failed,
    ) -> None:
        conversation = self.conversations.get(effect.request_id)
        if conversation is None:
            return
        if (told := under_way(effect)) is not None:
            self._tell(told)
        try:
            conversation.handle(effect)
        except Exception:  # reported by the caller; whoever reads the answer must not wait for ever
            conversation.fail(LlamaGossipError("the answer could not be put together", hint="see the log"))
            self.feed(events.CancelRequest(effect.request_id, "internal error"))
            raise
        finally:
            if conversation.ended or isinstance(effect, effects.Finished):
                del self.conversations[effect.request_id]

    def _tell(self, told: news.NodeEvent) -> None:
        for listener in list(self.listeners):
            try:
                listener(told)
            except Exception as error:  # noqa: BLE001  the others are told all the same
                self._report(f"a listener of {type(told).__name__} failed", error)

    def _note_boot(self, node_id: NodeId, boot: int, *, heard: bool) -> None:
        """A newer boot: what is open to that node leads to a process that is gone. heard: but for the stream
        on which that process has spoken, before its Announce has come."""
        known = self._boots.pop(node_id, boot)
        if known < boot and not heard and self.transport is not None:
            self.transport.renew(node_id)
        self._boots[node_id] = max(known, boot)
        if len(self._boots) > MAX_BOOTS:
            del self._boots[next(iter(self._boots))]

    def _news_of(
        self, effect: effects.PeerUp | effects.PeerDown | effects.JobAccepted | effects.JobEnded
    ) -> news.NodeEvent:
        match effect:
            case effects.PeerUp(node_id):
                view = self.peer(node_id)
                models = tuple(offer.name for offer in view.capacity.models) if view else ()
                name, state = (view.name, view.state.name.lower()) if view else ("", "")
                return news.PeerUp(node_id.hex(), name, view.role if view else "", state, models)
            case effects.PeerDown(node_id, reason):
                return news.PeerDown(node_id.hex(), reason)
            case effects.JobAccepted(_, request_id, requester, model, _):
                return news.RequestAccepted(request_id.hex(), requester.hex(), model)
            case effects.JobEnded(_, request_id, requester, tokens, reason):
                return news.RequestEnded(request_id.hex(), requester.hex(), tokens, reason)
            case _:
                assert_never(effect)

    def peer(self, node_id: NodeId) -> PeerView | None:
        """The roster's view of one peer."""
        return next((view for view in self.core.peers(now()) if view.node_id == node_id), None)
