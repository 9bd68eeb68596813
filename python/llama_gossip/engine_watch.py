"""Engine watch: which of several engines has stopped stepping while it had work.

The law: what counts is silence under the watch's own eyes. A process that was stopped for a minute, or a
machine that slept, has looked once in that time, so no engine is given up for a pause of everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_gossip.engine.base import EngineLoad

HUNG_MS = 30_000.0  # the protocol's own patience with an engine
HUNG_LOOKS = 60  # as many of telemetry's looks as make HUNG_MS
SILENT_MS = 500.0  # between two looks


class EngineWatch:
    def __init__(self) -> None:
        self._silent: dict[str, int] = {}  # by model: looks in a row

    def look(self, loads: Mapping[str, EngineLoad]) -> list[str]:
        """Models whose engines hang, by what all say now. Called once a beat."""
        self._silent = {
            model: self._silent.get(model, 0) + 1
            for model, load in loads.items()
            if load.running and load.last_step_age_ms >= SILENT_MS
        }
        return [
            model
            for model, looks in self._silent.items()
            if looks >= HUNG_LOOKS and loads[model].last_step_age_ms >= HUNG_MS
        ]
