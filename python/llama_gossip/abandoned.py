"""Abandoned: the end of a node that was dropped without a shutdown.

The law: it must not go on serving under a key that another node may now take.
"""

from __future__ import annotations

from llama_gossip.driver import Driver
from llama_gossip.engine_slot import EngineSlot
from llama_gossip.identity import NodeKey
from llama_gossip.telemetry import Telemetry


def abandon(driver: Driver, slot: EngineSlot, telemetry: Telemetry | None, key: NodeKey) -> None:
    """From any thread, and when the event loop is closed. Returns at once."""
    try:
        driver.loop.call_soon_threadsafe(_end, driver, slot, telemetry, key)
    except RuntimeError:  # the loop is closed: nothing of the node runs on it any more
        _end(driver, slot, None, key)


def _end(driver: Driver, slot: EngineSlot, telemetry: Telemetry | None, key: NodeKey) -> None:
    if telemetry is not None:
        telemetry.cancel()
    if driver.transport is not None:
        driver.transport.abort()
    slot.abandon()
    key.release()
    if not driver.loop.is_closed():
        driver.stop()
