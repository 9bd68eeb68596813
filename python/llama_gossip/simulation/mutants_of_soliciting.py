"""Mutants of choosing and asking: cooldowns, Requests, Claims."""

from __future__ import annotations

from llama_gossip.simulation.mutant import Mutant
from llama_gossip.simulation.mutant import of_the_core as _mutant

OF_SOLICITING: tuple[Mutant, ...] = (
    _mutant(
        "cooldown",
        "ledger",
        "        record.cooldown_until_ms = now_mono_ms + max(cooldown_ms, least_ms)",
        "        pass",
        rule="whoever was caught at a fault is not asked while others are there",
        oracle="I9",
        focus=("liar",),
    ),
    _mutant(
        "second_chance",
        "finder",
        "        failed = self._failed(request, found)\n",
        "        failed: set[NodeId] = set()\n",
        rule="who has failed is asked again only once the topic was asked for somebody better",
        oracle="I11",  # in one seed of some hundred
    ),
    # --- conversations ---
    _mutant(
        "goes_home",
        "selection",
        "        return kept if self.score_ms(kept, want, now) <= AFFINITY_FACTOR * best_ms else None",
        "        return None",
        rule="the next turn of a conversation goes to the worker that holds it",
        oracle="I17",
    ),
    # --- Requests ---
    _mutant(
        "request_gap",
        "solicitor",
        "max(now_ms, call.closed_mono_ms + call.gap_ms)",
        "now_ms",
        rule="the topic is not asked the same again within half a second",
        oracle="I12",
        focus=("reload", "crash"),
    ),
    _mutant(
        "request_rate",
        "solicitor",
        "if not self._budget.take(Kind.REQUEST, SIGNER_RATES[Kind.REQUEST], desk.now.mono_ms):",
        "if False:",
        rule="a node asks no more often than receivers listen",
        oracle="I12",
        focus=("reload", "unreachable"),
    ),
    _mutant(
        "exact_length",
        "call",
        "return Question(request.submit.model, 1 << (tokens - 1).bit_length(), config.needed, public)",
        "return Question(request.submit.model, tokens, config.needed, public)",
        rule="a Request tells the length of a prompt as a power of two",
        oracle="I13",
        focus=("reload",),
    ),
    _mutant(
        "asker_release",
        "requester",
        "        self._solicitor.leave(request)\n        del self._requests",
        "        del self._requests",
        rule="nobody is asked on behalf of a request that has ended",
        oracle="I7",
        focus=("crash",),
    ),
    _mutant(
        "topic_first",
        "finder",
        "        if request.public and not request.answered:  # the topic is asked first",
        "        if False:",
        rule="nobody is assigned what is public before the topic was asked for it",
        oracle="I17",
    ),
    # --- Claims ---
    _mutant(
        "offer_window",
        "solicitor",
        "        soon = self._desk.now.mono_ms + self._desk.timers.offer_window_ms",
        "        soon = self._desk.now.mono_ms",
        rule="after the first Claim others have 150 ms to be better",
        oracle="I17",
        focus=("loss", "reorder"),
    ),
    _mutant(
        "claims_count",
        "solicitor",
        "        return call.bids\n",
        "        return {}\n",
        rule="whoever has claimed a request may be assigned it",
        oracle="I11",
        focus=("reload",),
    ),
    _mutant(
        "claim_author",
        "envelope",
        "if isinstance(message, Claim) and message.worker != sender:",
        "if False:",
        rule="nobody claims in the name of another",
        oracle="I6",
        focus=("claim", "reload"),
    ),
    _mutant(
        "claim_once",
        "claimer",
        "        del self._by_number[number]\n"
        "        del self._pending[pending.request.requester, pending.request.request_id]\n",
        "        desk.after(_key(number), 700)\n",
        rule="a Request is answered once",
        oracle="I12",
        focus=("reload",),
    ),
    _mutant(
        "claims_held_back",
        "claimer",
        ">= BETTER_CLAIMS:",
        ">= 10**9:",
        rule="of three faster Claims no fourth is needed",
        oracle="I12",
        focus=("reload", "slow"),
    ),
)
