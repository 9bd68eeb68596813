"""The receive order: what is dropped, why, and that what is dropped changes nothing that comes later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgpack
import pytest

from llama_gossip.protocol import limits
from llama_gossip.protocol.codec import encode_payload
from llama_gossip.protocol.envelope import (
    KeySigner,
    envelope_signed_bytes,
    sign_envelope,
    verify_signature,
)
from llama_gossip.protocol.events import Now
from llama_gossip.protocol.messages import Claim, EnvelopeMessage, Kind, Leave, NodeId, Request
from llama_gossip.protocol.network import net_id, open_secret
from llama_gossip.protocol.receive import Dropped, DropReason, Received, Receiver
from tests.protocol.wire_samples import (
    BOOT_MS,
    ENVELOPES,
    NET_ID,
    REQUESTER,
    SECRET,
    TS_MS,
    WORKER,
    head,
)

OWN = KeySigner(b"o" * 32)
NEIGHBOUR = NodeId(b"n" * 32)
NOW = Now(mono_ms=1_000_000, wall_ms=TS_MS)


def nobody(_: NodeId) -> bool:
    return False


class Watched:
    """A receiver whose verifications are counted."""

    def __init__(self, allowlist: frozenset[NodeId] | None = None) -> None:
        self.verified = 0
        self.receiver = Receiver(NET_ID, OWN.node_id, self._verify, allowlist=allowlist)

    def _verify(self, node_id: NodeId, message: bytes, signature: bytes) -> bool:
        self.verified += 1
        return verify_signature(node_id, message, signature)

    def take(self, data: bytes, now: Now = NOW, via: NodeId = NEIGHBOUR) -> Received | DropReason:
        before = sum(self.receiver.dropped.values()), self.receiver.accepted
        outcome = self.receiver.receive(data, via, now, nobody)
        dropped, accepted = sum(self.receiver.dropped.values()), self.receiver.accepted
        if isinstance(outcome, Dropped):
            assert (dropped, accepted) == (before[0] + 1, before[1])
            assert self.receiver.dropped[outcome.reason] >= 1
            return outcome.reason
        assert (dropped, accepted) == (before[0], before[1] + 1)
        return outcome


def signed(message: EnvelopeMessage, signer: KeySigner = REQUESTER, net: bytes = NET_ID) -> bytes:
    return sign_envelope(message, signer, net)


def leave(seq: int, ts: int = TS_MS, boot: int = BOOT_MS) -> Leave:
    return Leave(head(seq, ts, boot), "bye")


def with_payload(kind: int, payload: bytes, signer: KeySigner = REQUESTER) -> bytes:
    """Well signed, whatever the payload says."""
    signature = signer.sign(envelope_signed_bytes(kind, signer.node_id, payload, NET_ID))
    data: bytes = msgpack.packb([1, kind, signer.node_id, payload, signature])
    return data


def forged(message: EnvelopeMessage) -> bytes:
    """In the requester's name, signed by somebody else."""
    fields = msgpack.unpackb(signed(message, WORKER))
    return msgpack.packb([fields[0], fields[1], REQUESTER.node_id, *fields[3:]])  # type: ignore[no-any-return]


# --- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["announce", "leave", "request", "request_public", "claim"])
def test_a_fresh_message_of_its_author_is_taken_once(name: str) -> None:
    watched, message = Watched(), ENVELOPES[name]
    author = WORKER if isinstance(message, Claim) else REQUESTER
    data = signed(message, author)
    assert watched.take(data) == Received(author.node_id, message)
    assert watched.take(data) is DropReason.SEEN
    assert watched.verified == 1


@pytest.mark.parametrize(
    ("offset_ms", "reason"),
    [
        (-limits.MAX_AGE_MS, None),
        (-limits.MAX_AGE_MS - 1, DropReason.STALE),
        (limits.MAX_AHEAD_MS, None),
        (limits.MAX_AHEAD_MS + 1, DropReason.FUTURE),
        (-(2**40), DropReason.STALE),
        (2**63, DropReason.FUTURE),
    ],
)
def test_ts_is_taken_from_60_s_back_to_30_s_ahead_to_the_millisecond(
    offset_ms: int, reason: DropReason | None
) -> None:
    message = leave(1, ts=max(0, TS_MS + offset_ms))
    outcome = Watched().take(signed(message))
    assert outcome == (Received(REQUESTER.node_id, message) if reason is None else reason)


# --- what is dropped, and at which step ------------------------------------------------------------

BEFORE_SIGNATURE: list[tuple[str, bytes, DropReason]] = [
    ("junk", b"\xff" * 100, DropReason.MALFORMED),
    ("nothing", b"", DropReason.MALFORMED),
    ("too long for the topic", bytes(limits.MAX_TOPIC_BYTES + 1), DropReason.OVERSIZE),
    (
        "a control message over its cap",
        with_payload(2, encode_payload(Leave(head(1), "x" * limits.MAX_CONTROL_BYTES))),
        DropReason.OVERSIZE,
    ),
    ("trailing bytes", signed(leave(1)) + b"\0", DropReason.MALFORMED),
    ("another version", b"\x95\x02" + signed(leave(1))[2:], DropReason.VERSION),
    ("an unknown kind", b"\x95\x01\x0e" + signed(leave(1))[3:], DropReason.KIND),
    ("a bare Assign", signed(ENVELOPES["assign"]), DropReason.KIND),
    ("no head", with_payload(2, b"\x91\x01"), DropReason.MALFORMED),
    ("our own", signed(leave(1), OWN), DropReason.OWN),
]


@pytest.mark.parametrize(
    ("data", "reason"), [row[1:] for row in BEFORE_SIGNATURE], ids=[row[0] for row in BEFORE_SIGNATURE]
)
def test_what_the_outer_array_tells_is_dropped_without_a_verification(
    data: bytes, reason: DropReason
) -> None:
    watched = Watched()
    assert watched.take(data) is reason
    assert watched.verified == 0
    assert watched.receiver.skew_samples == 0


def test_a_replay_and_a_lower_boot_are_dropped_without_a_verification() -> None:
    watched = Watched()
    for seq in (1, 2000):
        assert isinstance(watched.take(signed(leave(seq))), Received)
    assert watched.take(signed(leave(1999 - limits.WINDOW_BITS))) is DropReason.BEHIND
    assert watched.take(signed(leave(3000, boot=BOOT_MS - 1))) is DropReason.LOWER_BOOT
    assert watched.take(forged(leave(2000))) is DropReason.SEEN
    assert watched.verified == 2


def test_the_same_message_in_other_bytes_is_still_a_replay() -> None:
    """Dedup is on (from, boot, seq): payload and signature of a second encoding may differ, both valid."""
    watched = Watched()
    assert isinstance(watched.take(signed(leave(1))), Received)
    wide = (
        b"\x94\xcf"
        + BOOT_MS.to_bytes(8, "big")
        + b"\xcd\x00\x01\xcf"
        + TS_MS.to_bytes(8, "big")
        + b"\xd9\x03bye"
    )
    again = with_payload(2, wide)
    assert isinstance(Watched().take(again), Received)
    assert watched.take(again) is DropReason.SEEN


def test_a_re_encoded_envelope_is_not_taken_at_all() -> None:
    fields = msgpack.unpackb(signed(leave(1)))
    longer = b"\xdc\x00\x05" + b"".join(msgpack.packb(field) for field in fields)
    assert msgpack.unpackb(longer) == fields
    assert Watched().take(longer) is DropReason.MALFORMED


@pytest.mark.parametrize(
    "data",
    [forged(leave(1)), signed(leave(1), net=net_id(open_secret("another"))), signed(leave(1), net=SECRET)],
    ids=["in another's name", "of another network", "tagged with the secret itself"],
)
def test_a_bad_signature_is_charged_to_the_neighbour_and_changes_nothing_for_the_name_in_it(
    data: bytes,
) -> None:
    watched = Watched()
    assert watched.take(data) is DropReason.SIGNATURE
    assert watched.receiver.bad_signatures == {NEIGHBOUR: 1}
    assert watched.receiver.skew_samples == 0
    assert isinstance(watched.take(signed(leave(1))), Received)


STEPS: list[tuple[str, Callable[[Watched], DropReason | Received], DropReason]] = [
    ("forged", lambda w: w.take(forged(leave(1))), DropReason.SIGNATURE),
    ("stale", lambda w: w.take(signed(leave(1, ts=TS_MS - 60_001))), DropReason.STALE),
    ("future", lambda w: w.take(signed(leave(1, ts=TS_MS + 30_001))), DropReason.FUTURE),
    ("forged, of a higher boot", lambda w: w.take(forged(leave(1, boot=BOOT_MS + 1))), DropReason.SIGNATURE),
    ("stale, of a higher boot", lambda w: w.take(signed(leave(9, ts=0, boot=BOOT_MS + 1))), DropReason.STALE),
]


@pytest.mark.parametrize(("drop", "reason"), [s[1:] for s in STEPS], ids=[s[0] for s in STEPS])
def test_nothing_that_fails_before_the_window_uses_a_number_up(
    drop: Callable[[Watched], DropReason | Received], reason: DropReason
) -> None:
    watched = Watched()
    assert drop(watched) is reason
    assert isinstance(watched.take(signed(leave(1))), Received)


def test_a_message_over_the_rate_uses_no_number_up_and_is_taken_later() -> None:
    watched = Watched()
    burst = 5
    for seq in range(burst):
        assert isinstance(watched.take(signed(leave(seq))), Received)
    late = signed(leave(burst))
    assert watched.take(late) is DropReason.RATE
    a_second_later = Now(NOW.mono_ms + 1000, NOW.wall_ms + 1000)
    assert isinstance(watched.take(late, a_second_later), Received)


def test_stale_messages_spend_nothing_of_their_signers_rate() -> None:
    """Old recordings are well signed: replaying them must not silence the signer they were taken from."""
    watched = Watched()
    for seq in range(100):
        assert watched.take(signed(leave(seq, ts=TS_MS - 90_000))) is DropReason.STALE
    assert isinstance(watched.take(signed(leave(1))), Received)


def test_a_signed_payload_that_is_malformed_is_dropped_after_its_number_was_used() -> None:
    """Its signer made it: judging it again on every delivery would only cost."""
    watched = Watched()
    data = with_payload(2, msgpack.packb([BOOT_MS, 1, TS_MS, b"not a text"]))
    assert watched.take(data) is DropReason.MALFORMED
    assert watched.take(data) is DropReason.SEEN
    assert watched.verified == 1


def test_a_request_or_claim_in_the_name_of_another_is_dropped() -> None:
    request, claim = ENVELOPES["request"], ENVELOPES["claim"]
    assert isinstance(request, Request)
    assert isinstance(claim, Claim)
    assert Watched().take(signed(request, WORKER)) is DropReason.AUTHOR
    assert Watched().take(signed(claim, REQUESTER)) is DropReason.AUTHOR
    assert isinstance(Watched().take(signed(replace(claim, worker=REQUESTER.node_id))), Received)


def test_a_request_over_the_control_cap_must_be_public() -> None:
    request = ENVELOPES["request"]
    assert isinstance(request, Request)
    padded = encode_payload(replace(request, model="m" * limits.MAX_CONTROL_BYTES))
    assert Watched().take(with_payload(int(Kind.REQUEST), padded)) is DropReason.OVERSIZE


def test_only_the_allowlist_is_heard_where_there_is_one() -> None:
    watched = Watched(allowlist=frozenset({REQUESTER.node_id}))
    assert watched.take(signed(leave(1), WORKER)) is DropReason.NOT_ALLOWED
    assert watched.verified == 0
    assert isinstance(watched.take(signed(leave(1))), Received)


def test_every_reason_has_its_own_name_and_none_is_raised_to_the_caller() -> None:
    watched = Watched()
    for _, data, _ in BEFORE_SIGNATURE:
        watched.take(data)
    assert sum(watched.receiver.dropped.values()) == len(BEFORE_SIGNATURE)
    assert len({reason.value for reason in DropReason}) == len(DropReason)
