"""Engine slot: the engines that a node serves with, their replacement and their end.

The law: an engine that is taken out ends its jobs (they fail as lost, retryable elsewhere) and is closed off
the event loop, which a hung model would stop; one that stays is not disturbed; what cannot be served changes
nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llama_gossip.driver import Driver
from llama_gossip.engine_bridge import EngineBridge
from llama_gossip.engine_set import EngineSet
from llama_gossip.errors import UsageError
from llama_gossip.protocol import events
from llama_gossip.protocol.presence import checked_name

if TYPE_CHECKING:
    from llama_gossip.engine.base import Engine, EngineInfo, EngineLoad


class EngineSlot:
    def __init__(self, driver: Driver, *, trusted: bool) -> None:
        self._driver = driver
        self._trusted = trusted
        self._closing: set[asyncio.Future[None]] = set()

    def put(self, engines: Sequence[Engine]) -> None:
        """They serve in the place of what is there. Raises UsageError for what cannot be served: then nothing
        has changed, but that of several engines those that had begun already are closed."""
        _check_names(engines)
        there = self._bridges()
        bridges = self._begun(engines, there)
        served = self._driver.engines = EngineSet(bridges, self._driver.feed) if bridges else None
        self._end(bridge for bridge in there if bridge not in bridges)
        if served is not None:
            served.offer()
        else:
            self._driver.feed(events.EngineChanged(None))

    def _look(self) -> None:
        if (served := self._driver.engines) is not None:
            served.look()

    def _begun(self, engines: Sequence[Engine], there: Sequence[EngineBridge]) -> list[EngineBridge]:
        """Their bridges, those that are there already and new ones."""
        fresh: list[EngineBridge] = []
        bridges: list[EngineBridge] = []
        try:
            for engine in engines:
                bridge = next((bridge for bridge in there if bridge.engine is engine), None)
                if bridge is None:
                    bridge = EngineBridge(
                        engine,
                        self._driver.feed,
                        trusted=self._trusted,
                        look=self._look,
                        made=self._driver.meters.made_gaps_s,
                    )
                    bridge.start()
                    fresh.append(bridge)
                bridges.append(bridge)
        except BaseException:
            self._end(fresh)
            raise
        return bridges

    def _bridges(self) -> list[EngineBridge]:
        served = self._driver.engines
        return list(served) if served is not None else []

    def _end(self, bridges: Iterable[EngineBridge]) -> None:
        for bridge in bridges:
            closed = self._driver.loop.run_in_executor(None, bridge.close)
            self._closing.add(closed)
            closed.add_done_callback(self._closing.discard)

    def engines(self) -> list[tuple[EngineInfo, EngineLoad]]:
        """What serves, and how busy each is now."""
        return [(bridge.engine.info, bridge.engine.load()) for bridge in self._bridges()]

    async def close(self) -> None:
        """Waits until every engine that was ever in here has gone."""
        bridges, self._driver.engines = self._bridges(), None
        self._end(bridges)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def abandon(self) -> None:
        """The same where nobody can wait."""
        bridges, self._driver.engines = self._bridges(), None
        for bridge in bridges:
            threading.Thread(target=bridge.close, name="llama-gossip engine's end", daemon=True).start()


def _check_names(engines: Sequence[Engine]) -> None:
    seen: set[str] = set()
    for engine in engines:
        name = checked_name("model name", engine.info.model)
        if name in seen:
            raise UsageError(
                f"two of the engines serve a model named {name!r}",
                hint="requests choose by name: serve one of them, or give the other's file a name of its own",
            )
        seen.add(name)
