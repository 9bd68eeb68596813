"""One models directory for a whole checkout: the real model is fetched and converted once, not per test.

It is LLAMA_GOSSIP_MODELS where that is set, else `.llama-gossip/models` of the checkout, which git ignores.
"""

from __future__ import annotations

import os
from pathlib import Path

from llama_gossip.engine import models
from llama_gossip.engine.models import ModelFolder

CHECKOUT = Path(__file__).resolve().parents[2]
REAL_MODEL = "smollm2-135m"


def shared_models_dir() -> Path:
    named = os.environ.get("LLAMA_GOSSIP_MODELS")
    return Path(named) if named else CHECKOUT / ".llama-gossip" / "models"


def real_model() -> ModelFolder:
    """smollm2-135m, fetched and converted where this checkout has not got it yet."""
    return models.resolve(REAL_MODEL, shared_models_dir())
