"""Engines: what turns a prompt into tokens. Imports and runs without the native extension."""
