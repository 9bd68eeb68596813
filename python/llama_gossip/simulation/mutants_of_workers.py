"""Mutants of the worker: fences, the lease, admission, slots."""

from __future__ import annotations

from llama_gossip.simulation.mutant import Mutant
from llama_gossip.simulation.mutant import of_the_core as _mutant

OF_WORKERS: tuple[Mutant, ...] = (
    # --- one attempt at a time ---
    _mutant(
        "fence",
        "fences",
        "return fence is None or attempt > fence.attempt",
        "return True",
        rule="an attempt that is not higher than the last never starts work",
        oracle="I10",
    ),
    _mutant(
        "tombstone",
        "fences",
        "fence.forget_mono_ms = now_mono_ms + self._tombstone_ms",
        "fence.forget_mono_ms = now_mono_ms",
        rule="an ended attempt is remembered for 120 s",
        oracle="I10",
    ),
    _mutant(
        "superseded",
        "jobs",
        "        if older is not None:\n            self.close(older,",
        "        if older is not None and not older.tokens and False:\n            self.close(older,",
        rule="a newer attempt ends the older one",
        oracle="I5",
    ),
    _mutant(
        "cancel_before_failover",
        "requester",
        "                self._cancel_live(attempt, ended.reason)",
        "                pass",
        rule="a live attempt is cancelled before another begins",
        oracle="I5",
    ),
    _mutant(
        "reset_of_a_lost_attempt",
        "requester",
        "            case How.LOST | How.REFUSED:\n"
        "                self._desk.emit(ResetStream(attempt.stream, StreamCode.CANCELLED))",
        "            case How.LOST | How.REFUSED:\n                pass",
        rule="what the worker still sends of an attempt that is over is refused",
        oracle="I5",
        focus=("liar",),
    ),
    # --- the lease ---
    _mutant(
        "lease",
        "core",
        'self._worker.gone(stream, "requester_lost", answer=False)',
        "pass",
        rule="the stream is the lease: a lost one ends the job",
        oracle="I5",
    ),
    _mutant(
        "stop_of_the_engine",
        "jobs",
        "            job.ending = reason\n            self._stop_engine(job, reason)",
        "            job.ending = reason",
        rule="the engine is told to stop when its requester is gone",
        oracle="I5",
    ),
    _mutant(
        "early_end_is_a_cancel",
        "worker",
        '            self.jobs.close(job, "requester_ended", StreamCode.CANCELLED if early else None)',
        "            pass",
        rule="the requester's early end is a cancel",
        oracle="I7",
    ),
    _mutant(
        "hung_engine",
        "jobs",
        "return silent_ms >= self._desk.timers.engine_stalled_ms and self.queue.running > 0",
        "return False",
        rule="a hung model is not kept alive by its event loop",
        oracle="I5",
        focus=("hang", "double"),
    ),
    _mutant(
        "hung_engine_with_news",
        "jobs",
        "        if not self.queue.running:  # an idle engine owes no step",
        "        if True:  # an idle engine owes no step",
        rule="a new job is no sign of life of an engine that hangs",
        oracle="I5",
        focus=("hang", "double"),
    ),
    # --- no work without an Assign ---
    _mutant(
        "boot_check",
        "admission",
        "if assign.worker_boot != boot:",
        "if False:",
        rule="an Assign names the boot that it is for",
        oracle="I10",
    ),
    _mutant(
        "worker_check",
        "worker",
        "if assign.worker != self._desk.own_id:",
        "if False:",
        rule="an Assign names the worker that it is for",
        oracle="I10",
    ),
    _mutant(
        "remote_is_author",
        "worker",
        "if sender != inbound.remote:",
        "if False:",
        rule="an Assign comes from its author's own connection",
        oracle="I10",
    ),
    _mutant(
        "assign_signature",
        "frames",
        "if not verify(raw.sender, signed, raw.signature):",
        "if False:",
        rule="an Assign is signed",
        oracle="I10",
    ),
    # --- slots ---
    _mutant(
        "slot_release",
        "jobs",
        "if job is None or not self.queue.free(number):",
        "if job is None or not self.queue.runs(number) or (job.state not in _ENGINE_STATES):\n"
        "            return None\n"
        "        if not self.queue.free(number):",
        rule="a slot is freed at the engine's end, also of a job that was given up",
        oracle="I7",
    ),
    _mutant(
        "slot_too_early",
        "jobs",
        "            self._desk.emit(CancelJob(job.number, reason))",
        "            self._desk.emit(CancelJob(job.number, reason))\n            self.queue.free(job.number)",
        rule="a slot is freed at the engine's end, not when it is told to stop",
        oracle="I7",
    ),
    _mutant(
        "ledger_release",
        "requester",
        "        self._ledger.end(attempt.worker)",
        "        if attempt.received:\n            self._ledger.end(attempt.worker)",
        rule="an attempt that ends no longer counts as in flight",
        oracle="I7",
    ),
    _mutant(
        "job_closing",
        "job",
        '        self._desk.after(self.key("closing"), self._desk.timers.closing_ms)',
        "        pass",
        rule="a requester that never ends its side does not keep the job",
        oracle="I7",
    ),
    _mutant(
        "silent_stream",
        "worker",
        'self._desk.after(("inbound", stream, "first"), self._desk.timers.first_item_ms)',
        "pass",
        rule="a stream that brings no Assign is dropped",
        oracle="I7",
    ),
    _mutant(
        "refused_stream",
        "worker",
        'self._desk.after(("inbound", inbound.stream, "closing"), self._desk.timers.closing_ms)',
        "pass",
        rule="a refused stream does not stay for ever",
        oracle="I7",
    ),
)
