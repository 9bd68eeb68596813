"""Nodes for the tests of metrics: as for those of nodes."""

from __future__ import annotations

from tests.live.conftest import dirs, spawn

__all__ = ["dirs", "spawn"]
