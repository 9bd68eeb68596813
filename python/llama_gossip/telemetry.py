"""Telemetry: what a node notices about itself twice a second, and tells its core and its network."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from llama_gossip.clock_watch import ClockWatch
from llama_gossip.driver import Driver
from llama_gossip.protocol import events

if TYPE_CHECKING:
    from llama_gossip.engine_bridge import EngineBridge

log = logging.getLogger(__name__)

BEAT_S = 0.5  # the protocol's heartbeat: how soon a stepping engine is noticed
ANNOUNCE_CHANGE = 0.25  # relative change of tokens/s that is news to the others


class Telemetry:
    """Runs from the join to the end of a node."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._announced_tokens_per_s = 0.0
        self._clock = ClockWatch()
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
        if (bridge := self._driver.bridge) is not None:
            self._watch(bridge)

    def _watch(self, bridge: EngineBridge) -> None:
        """An engine that steps without an event (a long prefill) is not a hung one."""
        bridge.look()
        load = bridge.engine.load()
        if load.running and load.last_step_age_ms < 2 * BEAT_S * 1000:
            self._driver.feed(events.EngineStepped())
        known = self._announced_tokens_per_s
        if abs(load.tokens_per_s - known) > ANNOUNCE_CHANGE * known:
            self._announced_tokens_per_s = load.tokens_per_s
            bridge.offer()
