"""Engines: what turns a prompt into tokens. Imports without torch, runs without the native extension."""

from llama_gossip.engine.load import check_spec, load_engine

__all__ = ["check_spec", "load_engine"]
