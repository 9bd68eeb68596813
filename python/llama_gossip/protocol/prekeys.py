"""Prekeys: the X25519 keys that requesters seal to this node with.

The law: one a boot, replaced every hour, the one before kept for five minutes more, then forgotten: whoever
takes this node over later cannot open what was sealed before. Chance comes in from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llama_gossip.protocol.agenda import TimerKey
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.limits import KEY_BYTES, SEAL_ID_BYTES
from llama_gossip.protocol.seal import public_key

_ROTATE: TimerKey = ("prekeys", None, "rotate")


@dataclass(frozen=True, slots=True)
class Prekey:
    secret: bytes = field(repr=False)
    public: bytes

    @property
    def prekey_id(self) -> bytes:
        return self.public[:SEAL_ID_BYTES]


class Prekeys:
    def __init__(self, desk: Desk, secret_bytes: Callable[[int], bytes]) -> None:
        self._desk = desk
        self._secret_bytes = secret_bytes
        self._current = self.fresh()
        self._before: Prekey | None = None
        self._forget_mono_ms = 0

    def begin(self) -> None:
        """The node is in its network: the hour begins."""
        if self._desk.agenda.due_of(_ROTATE) is None:
            self._desk.after(_ROTATE, self._desk.timers.prekey_ms)

    def end(self) -> None:
        self._desk.agenda.cancel(_ROTATE)

    def fresh(self) -> Prekey:
        """A key pair that nothing else uses: an attempt's own, too."""
        secret = self._secret_bytes(KEY_BYTES)
        return Prekey(secret, public_key(secret))

    @property
    def announced(self) -> bytes:
        return self._current.public

    def rotate(self) -> None:
        self._before, self._current = self._current, self.fresh()
        self._forget_mono_ms = self._desk.now.mono_ms + self._desk.timers.prekey_kept_ms
        self._desk.after(_ROTATE, self._desk.timers.prekey_ms)

    def find(self, prekey_id: bytes) -> Prekey | None:
        """The one that a requester has sealed to, if it is still kept."""
        if self._before is not None and self._desk.now.mono_ms >= self._forget_mono_ms:
            self._before = None
        for prekey in (self._current, self._before):
            if prekey is not None and prekey.prekey_id == prekey_id:
                return prekey
        return None
