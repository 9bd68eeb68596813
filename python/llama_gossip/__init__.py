"""llama-gossip: machines with language models serve each other, with no server in the middle.

Names are loaded when they are first used: importing this package brings neither torch nor the native
extension along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_gossip.version import __version__

if TYPE_CHECKING:
    from llama_gossip.answer import Answer, Failover, Timings, Token, Usage
    from llama_gossip.engine import load_engine, load_engines
    from llama_gossip.errors import (
        Cancelled,
        ConfigError,
        EngineError,
        KeyFileError,
        LlamaGossipError,
        ModelUnavailable,
        NoWorkers,
        PeerFailed,
        ProtocolError,
        RequestTimeout,
        TicketError,
        TransportError,
        UsageError,
    )
    from llama_gossip.generation import Generation
    from llama_gossip.node import InferenceNode
    from llama_gossip.peers import Peer
    from llama_gossip.sync import SyncNode

_HOMES = {
    "answer": ("Answer", "Failover", "Timings", "Token", "Usage"),
    "engine": ("load_engine", "load_engines"),
    "errors": (
        "Cancelled",
        "ConfigError",
        "EngineError",
        "KeyFileError",
        "LlamaGossipError",
        "ModelUnavailable",
        "NoWorkers",
        "PeerFailed",
        "ProtocolError",
        "RequestTimeout",
        "TicketError",
        "TransportError",
        "UsageError",
    ),
    "generation": ("Generation",),
    "node": ("InferenceNode",),
    "peers": ("Peer",),
    "sync": ("SyncNode",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "Cancelled",
    "ConfigError",
    "EngineError",
    "Failover",
    "Generation",
    "InferenceNode",
    "KeyFileError",
    "LlamaGossipError",
    "ModelUnavailable",
    "NoWorkers",
    "Peer",
    "PeerFailed",
    "ProtocolError",
    "RequestTimeout",
    "SyncNode",
    "TicketError",
    "Timings",
    "Token",
    "TransportError",
    "Usage",
    "UsageError",
    "__version__",
    "load_engine",
    "load_engines",
]


def __getattr__(name: str) -> Any:
    if (home := _HOME_OF.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
