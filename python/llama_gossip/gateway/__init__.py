"""The HTTP face of a node: OpenAI's API, metrics and the dashboard.

The law: its packages belong to the extra `gateway`. Importing this package imports none of them; whoever
wants to serve HTTP calls `require_extra` first, and then imports the module it needs.
"""

from __future__ import annotations

from importlib.util import find_spec

from llama_gossip.errors import ConfigError

EXTRA = "gateway"
PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}


def require_extra() -> None:
    """Raises ConfigError, with what to install, when a package of the extra is missing."""
    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"serving HTTP needs {' and '.join(missing)}, which this Python does not have",
            hint=f"pip install 'llama-gossip[{EXTRA}]'",
            code="extra",
        )
