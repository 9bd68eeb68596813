"""Parking: jobs whose requester does not read. The engine leaves them out of its steps.

The law: a job is parked while its stream is full and it runs, at most unread_ms in a row; then it ends, and
what was made by then is still there to be read. A stream that is full is sign of life enough: nothing is said
on it beside the tokens of the step that was running.
"""

from __future__ import annotations

from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.effects import ParkJob, UnparkJob
from llama_gossip.protocol.job import Job


class Parking:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._full: set[int] = set()  # jobs whose stream is
        self._parked: set[int] = set()  # those of them that the engine has

    def __len__(self) -> int:
        """Jobs that the engine leaves out."""
        return len(self._parked)

    def is_full(self, job: Job) -> bool:
        return job.number in self._full

    def full(self, job: Job, *, runs: bool) -> None:
        """Its stream takes no more. runs: it holds a slot."""
        if job.number in self._full:
            return
        self._full.add(job.number)
        self._desk.after(job.key("unread"), self._desk.timers.unread_ms)
        if runs:
            self.started(job)

    def started(self, job: Job) -> None:
        """It has a slot from now on."""
        if job.number in self._full:
            job.was_parked = True
            self._parked.add(job.number)
            self._desk.count("jobs_parked")
            self._desk.emit(ParkJob(job.number))

    def writable(self, job: Job) -> None:
        """Half of what waited is on its way."""
        self._desk.agenda.cancel(job.key("unread"))
        self._full.discard(job.number)
        if job.number in self._parked:
            self._parked.remove(job.number)
            self._desk.emit(UnparkJob(job.number))

    def over(self, number: int) -> None:
        """The job has ended, or its engine is told to stop."""
        self._full.discard(number)
        self._parked.discard(number)
