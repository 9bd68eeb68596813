"""Engine slot: the one engine that a node serves with, its replacement and its end.

The law: an engine that is taken out ends its jobs (they fail as lost, retryable elsewhere) and is closed off
the event loop, which a hung model would stop; what cannot be served changes nothing.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from llama_gossip.driver import Driver
from llama_gossip.engine_bridge import EngineBridge
from llama_gossip.protocol import events
from llama_gossip.protocol.presence import checked_name

if TYPE_CHECKING:
    from llama_gossip.engine.base import Engine, EngineLoad


class EngineSlot:
    def __init__(self, driver: Driver, *, trusted: bool) -> None:
        self._driver = driver
        self._trusted = trusted
        self._closing: set[asyncio.Future[None]] = set()

    def put(self, engine: Engine | None) -> None:
        """Takes the place of what is there. Raises UsageError for what cannot be served."""
        if engine is None:
            self._take_out()
            self._driver.feed(events.EngineChanged(None))
            return
        checked_name("model name", engine.info.model)
        bridge = self._driver.bridge
        if bridge is None or bridge.engine is not engine:
            bridge = EngineBridge(engine, self._driver.feed, trusted=self._trusted)
            bridge.start()
            self._take_out()
            self._driver.bridge = bridge
        bridge.offer()

    def _take_out(self) -> None:
        bridge, self._driver.bridge = self._driver.bridge, None
        if bridge is not None:
            closed = self._driver.loop.run_in_executor(None, bridge.close)
            self._closing.add(closed)
            closed.add_done_callback(self._closing.discard)

    def loads(self) -> list[EngineLoad]:
        """How busy the engine is now; [] without one."""
        bridge = self._driver.bridge
        return [] if bridge is None else [bridge.engine.load()]

    async def close(self) -> None:
        """Waits until every engine that was ever in here has gone."""
        self._take_out()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def abandon(self) -> None:
        """The same where nobody can wait."""
        bridge, self._driver.bridge = self._driver.bridge, None
        if bridge is not None:
            threading.Thread(target=bridge.close, name="llama-gossip engine's end", daemon=True).start()
