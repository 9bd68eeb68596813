"""Telemetry: what a node notices about itself twice a second, and tells its core and its network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_gossip.clock_watch import ClockWatch
from llama_gossip.driver import Driver
from llama_gossip.engine_slot import EngineSlot
from llama_gossip.engine_watch import EngineWatch
from llama_gossip.protocol import events

if TYPE_CHECKING:
    from llama_gossip.engine.base import EngineLoad
    from llama_gossip.engine_set import EngineSet

log = logging.getLogger(__name__)

BEAT_S = 0.5  # the protocol's heartbeat: how soon a stepping engine is noticed
ANNOUNCE_CHANGE = 0.25  # relative change of tokens/s that is news to the others


class Telemetry:
    """Runs from the join to the end of a node."""

    def __init__(self, driver: Driver, slot: EngineSlot) -> None:
        self._driver = driver
        self._slot = slot
        self._announced_tokens_per_s = 0.0
        self._clock = ClockWatch()
        self._engines = EngineWatch()
        self._task = asyncio.create_task(self._run(), name="llama-gossip telemetry")

    def cancel(self) -> None:
        self._task.cancel()

    async def stop(self) -> None:
        self.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                self._beat()
            except Exception as error:  # noqa: BLE001  without the next beat a sound engine would look hung
                message = "llama-gossip: a beat of the telemetry failed"
                self._driver.loop.call_exception_handler({"message": message, "exception": error})

    def _beat(self) -> None:
        if (news := self._clock.look(self._driver.core.skew_ms())) is not None:
            log.warning(news)
        if (engines := self._driver.engines) is not None:
            self._watch(engines)

    def _watch(self, engines: EngineSet) -> None:
        """An engine that steps without an event (a long prefill) is not a hung one."""
        engines.look()
        loads = {bridge.model: bridge.engine.load() for bridge in engines}
        if any(load.running and load.last_step_age_ms < 2 * BEAT_S * 1000 for load in loads.values()):
            self._driver.feed(events.EngineStepped())
        if self._given_up(engines, loads):
            return
        capacity, known = engines.capacity(), self._announced_tokens_per_s
        if capacity is not None and abs(capacity.tokens_per_s - known) > ANNOUNCE_CHANGE * known:
            self._announced_tokens_per_s = capacity.tokens_per_s
            engines.offer()

    def _given_up(self, engines: EngineSet, loads: Mapping[str, EngineLoad]) -> bool:
        """Of several engines one that hangs is closed: it holds slots that the others could use, and while
        they step the core does not see it. That a node's only engine hangs is the core's matter."""
        hung = self._engines.look(loads)
        sound = [bridge.engine for bridge in engines if bridge.model not in hung]
        if not hung or not sound:
            return False
        log.warning("%s has stopped stepping and is served no more; the rest is", ", ".join(hung))
        self._slot.put(sound)
        return True
