"""Engines: what turns a prompt into tokens. Imports without torch, runs without the native extension."""

from llama_gossip.engine.load import check_specs, load_engine, load_engines

__all__ = ["check_specs", "load_engine", "load_engines"]
