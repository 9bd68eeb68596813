"""Conversations: I17, the next turn of a chat goes home, to the worker that has answered the turns before it.

The law: it speaks only where the requester's own view leaves no excuse: the holder is known and ready, has
refused and failed nothing of late, and looks not much worse than the best of all. That view is read from its
core before the question reaches it; where it goes is seen at the dial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.messages import ChatPrompt, NodeId
from llama_gossip.protocol.selection import Want, survey
from llama_gossip.protocol.streams import Delivery, Visibility
from llama_gossip.simulation.process import Process

if TYPE_CHECKING:
    from llama_gossip.simulation.world import World

HELD_MS = 1_200_000
CLAIM_MS = 15_000  # for so long a Claim is an offer
NOT_MUCH_WORSE = 1.5  # times the best; from 2 on it may go elsewhere

Messages = tuple[tuple[str, str], ...]


class Conversations:
    def __init__(self, world: World) -> None:
        self._world = world
        self._held: dict[tuple[int, int, str, Messages], tuple[NodeId, int]] = {}  # → (by whom, since when)
        self._goes_home: dict[tuple[int, int], NodeId] = {}  # what is asked now, of a (place, life)
        self.judged = 0

    def answered(self, node: Process, end: ef.Finished) -> None:
        story = self._world.oracles.stories.get((node.node_id, end.request_id))
        if story is not None and isinstance(story.submit.prompt, ChatPrompt):
            key = (node.place, node.life, story.submit.model, story.submit.prompt.messages)
            self._held[key] = (end.worker, self._world.clock.now_ms)

    def asked(self, node: Process, submit: ev.Submit) -> None:
        """The node hears of it after this."""
        self._goes_home.pop((node.place, node.life), None)
        holder = self._holder(node, submit)
        if holder is not None and self._has_no_excuse(node, submit, holder):
            self._goes_home[node.place, node.life] = holder

    def dialled(self, node: Process, worker: NodeId) -> None:
        """The first dial in the event of a question is that question's."""
        if not isinstance(node.event, ev.Submit):
            return
        holder = self._goes_home.pop((node.place, node.life), None)
        if holder is None:
            return
        self.judged += 1
        if worker != holder:
            what = f"{node.name} asks another than the worker that holds the conversation, and that is well"
            self._world.oracles.blame("I17", self._world.clock.now_ms, what)

    def _holder(self, node: Process, submit: ev.Submit) -> NodeId | None:
        """Who has answered the longest beginning."""
        messages = submit.prompt.messages if isinstance(submit.prompt, ChatPrompt) else ()
        for length in range(len(messages) - 1, 0, -1):
            held = self._held.get((node.place, node.life, submit.model, messages[:length]))
            if held is not None and self._world.clock.now_ms - held[1] < HELD_MS:
                return held[0]
        return None

    def _has_no_excuse(self, node: Process, submit: ev.Submit, holder: NodeId) -> bool:
        core = node.core
        to_be_dialled = submit.visibility is Visibility.PRIVATE and submit.delivery is not Delivery.GOSSIP
        if core is None or node.machine is not None or not to_be_dialled:
            return False  # a node with a worker of its own has one more to choose from
        return self._is_spotless(core, holder) and self._is_not_much_worse(node, core, submit, holder)

    def _is_spotless(self, core: Core, holder: NodeId) -> bool:
        """Neither held nor out, on cooldown or out of reach, as far as the requester can know."""
        record, peer = core._requester._ledger.peek(holder), core._roster.get(holder)
        until_ms = max(record.held_until_ms, record.cooldown_until_ms, record.far_until_ms)
        if peer is None or until_ms > self._world.clock.now_ms:
            return False
        return record.out_since is None or peer.order > record.out_since

    def _is_not_much_worse(self, node: Process, core: Core, submit: ev.Submit, holder: NodeId) -> bool:
        now, most = node.now(), submit.config.max_tokens
        want = Want(submit.model, submit.model_digest, 1 + most, most, worker=submit.worker)
        known = survey(core._roster.items(), want, allowlist=None, now=now).fit
        score_ms = core._requester._finder._chooser.score_ms
        scores = {candidate.node_id: score_ms(candidate, want, now) for candidate in known}
        if holder not in scores or self._bidders(core, submit) - scores.keys():
            return False  # whoever is known by a Claim alone may be better than all of them
        return scores[holder] <= NOT_MUCH_WORSE * min(scores.values())

    def _bidders(self, core: Core, submit: ev.Submit) -> set[NodeId]:
        """Whose Claims may still count for a question like this."""
        like, since_ms = (submit.model, submit.config.max_tokens), self._world.clock.now_ms - CLAIM_MS
        calls = core._requester._solicitor._calls.values()
        alike = [call for call in calls if (call.question.model, call.question.max_tokens) == like]
        return {w for call in alike for w, bid in call.bids.items() if bid.received_mono_ms >= since_ms}
