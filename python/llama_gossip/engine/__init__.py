"""Engines: what turns a prompt into tokens. Imports without torch, runs without the native extension."""

from llama_gossip.engine.load import load_engine

__all__ = ["load_engine"]
