"""Affinity: a conversation goes back to the worker that holds it.

The law: the next turn of a chat begins with what an earlier request asked, message for message; its worker
has most likely still computed all of that. It is preferred for 20 minutes, never against a refusal, a failure
or a much better score; equal single questions are no conversation and are spread as ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b

from llama_gossip.protocol.messages import ChatPrompt, NodeId, Prompt
from llama_gossip.protocol.timers import Timers

MAX_CONVERSATIONS = 4_096  # a busy node's of 20 minutes; 100 bytes each
AFFINITY_FACTOR = 2.0  # a saved prefill is worth one other request beside it, and no more


class Affinity:
    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._held: OrderedDict[bytes, tuple[NodeId, int]] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._held)

    def keep(self, links: tuple[bytes, ...], worker: NodeId, now_mono_ms: int) -> None:
        """The worker has answered this prompt."""
        if not links:
            return
        self._held[links[-1]] = (worker, now_mono_ms + self._timers.affinity_ms)
        self._held.move_to_end(links[-1])
        while len(self._held) > MAX_CONVERSATIONS or self._oldest_ends() <= now_mono_ms:
            self._held.popitem(last=False)

    def worker(self, links: tuple[bytes, ...], now_mono_ms: int) -> NodeId | None:
        """Who has answered the longest beginning of this conversation."""
        for link in reversed(links[:-1]):
            held = self._held.get(link)
            if held is not None and held[1] > now_mono_ms:
                return held[0]
        return None

    def _oldest_ends(self) -> int:
        return next(iter(self._held.values()))[1]


def links_of(model: str, prompt: Prompt) -> tuple[bytes, ...]:
    """One digest for each beginning of a conversation; () for what is none. Each binds the one before."""
    return tuple(_chain(model, prompt)) if isinstance(prompt, ChatPrompt) else ()


def _chain(model: str, prompt: ChatPrompt) -> Iterator[bytes]:
    link = model.encode("utf-8")
    for role, content in prompt.messages:
        said = role.encode("utf-8")
        link = blake2b(
            len(link).to_bytes(4, "big")
            + link
            + len(said).to_bytes(4, "big")
            + said
            + content.encode("utf-8"),
            digest_size=16,
        ).digest()
        yield link
