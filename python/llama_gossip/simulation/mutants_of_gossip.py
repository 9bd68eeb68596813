"""Mutants of what the topic brings: receiving, replays, presence."""

from __future__ import annotations

from llama_gossip.simulation.mutant import Mutant
from llama_gossip.simulation.mutant import of_the_core as _mutant

OF_GOSSIP: tuple[Mutant, ...] = (
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
        "if self._reader.is_signed(raw):",
        "if self._reader.is_signed(raw) or True:",
        rule="gossip is signed by its author",
        oracle="I6",
    ),
    _mutant(
        "window_before_signature",
        "receive",
        "        self._check_signature(raw, neighbour, now, is_known)\n",
        "        self._windows.commit(\n"
        "            sender, head.boot, head.seq, neighbour=neighbour, known=is_known, mono_ms=now.mono_ms\n"
        "        )\n"
        "        self._check_signature(raw, neighbour, now, is_known)\n"
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
        "if not self._rates.take(raw.sender, raw.kind, now.mono_ms):",
        "if False:",
        rule="one signer is heard only so often",
        oracle="I12",
    ),
    _mutant(
        "newcomers_bucket",
        "receive",
        "if not settled and not self._rates.take_as_newcomer(raw.kind, now.mono_ms):",
        "if False:",
        rule="in an open network all newcomers share one bucket",
        oracle="I12",
        focus=("crowd",),
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
)
