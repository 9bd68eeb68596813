"""From bytes of the topic to a message of its author: PROTOCOL's receive order, cheapest check first.

    length cap → outer array and head → window (looking only) → signature → skew sample → ts
    → rate of the signer → window (for good) → payload → author

Law: nothing that fails before `window (for good)` changes what is accepted later. Whatever is dropped is
counted by its reason; bad signatures are charged to the neighbour that delivered them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.envelope import (
    EnvelopeReader,
    PlainReader,
    RawEnvelope,
    Verifier,
    check_author,
    envelope_cap,
)
from llama_gossip.protocol.events import Now
from llama_gossip.protocol.limits import (
    GOSSIP_CAPS,
    MAX_AGE_MS,
    MAX_AHEAD_MS,
    MAX_NEIGHBOURS,
    NEWCOMER_MS,
)
from llama_gossip.protocol.messages import EnvelopeMessage, NodeId
from llama_gossip.protocol.ratelimit import SignerRates, VerifyBudget
from llama_gossip.protocol.record import record
from llama_gossip.protocol.replay import ReplayWindows, Verdict
from llama_gossip.protocol.skew import ClockSkew


class DropReason(Enum):
    """Why an envelope was not taken; the value is its name in counters."""

    OVERSIZE = "oversize"
    MALFORMED = "malformed"
    VERSION = "version"
    KIND = "kind"  # unknown, or one that does not travel bare on the topic
    OWN = "own"
    NOT_ALLOWED = "not_allowed"  # not on the allowlist
    SEEN = "seen"
    BEHIND = "behind"
    LOWER_BOOT = "lower_boot"
    TABLE_FULL = "table_full"
    NEIGHBOUR_QUOTA = "neighbour_quota"
    VERIFY_BUDGET = "verify_budget"
    SIGNATURE = "signature"
    STALE = "stale"  # ts too far back
    FUTURE = "future"  # ts too far ahead
    RATE = "rate"
    NEWCOMERS = "newcomers"  # of an open network: more than all of them together may say
    AUTHOR = "author"


@record(frozen=True, slots=True)
class Received:
    """A message of this network, new, fresh, and signed by `sender`, which is its author."""

    sender: NodeId
    message: EnvelopeMessage


@record(frozen=True, slots=True)
class Dropped:
    reason: DropReason


class _Drop(Exception):
    """Ends the receive order early; it never leaves this module."""

    def __init__(self, reason: DropReason) -> None:
        self.reason = reason


class Receiver:
    """Takes what gossip delivers. One a node; it owns the replay windows, budgets and clock samples."""

    def __init__(
        self,
        net_id: bytes,
        own_id: NodeId,
        verify: Verifier,
        *,
        allowlist: frozenset[NodeId] | None = None,
        windows: ReplayWindows | None = None,
        open_network: bool = False,
        reader: EnvelopeReader | None = None,
    ) -> None:
        """allowlist: the only signers that are heard, None = all members of the network.
        open_network: anybody may have made any number of keys. reader: of envelopes, in the place of the
        plain one over net_id and verify."""
        self._reader = reader or PlainReader(net_id, verify)
        self._own_id = own_id
        self.allowlist = allowlist
        self._windows = ReplayWindows() if windows is None else windows
        self._has_newcomers = open_network and allowlist is None
        self._rates = SignerRates()
        self._budget = VerifyBudget()
        self._skew = ClockSkew()
        self.accepted = 0
        self.dropped: Counter[DropReason] = Counter()
        self.bad_signatures: Counter[NodeId] = Counter()  # by the neighbour that delivered them

    def receive(
        self, data: bytes, delivered_from: NodeId, now: Now, known: Callable[[NodeId], bool]
    ) -> Received | Dropped:
        """known: is this signer in the roster? Never raises for what a peer sent."""
        try:
            received = self._receive(data, delivered_from, now, known)
        except _Drop as drop:
            reason = drop.reason
        except ProtocolError as error:  # of split, decode and author: its code is the reason's name
            reason = DropReason(error.code)
        else:
            self.accepted += 1
            return received
        self.dropped[reason] += 1
        return Dropped(reason)

    def skew_ms(self) -> int:
        """Clocks of the others minus ours, the median over signers; 0 while nobody was heard."""
        return self._skew.median_ms()

    @property
    def skew_samples(self) -> int:
        return len(self._skew)

    def _receive(self, data: bytes, neighbour: NodeId, now: Now, known: Callable[[NodeId], bool]) -> Received:
        raw = self._split(data)
        sender, head = raw.sender, raw.head
        is_known = self.allowlist is not None or known(sender)  # `_split` let nobody else through
        seen = self._windows.check(
            sender, head.boot, head.seq, neighbour=neighbour, known=is_known, mono_ms=now.mono_ms
        )
        _require_new(seen)
        self._check_signature(raw, neighbour, now, is_known)
        self._check_ts(raw, now)
        self._check_rate(raw, now, is_known)
        committed = self._windows.commit(
            sender, head.boot, head.seq, neighbour=neighbour, known=is_known, mono_ms=now.mono_ms
        )
        _require_new(committed)
        return Received(sender, self._message(raw))

    def _split(self, data: bytes) -> RawEnvelope:
        raw = self._reader.split(data)
        cap = GOSSIP_CAPS.get(raw.kind)
        if cap is None:  # an Assign belongs on a stream or into a Packet
            raise _Drop(DropReason.KIND)
        if len(data) > cap:
            raise _Drop(DropReason.OVERSIZE)
        if raw.sender == self._own_id:
            raise _Drop(DropReason.OWN)
        if self.allowlist is not None and raw.sender not in self.allowlist:
            raise _Drop(DropReason.NOT_ALLOWED)
        return raw

    def _check_signature(self, raw: RawEnvelope, neighbour: NodeId, now: Now, is_known: bool) -> None:
        if not self._budget.take(neighbour, now.mono_ms, known=is_known):
            raise _Drop(DropReason.VERIFY_BUDGET)
        if self._reader.is_signed(raw):
            return
        self._budget.charge_bad_signature(neighbour, now.mono_ms)
        if neighbour in self.bad_signatures or len(self.bad_signatures) < MAX_NEIGHBOURS:
            self.bad_signatures[neighbour] += 1
        raise _Drop(DropReason.SIGNATURE)

    def _check_ts(self, raw: RawEnvelope, now: Now) -> None:
        ahead_ms = raw.head.ts - now.wall_ms
        self._skew.add(raw.sender, ahead_ms, now.mono_ms)
        if ahead_ms > MAX_AHEAD_MS:
            raise _Drop(DropReason.FUTURE)
        if ahead_ms < -MAX_AGE_MS:
            raise _Drop(DropReason.STALE)

    def _check_rate(self, raw: RawEnvelope, now: Now, is_known: bool) -> None:
        if not self._rates.take(raw.sender, raw.kind, now.mono_ms):
            raise _Drop(DropReason.RATE)
        if not self._has_newcomers:
            return
        settled = is_known and self._windows.heard_for_ms(raw.sender, now.mono_ms) >= NEWCOMER_MS
        if not settled and not self._rates.take_as_newcomer(raw.kind, now.mono_ms):
            raise _Drop(DropReason.NEWCOMERS)

    def _message(self, raw: RawEnvelope) -> EnvelopeMessage:
        message = self._reader.message(raw)
        if len(raw.data) > envelope_cap(message):  # a Request of a public one's size without a prompt
            raise _Drop(DropReason.OVERSIZE)
        check_author(message, raw.sender)
        return message


def _require_new(verdict: Verdict) -> None:
    if verdict is not Verdict.NEW:
        raise _Drop(DropReason(verdict.value))  # each verdict is a reason of the same name
