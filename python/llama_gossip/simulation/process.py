"""Process: one node of the simulation, a real core with virtual senses. It can stop, die and come back.

The law: the core is handed events one at a time and its effects are performed in order, as the driver does;
a stopped process hears what waited for it when it goes on; a new life has a higher boot and knows nothing.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.envelope import EnvelopeReader, Signer, Verifier
from llama_gossip.protocol.timers import Timers
from llama_gossip.simulation.clock import WALL_ORIGIN_MS, Clock

if TYPE_CHECKING:
    from llama_gossip.simulation.liar import Liar
    from llama_gossip.simulation.machine import Machine

WORK_ENDS = (ev.EngineDone, ev.EngineFailed)
ENDS = (ev.StreamFinished, ev.StreamReset, ev.StreamStopped, ev.StreamLost)
PRESSURE = (ev.StreamFull, ev.StreamWritable)
BACKLOG = 2_048  # gossip that waits for a stopped process; the rest is lost (Lagged)


class Surroundings(Protocol):
    """What a process acts on."""

    def perform(self, process: Process, effect: ef.Effect) -> None: ...
    def heard(self, process: Process, event: ev.GossipReceived, evil: str, accepted: bool) -> None: ...
    def before_evil(self, process: Process, event: ev.GossipReceived, evil: str) -> None: ...
    def stream_over(self, process: Process, stream: int) -> None: ...
    def stream_pressed(self, process: Process, stream: int, *, full: bool) -> None: ...
    def slot_given_back(self, process: Process, job: int) -> None: ...
    def broken(self, process: Process, event: ev.Event, error: Exception) -> None: ...
    def opened(self, process: Process, before: tuple[int, int], evil: str) -> None: ...


class Process:
    def __init__(
        self,
        place: int,
        name: str,
        *,
        clock: Clock,
        rng: random.Random,
        signer: Signer,
        verify: Verifier,
        reader: EnvelopeReader,
        net_id: bytes,
        around: Surroundings,
        policy: Policy,
        timers: Timers,
    ) -> None:
        self.place = place
        self.name = name
        self.node_id = signer.node_id
        self.signer = signer
        self.clock = clock
        self.life = 0
        self.lives = 0
        self.paused = False
        self.leaving = False  # its user has told it to
        self.skew_ms = 0  # of its wall clock
        self.boot = 0
        self.core: Core | None = None
        self.event: ev.Event = ev.Tick()  # that is being handled
        self.machine: Machine | None = None
        self.liar: Liar | None = None
        self.healthy_since_ms = 0  # nothing was wrong with it since
        self.paused_ms = 0  # in all
        self.stepped_ms = -(10**9)  # the last step of its wall clock
        self.set_back_ms = 0  # its wall clock, by all steps together: so much later may still be "in time"
        self.wake_at: int | None = None
        self.accepted: set[bytes] = set()  # gossip that this life's core took
        self.dials: dict[int, int] = {}  # dial → life
        self._paused_at_ms = 0
        self._rng = rng
        self._verify = verify
        self._reader = reader
        self._net_id = net_id
        self._around = around
        self._policy = policy
        self._timers = timers
        self._waiting: deque[Callable[[], None]] = deque()
        self._gossip_waiting = 0

    @property
    def stopped_ms(self) -> int:
        """In all, the pause that lasts still included."""
        return self.paused_ms + (self.clock.now_ms - self._paused_at_ms if self.paused else 0)

    def now(self) -> ev.Now:
        now_ms = self.clock.now_ms
        return ev.Now(now_ms, WALL_ORIGIN_MS + now_ms + self.skew_ms)

    def set_clock(self, skew_ms: int) -> None:
        """Its wall clock is put on or back."""
        self.set_back_ms += max(0, self.skew_ms - skew_ms)
        self.skew_ms = skew_ms
        self.stepped_ms = self.clock.now_ms

    # --- lives ---

    def start(self) -> None:
        self.lives += 1
        self.life = self.lives
        self.leaving = False
        self.paused = False
        self.boot = max(self.now().wall_ms, self.boot + 1)  # as the identity keeps it on disk
        self.core = Core(
            signer=self.signer,
            net_id=self._net_id,
            boot=self.boot,
            node_name=self.name,
            rng=random.Random(self._rng.random()),
            verify=self._verify,
            reader=self._reader,
            version="0.1.0",
            policy=self._policy,
            timers=self._timers,
        )
        self.accepted = set()
        self.healthy_since_ms = self.clock.now_ms
        if self.machine is not None:
            self.feed(ev.EngineChanged(self.machine.capacity()))
        self.feed(ev.Joined((f"127.0.0.1:{5_000 + self.place}",)))

    def die(self) -> None:
        self.life = 0
        self.core = None
        self.wake_at = None
        self.dials.clear()
        self._waiting.clear()
        self._gossip_waiting = 0
        if self.machine is not None:
            self.machine.vanish()

    def pause(self) -> None:
        self.paused = True
        self._paused_at_ms = self.clock.now_ms
        if self.machine is not None:
            self.machine.pause()

    def resume(self) -> None:
        if not self.paused:
            return
        self.paused = False
        self.paused_ms += self.clock.now_ms - self._paused_at_ms
        self.healthy_since_ms = self.clock.now_ms
        life = self.life
        self._gossip_waiting = 0
        while self._waiting and self.life == life and not self.paused:
            self._waiting.popleft()()
        if self.machine is not None and self.life == life:
            self.machine.resume()

    # --- senses ---

    def feed(self, event: ev.Event) -> None:
        if self.paused:
            self._waiting.append(lambda: self.feed(event))
            return
        core = self.core
        if core is None:
            return
        self.event = event
        if self.liar is not None and isinstance(event, ev.StreamData):
            self.liar.hear(event.stream, event.data)
        try:
            effects = core.handle(event, self.now())
        except Exception as error:  # noqa: BLE001  # whatever it is, a peer or the user has brought it about
            self._around.broken(self, event, error)
            return
        if isinstance(event, WORK_ENDS):
            self._around.slot_given_back(self, event.job)
        perform = self._around.perform
        for effect in effects:
            perform(self, effect)
        if isinstance(event, ENDS) and self.core is core:
            self._around.stream_over(self, event.stream)
        elif isinstance(event, PRESSURE) and self.core is core:
            self._around.stream_pressed(self, event.stream, full=isinstance(event, ev.StreamFull))

    def tell(self, event: ev.Event) -> None:
        """The machine speaks; a stopped process hears it later, as the machine is stopped with it."""
        self.feed(event)

    def hear(self, event: ev.GossipReceived, evil: str) -> None:
        if self.paused:
            self._gossip_waiting += 1
            if self._gossip_waiting <= BACKLOG:
                self._waiting.append(lambda: self.hear(event, evil))
            return
        core = self.core
        if core is None:
            return
        if evil:
            self._hear_evil(core, event, evil)
            return
        before = core._receiver.accepted
        self.feed(event)
        if self.core is core:
            self._around.heard(self, event, "", core._receiver.accepted > before)

    def _hear_evil(self, core: Core, event: ev.GossipReceived, evil: str) -> None:
        self._around.before_evil(self, event, evil)
        before, counters = core._receiver.accepted, core._desk.counters
        opened = counters["packets_opened"], counters["packets_seal"]
        self.feed(event)
        if self.core is core:
            self._around.opened(self, opened, evil)
            self._around.heard(self, event, evil, core._receiver.accepted > before)

    def tick(self, at_ms: int, life: int) -> None:
        if self.life == life and self.wake_at == at_ms:
            self.wake_at = None
            self.feed(ev.Tick())

    def wake(self, at_ms: int | None) -> None:
        self.wake_at = at_ms
        if at_ms is not None:
            self.clock.at(at_ms, self.tick, at_ms, self.life)
