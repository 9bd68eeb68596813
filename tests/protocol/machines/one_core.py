"""One core: what every machine around a single core has: its time, its promises after each step, its end.

The law: a machine that has begun comes to rest, and then its core holds nothing.
"""

from __future__ import annotations

from hypothesis.stateful import RuleBasedStateMachine, invariant

from llama_gossip.protocol import events as ev
from llama_gossip.simulation import guards
from tests.protocol.machines.parts import Clocked


class OneCore(RuleBasedStateMachine):
    side: Clocked  # from the first rule on

    def feed(self, event: ev.Event) -> object:
        raise NotImplementedError

    def pass_time(self, ms: int | None) -> None:
        """None: until the next timer fires."""
        end_ms = (self.side.wake_at or self.side.now_ms) if ms is None else self.side.now_ms + ms
        while self.side.ticks_until(end_ms) is not None:
            self.feed(ev.Tick())
            if ms is None:
                return

    @invariant()
    def the_promises_hold(self) -> None:
        if hasattr(self, "side"):
            self.side.check()
            self.look()

    def look(self) -> None:
        """What else holds after every step."""
        raise NotImplementedError

    def teardown(self) -> None:
        if hasattr(self, "side"):
            self.come_to_rest()
            self.side.check()
            assert not (found := guards.unfinished(self.side.core)), found
            self.nothing_is_left()

    def come_to_rest(self) -> None:
        """Nothing new begins, and what is open ends."""
        raise NotImplementedError

    def nothing_is_left(self) -> None:
        """Of what the machine itself keeps count of."""
        raise NotImplementedError
