"""Fixed keys and at least one message of each kind, with and without what is optional. Pure data.

The golden vectors are made of these: what changes here changes the wire or the vectors, so think twice.
"""

from __future__ import annotations

from llama_gossip.protocol.envelope import KeySigner
from llama_gossip.protocol.messages import (
    Ack,
    Announce,
    Assign,
    Cancel,
    Capacity,
    ChatPrompt,
    Claim,
    Complete,
    EnvelopeMessage,
    Error,
    FinishReason,
    Frame,
    GenerationConfig,
    Head,
    IdsPrompt,
    Leave,
    ModelOffer,
    NodeState,
    NumericsClass,
    Packet,
    Phase,
    Progress,
    PromptFacts,
    RawPrompt,
    Reject,
    RejectReason,
    Request,
    RequestId,
    Resume,
    Seal,
    Token,
    TokenLogprob,
)
from llama_gossip.protocol.network import net_id

REQUESTER_SEED = bytes(range(32))
WORKER_SEED = bytes(range(32, 64))
SECRET = bytes(range(64, 96))

REQUESTER = KeySigner(REQUESTER_SEED)
WORKER = KeySigner(WORKER_SEED)
NET_ID = net_id(SECRET)

BOOT_MS = 1_764_000_000_000
TS_MS = 1_764_000_012_345
REQUEST_ID = RequestId(bytes(range(0xA0, 0xB0)))
DIGEST = bytes(range(0x60, 0x80))
PREKEY = bytes(range(0xC0, 0xE0))


def head(seq: int, ts: int = TS_MS, boot: int = BOOT_MS) -> Head:
    return Head(boot=boot, seq=seq, ts=ts)


OFFER = ModelOffer("smollm2-135m", DIGEST, 8192, "q8_0", "s1/torch", NumericsClass.EXACT)
BARE_OFFER = ModelOffer("tiny-random", None, 4096, "none", None, NumericsClass.FAST)
CAPACITY = Capacity("torch", "cpu", (OFFER, BARE_OFFER), 4, 1, 2, 350, 41.5, 6_000_000_000)
CONFIG = GenerationConfig(
    max_tokens=256,
    temperature=0.5,
    top_p=0.95,
    top_k=40,
    seed=2**64 - 1,
    stop=("\n\n", "Ende"),
    ignore_eos=True,
    logprobs=2,
    min_p=0.05,
    repetition=1.1,
    presence=-0.5,
    frequency=0.25,
    logit_bias=((0, -100.0), (49_151, 2.5)),
)

LEAVE = Leave(head(2), "bye")

ENVELOPES: dict[str, EnvelopeMessage] = {
    "announce": Announce(
        head(1),
        "worker1",
        CAPACITY,
        NodeState.READY,
        ("role/worker", "v/0.1.0"),
        PREKEY,
        ("127.0.0.1:4711", "[::1]:4711"),
        45_000,
        ((DIGEST[:8], 17), (PREKEY[:8], 0)),
    ),
    "announce_client": Announce(
        head(1), "", Capacity("", "", (), 0, 0, 0, 0, 0.0, 0), NodeState.CLIENT, (), PREKEY, (), 180_000, ()
    ),
    "leave": LEAVE,
    "request": Request(head(3), REQUEST_ID, "smollm2-135m", 64, 50, 5, 300_000, REQUESTER.node_id),
    "request_public": Request(
        head(2**32),
        REQUEST_ID,
        "",
        16,
        256,
        9,
        1000,
        REQUESTER.node_id,
        RawPrompt("Es war einmal 🦙"),
        CONFIG,
    ),
    "claim": Claim(
        head(4),
        REQUESTER.node_id,
        REQUEST_ID,
        WORKER.node_id,
        1,
        240,
        41.5,
        DIGEST,
        "s1/torch",
        NumericsClass.FP32,
        PREKEY,
        ("127.0.0.1:4711",),
    ),
    "claim_bare": Claim(
        head(5),
        REQUESTER.node_id,
        REQUEST_ID,
        WORKER.node_id,
        0,
        0,
        0.0,
        None,
        None,
        NumericsClass.FAST,
        PREKEY,
        (),
    ),
    "assign": Assign(
        head(6),
        REQUEST_ID,
        1,
        WORKER.node_id,
        BOOT_MS,
        TS_MS + 4000,
        ChatPrompt((("system", "Be brief."), ("user", "What is the capital of France?"))),
        GenerationConfig(),
        None,
        5,
        300_000,
        "smollm2-135m",
        DIGEST,
        "2026-11-24",
    ),
    "assign_resume": Assign(
        head(7),
        REQUEST_ID,
        2,
        WORKER.node_id,
        BOOT_MS,
        TS_MS + 4000,
        IdsPrompt((1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1)),
        CONFIG,
        Resume(3, (11, 12, 13), "The capital", DIGEST, "s1/torch"),
        0,
        120_000,
        "smollm2-135m",
        None,
        "2024-02-29",
    ),
    "packet": Packet(
        head(8), WORKER.node_id, REQUESTER.node_id, REQUEST_ID, 1, Seal(PREKEY[:8], DIGEST), bytes(range(16))
    ),
    "packet_public": Packet(
        head(9), WORKER.node_id, REQUESTER.node_id, REQUEST_ID, 2**32 - 1, None, bytes(256)
    ),
    "announce_conversations": Announce(
        head(10),
        "worker1",
        CAPACITY,
        NodeState.READY,
        ("role/worker",),
        PREKEY,
        ("127.0.0.1:4711",),
        45_000,
        (),
        (DIGEST[:8], PREKEY[:8]),
    ),
    "assign_conversation": Assign(
        head(11),
        REQUEST_ID,
        1,
        WORKER.node_id,
        BOOT_MS,
        TS_MS + 4000,
        ChatPrompt((("user", "What is the capital of France?"),)),
        GenerationConfig(),
        None,
        5,
        300_000,
        "smollm2-135m",
        None,
        "2026-11-24",
        DIGEST[8:16],
    ),
}

FRAMES: dict[str, Frame] = {  # each is encoded as the first frame of its direction
    "reject": Reject(0, RejectReason.STALE_BOOT, 0, BOOT_MS),
    "progress": Progress(0, Phase.DECODE, 12, 900),
    "progress_facts": Progress(
        0, Phase.PREFILL, 40, 250, PromptFacts(37, DIGEST, DIGEST, "s1/torch", NumericsClass.EXACT)
    ),
    "progress_facts_bare": Progress(
        0, Phase.QUEUED, 3, 5_000, PromptFacts(1, None, None, None, NumericsClass.FAST)
    ),
    "token": Token(0, 0, (504, 3575, 282, 4649), ("The", " capital", " of", " France")),
    "token_without_ids": Token(0, 300, (), ("🦙", "")),
    "token_logprobs": Token(
        0,
        7,
        (7042, 30),
        (" Paris", "."),
        (TokenLogprob(-0.125, ((" Paris", -0.125), (" Lyon", -4.5))), TokenLogprob(0.0, ())),
    ),
    "ack": Ack(0, 41),
    "complete": Complete(0, 42, 1.5, FinishReason.STOP, 37, 42, DIGEST, DIGEST),
    "complete_bare": Complete(0, 0, 0.0, FinishReason.CANCELLED, 0, 0, DIGEST, None),
    "error": Error(0, "the model has not stepped for 30 s", "engine_stalled", True),
    "cancel": Cancel(0, "user"),
}
