"""Affinity: a conversation goes back to the worker that holds it.

The law: the next turn of a chat begins with what an earlier request asked, message for message; its worker
has most likely still computed all of that. It is preferred for 20 minutes, never against a refusal, a failure
or a much better score; equal single questions are no conversation and are spread as ever.

What this process does not remember its workers may: each Assign carries a mark of the conversation that only
this node's key can make, for this worker alone, and the worker announces the newest that it holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Protocol

from llama_gossip.protocol.envelope import Signer
from llama_gossip.protocol.limits import CONVERSATION_MARK_BYTES
from llama_gossip.protocol.messages import ChatPrompt, NodeId, Prompt
from llama_gossip.protocol.timers import Timers

MAX_CONVERSATIONS = 4_096  # a busy node's of 20 minutes; 100 bytes each
MARKED_LINKS = (
    8  # newest beginnings that are looked for in Announces: a turn adds two, an edit takes some back
)
_LABEL = b"llama-gossip/v1/conversations\0".ljust(64, b"\0")  # with a net_id no other signed string can be it
AFFINITY_FACTOR = 2.0  # a saved prefill is worth one other request beside it, and no more


class Holder(Protocol):
    """A worker, as its Announce describes it. A Candidate is one."""

    @property
    def node_id(self) -> NodeId: ...
    @property
    def conversations(self) -> tuple[bytes, ...]: ...


def mark_secret(signer: Signer, net_id: bytes) -> bytes:
    """The same for every process of this key in this network; nobody else can make it."""
    return blake2b(signer.sign(_LABEL + net_id), digest_size=32).digest()


class Affinity:
    def __init__(self, timers: Timers, secret: bytes) -> None:
        """secret: 32 bytes, of `mark_secret`."""
        self._timers = timers
        self._secret = secret
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

    def mark(self, link: bytes, worker: NodeId) -> bytes:
        """Another for each worker: none can pass it on, and two cannot tell that they mean the same."""
        return blake2b(link + worker, key=self._secret, digest_size=CONVERSATION_MARK_BYTES).digest()

    def marked(self, links: tuple[bytes, ...], workers: Iterable[Holder]) -> NodeId | None:
        """Who says that it holds the longest beginning of this conversation."""
        holders = [worker for worker in workers if worker.conversations]
        for link in reversed(links[:-1][-MARKED_LINKS:]):
            for holder in holders:
                if self.mark(link, holder.node_id) in holder.conversations:
                    return holder.node_id
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
