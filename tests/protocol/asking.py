"""Asking: a real requester that knows nobody, and workers that answer its Requests by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llama_gossip.protocol import effects as ef
from llama_gossip.protocol import events as ev
from llama_gossip.protocol.envelope import KeySigner, decode_envelope, sign_envelope, split_envelope
from llama_gossip.protocol.limits import MAX_TOPIC_BYTES
from llama_gossip.protocol.messages import (
    ChatPrompt,
    Claim,
    EnvelopeMessage,
    GenerationConfig,
    Head,
    NumericsClass,
    Request,
    RequestId,
)
from tests.protocol.fakewire import NET_ID, WALL_MS, FakeNet
from tests.protocol.hand import OWN_BOOT, Clocked, announce
from tests.protocol.scripted_model import DIGEST


class Asking:
    """The requester, long since joined."""

    def __init__(self, *, joined_for_ms: int = 60_000, **options: Any) -> None:
        self.client = Clocked(FakeNet().add("asker", **options).core)
        self.client.feed(ev.Joined(()))
        self.client.wait(joined_for_ms)
        self.client.told.clear()
        self._seq = 0

    def submit(self, number: int = 1, **options: Any) -> RequestId:
        request_id = RequestId(number.to_bytes(16, "big"))
        submit = ev.Submit(
            request_id=request_id,
            model=options.pop("model", "rare"),
            prompt=options.pop("prompt", ChatPrompt((("user", "a secret"),))),
            config=GenerationConfig(
                max_tokens=options.pop("max_tokens", 8), seed=1, fit=options.pop("fit", False)
            ),
            date="2026-11-24",
            **options,
        )
        self.client.feed(submit)
        return request_id

    def asked(self) -> list[Request]:
        """The Requests that it has sent."""
        sent = [decoded(effect) for effect in self.client.all(ef.Broadcast)]
        return [message for message in sent if isinstance(message, Request)]

    def claim(self, signer: KeySigner, est_ttft_ms: int = 10, **changes: Any) -> list[ef.Effect]:
        """This worker claims what was asked last."""
        self._seq += 1
        base = Claim(
            head=Head(OWN_BOOT, self._seq, WALL_MS + self.client.now_ms),
            requester=self.client.node_id,
            request_id=self.asked()[-1].request_id,
            worker=signer.node_id,
            queue_position=0,
            est_ttft_ms=est_ttft_ms,
            tokens_per_s=50.0,
            digest=DIGEST,
            numerics_id="scripted-1",
            numerics_class=NumericsClass.EXACT,
            prekey=bytes(range(32)),
            addresses=(),
        )
        data = sign_envelope(replace(base, **changes), signer, NET_ID)
        return self.client.feed(ev.GossipReceived(signer.node_id, data))

    def hear(self, signer: KeySigner, **changes: Any) -> list[ef.Effect]:
        """This worker announces itself."""
        self._seq += 1
        head = Head(OWN_BOOT, self._seq, WALL_MS + self.client.now_ms)
        data = sign_envelope(announce(head=head, **changes), signer, NET_ID)
        return self.client.feed(ev.GossipReceived(signer.node_id, data))

    def dialled(self) -> list[bytes]:
        return [effect.worker for effect in self.client.all(ef.OpenStream)]

    def failed(self) -> list[ef.Failed]:
        return self.client.all(ef.Failed)


def decoded(effect: ef.Broadcast) -> EnvelopeMessage:
    return decode_envelope(split_envelope(effect.data, MAX_TOPIC_BYTES))
