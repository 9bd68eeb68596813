"""Pace: how long this node's jobs take, learnt from those that ended. Estimates only, never a promise."""

from __future__ import annotations

from llama_gossip.protocol.job import Job

EWMA_WEIGHT = 0.3  # of the newest job
MIN_RETRY_MS = 200  # a refused requester comes again no faster
MAX_RETRY_MS = 10_000  # and no slower: the queue may empty by cancels


class Pace:
    def __init__(self) -> None:
        self._job_ms = 0.0
        self._first_token_ms = 0.0

    @property
    def first_token_ms(self) -> int:
        """From the slot to the first token; 0 before anything is known."""
        return round(self._first_token_ms)

    def learn(self, job: Job, now_mono_ms: int) -> None:
        if job.started_mono_ms is None or job.was_parked:
            return
        self._job_ms = _blend(self._job_ms, now_mono_ms - job.started_mono_ms)
        if job.first_token_mono_ms is not None:
            self._first_token_ms = _blend(self._first_token_ms, job.first_token_mono_ms - job.started_mono_ms)

    def wait_ms(self, position: int, slots: int) -> int:
        """Until a slot frees for the job with `position` others before it."""
        return round((position + 1) * self._job_ms / slots) if slots else 0

    def retry_ms(self, slots: int) -> int:
        """When a refused requester had best come again; 0 before anything is known."""
        wait_ms = self.wait_ms(0, slots)
        return min(max(wait_ms, MIN_RETRY_MS), MAX_RETRY_MS) if wait_ms else 0


def _blend(old: float, sample: float) -> float:
    return old + EWMA_WEIGHT * (sample - old) if old else sample
