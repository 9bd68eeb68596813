"""Programs of the system that tests start. Where one is missing its tests skip, which fails under CI."""

from __future__ import annotations

import shutil

import pytest


def program(name: str) -> str:
    """Where it is."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} on this machine")
    return found
