"""Mutants: the core with one rule taken out, as data. Each names the rule and the oracle that should fall.

The law: `old` stands exactly once in its module, and a mutant still serves requests when nothing goes wrong:
what it lacks must be missed only under faults.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_gossip.errors import UsageError


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    module: str
    old: str
    new: str
    rule: str  # that it takes out
    oracle: str  # expected to fall
    focus: tuple[str, ...] = ()  # fault kinds under which it shows soonest

    def applied(self, source: str) -> str:
        """Raises UsageError when the line is not there, or not once: the core has moved on."""
        if source.count(self.old) != 1:
            found = source.count(self.old)
            raise UsageError(
                f"the mutant {self.name} no longer fits {self.module}: its line stands there {found} times",
                hint="bring mutants.py up to date",
            )
        return source.replace(self.old, self.new)


def _mutant(
    name: str, module: str, old: str, new: str, *, rule: str, oracle: str, focus: tuple[str, ...] = ()
) -> Mutant:
    return Mutant(name, f"llama_gossip.protocol.{module}", old, new, rule, oracle, focus)


MUTANTS: tuple[Mutant, ...] = (
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
        "if silent_ms >= self._desk.timers.engine_stalled_ms:",
        "if False:",
        rule="a hung model is not kept alive by its event loop",
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
    # --- gossip ---
    _mutant(
        "replay_window",
        "replay",
        "return Verdict.SEEN if self.bits >> behind & 1 else Verdict.NEW",
        "return Verdict.NEW",
        rule="nothing is accepted twice",
        oracle="I6",
    ),
    _mutant(
        "lower_boot",
        "replay",
        "return Verdict.NEW if boot > self.boot else Verdict.LOWER_BOOT",
        "return Verdict.NEW",
        rule="an earlier process is not heard again",
        oracle="I6",
    ),
    _mutant(
        "envelope_signature",
        "receive",
        "if verify_envelope(raw, self._net_id, self._verify):",
        "if verify_envelope(raw, self._net_id, self._verify) or True:",
        rule="gossip is signed by its author",
        oracle="I6",
    ),
    _mutant(
        "window_before_signature",
        "receive",
        "        self._check_signature(raw, neighbour, now)\n",
        "        self._windows.commit(\n"
        "            sender, head.boot, head.seq, neighbour=neighbour, known=is_known, mono_ms=now.mono_ms\n"
        "        )\n"
        "        self._check_signature(raw, neighbour, now)\n"
        "        return Received(sender, self._message(raw))\n",
        rule="the window moves only for what was signed",
        oracle="I6",
    ),
    _mutant(
        "author",
        "receive",
        "        check_author(message, raw.sender)\n",
        "",
        rule="nobody speaks in the name of another",
        oracle="I6",
    ),
    _mutant(
        "old_ts",
        "receive",
        "if ahead_ms < -MAX_AGE_MS:",
        "if False:",
        rule="a message older than 60 s is not taken",
        oracle="I6",
    ),
    _mutant(
        "future_ts",
        "receive",
        "if ahead_ms > MAX_AHEAD_MS:",
        "if False:",
        rule="a message from the future is not taken",
        oracle="I6",
    ),
    _mutant(
        "signer_rate",
        "receive",
        "if not self._rates.take(sender, raw.kind, now.mono_ms):",
        "if False:",
        rule="one signer is heard only so often",
        oracle="I12",
    ),
    _mutant(
        "roster_order",
        "roster",
        "        if order <= self._newest(sender, peer):\n            return Change.OLD",
        "        if order == self._newest(sender, peer):\n            return Change.OLD",
        rule="older news of a peer changes nothing",
        oracle="I6",
    ),
    _mutant(
        "announce_gap",
        "presence",
        "        self._soon(_GREET, self._desk.timers.greet_gap_ms)\n",
        "        self._soon(_GREET, 0)\n",
        rule="never two Announces within half a second",
        oracle="I12",
        focus=("split",),
    ),
    # --- the answer ---
    _mutant(
        "contiguous",
        "attempt",
        "        if frame.index != self._next_index:\n",
        "        if False:\n",
        rule="tokens are released in order, each once",
        oracle="I1",
        focus=("liar",),
    ),
    _mutant(
        "max_tokens",
        "attempt",
        "if frame.index + len(frame.texts) > self.assign.config.max_tokens:",
        "if False:",
        rule="no more tokens than were asked for",
        oracle="I1",
        focus=("liar",),
    ),
    _mutant(
        "digest",
        "attempt",
        "if frame.text_digest != self._digest.digest():",
        "if False:",
        rule="an answer has the digest of its text",
        oracle="I4",
        focus=("liar",),
    ),
    _mutant(
        "total",
        "attempt",
        "if frame.total_tokens != tokens or frame.completion_tokens != tokens:",
        "if False:",
        rule="an answer has as many tokens as it says",
        oracle="I4",
        focus=("liar",),
    ),
    _mutant(
        "short",
        "attempt",
        "        tokens = self._next_index\n",
        "        tokens = max(self._next_index, frame.total_tokens)\n",
        rule="never a truncated success",
        oracle="I4",
        focus=("liar",),
    ),
    _mutant(
        "cancelled_answer",
        "attempt",
        "if frame.finish_reason is FinishReason.CANCELLED:",
        "if False:",
        rule="what somebody cancelled is no answer",
        oracle="I4",
        focus=("liar",),
    ),
    _mutant(
        "frame_signature",
        "frames",
        "        if not self._verify(\n",
        "        if False and not self._verify(\n",
        rule="every frame is signed",
        oracle="I4",
        focus=("liar",),
    ),
    _mutant(
        "frame_order",
        "frames",
        "        if n != self.next_n:\n",
        "        if False:\n",
        rule="frames are numbered without gaps",
        oracle="I4",
        focus=("liar",),
    ),
    # --- it goes on elsewhere ---
    _mutant(
        "failover",
        "aftermath",
        "    if request.strikes >= MAX_STRIKES:",
        "    if request.strikes >= MAX_STRIKES or request.delivered:",
        rule="an answer that has begun goes on with another worker",
        oracle="I11",
    ),
    _mutant(
        "resume",
        "assignment",
        "resume=None if promised is None else request.prefix.resume(promised),",
        "resume=None,",
        rule="an answer that has begun is never begun anew",
        oracle="I2",
    ),
    _mutant(
        "resume_index",
        "job",
        "self.first_index = 0 if resume is None else resume.from_index",
        "self.first_index = 0",
        rule="a resumed worker counts from the answer's start",
        oracle="I11",
        focus=("crash", "reload", "cut"),
    ),
    _mutant(
        "digest_of_the_whole",
        "attempt",
        "self._digest = prefix.digest.copy()",
        "self._digest = Prefix().digest",
        rule="the digest counts the whole answer, resumed part included",
        oracle="I11",
        focus=("crash", "reload", "cut"),
    ),
    # --- it ends ---
    _mutant(
        "accept_timer",
        "attempt",
        '        desk.after(self._key("accept"), desk.timers.accept_timeout_ms(sent_bytes))',
        "        pass",
        rule="a worker that does not answer is left",
        oracle="I11",
        focus=("liar",),
    ),
    _mutant(
        "advance_timer",
        "attempt",
        '        self._desk.after(self._key("advance"), limit_ms)',
        "        pass",
        rule="a worker that makes no headway is left",
        oracle="I11",
        focus=("liar",),
    ),
    _mutant(
        "deadline",
        "requester",
        '        self._desk.agenda.set(request.key("deadline"), request.deadline_mono_ms)\n'
        "        self._next(request)",
        "        self._next(request)",
        rule="a request ends at its deadline",
        oracle="I11",
    ),
    _mutant(
        "out_for_ever",
        "selection",
        "return record.out_since is not None and candidate.order <= record.out_since",
        "return record.out_since is not None",
        rule="a worker that announces itself anew is asked again",
        oracle="I11",
    ),
    _mutant(
        "hold",
        "ledger",
        "        self.record(worker).held_until_ms = until_mono_ms",
        "        pass",
        rule="a refused requester waits for as long as it was told",
        oracle="I12",
        focus=("reload",),
    ),
)
