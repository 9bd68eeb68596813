"""How much of each signer and of each neighbour is taken: token buckets on the monotonic clock.

Laws: a bucket never holds more than its burst; the tables are bounded, and what they forget had refilled.
A key of an open network costs nothing, so it gives no right to a bucket of its own: newcomers share one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from llama_gossip.protocol.limits import MAX_NEIGHBOURS, MAX_SIGNERS
from llama_gossip.protocol.messages import Kind, NodeId

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    per_s: float
    burst: int


SIGNER_RATES: dict[Kind, Rate] = {
    Kind.ANNOUNCE: Rate(1, 5),  # a node announces every 15 s, and at once on changes >= 2 s apart
    Kind.LEAVE: Rate(1, 5),  # PROTOCOL gives none; presence like Announce, so the same
    Kind.REQUEST: Rate(2, 10),  # one for each model and round, rounds back off
    Kind.CLAIM: Rate(5, 50),  # a busy network asks many questions
    Kind.PACKET: Rate(50, 100),  # all that a node may say at all; each attempt has its own: tunnel.py
}

# Of all newcomers of an open network together, by kind: a crowd of minted keys is worth no more than this.
# A node that joins a network of a thousand knows them within a minute.
NEWCOMER_RATES: dict[Kind, Rate] = {
    Kind.ANNOUNCE: Rate(20, 200),
    Kind.LEAVE: Rate(20, 200),
    Kind.REQUEST: Rate(4, 40),  # each makes workers think and perhaps speak
    Kind.CLAIM: Rate(20, 200),
}

# One verification takes about 60 us: a neighbour can keep us busy for 3 % of one core.
VERIFY_RATE = Rate(500, 1000)
# And all of them together, in names that we do not know: ten hostile neighbours get 9 % of a core, and those
# whom we know are heard all the while.
VERIFY_UNKNOWN_RATE = Rate(1_500, 3_000)
BAD_SIGNATURE_COST = 5  # verifications: junk uses the budget up five times as fast

_SWEEP = 4  # idle buckets looked at with each use: the table shrinks faster than it can grow


@dataclass(slots=True)
class _Bucket:
    rate: Rate
    tokens: float
    mono_ms: int

    def level(self, rate: Rate, mono_ms: int) -> float:
        refilled = self.tokens + max(0, mono_ms - self.mono_ms) * rate.per_s / 1000
        return min(float(rate.burst), refilled)

    def set(self, rate: Rate, tokens: float, mono_ms: int) -> None:
        self.rate, self.tokens, self.mono_ms = rate, tokens, mono_ms


class Buckets(Generic[K]):
    """One bucket a key. A key that is not there has a full bucket."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._buckets: OrderedDict[K, _Bucket] = OrderedDict()  # the longest unused first

    def __len__(self) -> int:
        return len(self._buckets)

    def available(self, key: K, rate: Rate, mono_ms: int) -> float:
        bucket = self._buckets.get(key)
        return rate.burst if bucket is None else bucket.level(rate, mono_ms)

    def take(self, key: K, rate: Rate, mono_ms: int, cost: int = 1) -> bool:
        """True, and the cost is paid; or False, and nothing changes."""
        bucket = self._buckets.get(key)
        level = rate.burst if bucket is None else bucket.level(rate, mono_ms)
        if level < cost:
            return False
        if bucket is None:
            return self._add(key, rate, level - cost, mono_ms)
        bucket.set(rate, level - cost, mono_ms)
        self._buckets.move_to_end(key)
        return True

    def charge(self, key: K, rate: Rate, mono_ms: int, cost: int) -> None:
        """Takes the cost, or what is left of the bucket."""
        left = max(0.0, self.available(key, rate, mono_ms) - cost)
        bucket = self._buckets.get(key)
        if bucket is None:
            self._add(key, rate, left, mono_ms)
        else:
            bucket.set(rate, left, mono_ms)
            self._buckets.move_to_end(key)

    def _add(self, key: K, rate: Rate, tokens: float, mono_ms: int) -> bool:
        """False: there is no room for another bucket."""
        if not self._make_room(mono_ms):
            return False
        self._buckets[key] = _Bucket(rate, tokens, mono_ms)
        return True

    def _make_room(self, mono_ms: int) -> bool:
        """Drops the oldest buckets that have refilled: forgetting them changes nothing."""
        for _ in range(_SWEEP):
            if not self._buckets:
                break
            key, bucket = next(iter(self._buckets.items()))
            if bucket.level(bucket.rate, mono_ms) < bucket.rate.burst:
                break
            del self._buckets[key]
        return len(self._buckets) < self._most


class SignerRates:
    """Messages of one signer, and of all newcomers together, by kind."""

    def __init__(self) -> None:
        self._buckets: Buckets[tuple[NodeId, Kind]] = Buckets(MAX_SIGNERS * len(SIGNER_RATES))
        self._newcomers: Buckets[Kind] = Buckets(len(NEWCOMER_RATES))

    def take(self, signer: NodeId, kind: Kind, mono_ms: int) -> bool:
        return self._buckets.take((signer, kind), SIGNER_RATES[kind], mono_ms)

    def take_as_newcomer(self, kind: Kind, mono_ms: int) -> bool:
        rate = NEWCOMER_RATES.get(kind)  # None: what is bounded by what it belongs to
        return rate is None or self._newcomers.take(kind, rate, mono_ms)


class VerifyBudget:
    """Verifications that one neighbour, and the unknown names of all of them, may cost us. Bad signatures are
    charged to whoever delivered them, never to the name they carry."""

    def __init__(self) -> None:
        self._buckets: Buckets[NodeId] = Buckets(MAX_NEIGHBOURS)
        self._unknown: Buckets[None] = Buckets(1)

    def take(self, neighbour: NodeId, mono_ms: int, *, known: bool) -> bool:
        """known: the name that it carries, which nothing proves yet."""
        if not self._buckets.take(neighbour, VERIFY_RATE, mono_ms):
            return False
        return known or self._unknown.take(None, VERIFY_UNKNOWN_RATE, mono_ms)

    def charge_bad_signature(self, neighbour: NodeId, mono_ms: int) -> None:
        self._buckets.charge(neighbour, VERIFY_RATE, mono_ms, BAD_SIGNATURE_COST - 1)
