"""Models as the interface lists them: a name each, whoever serves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

OWNER: Final = "llama-gossip"


def models_list(models: Mapping[str, int]) -> dict[str, Any]:
    """models: name -> since when it is served, seconds since the epoch. Sorted by name."""
    return {
        "object": "list",
        "data": [model_object(name, created) for name, created in sorted(models.items())],
    }


def model_object(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER}
