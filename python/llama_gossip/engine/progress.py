"""Progress: how long work on model files tells its caller where it stands. The caller draws, we count.

The law: within a stage `done` only rises, and a finished stage has ended with `done == total`; a stage may
come again, for another file.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called from the thread that does the work; it must return fast and never raise."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """`stage` is a word for people ("fetch", "check", "convert", "load"), with the model behind it where
        there are several; `done` of `total` are in the stage's own unit (bytes, or tensors); total 0 means
        that nobody knows."""


def silent(_stage: str, _done: int, _total: int, /) -> None:
    """Draws nothing."""
