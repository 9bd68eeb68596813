"""Keys of the gateway: who may ask, how urgently and how often.

The law: a key is compared in constant time, as a hash, and stands in no log, error, address or repr; without
any key everybody who reaches the port may ask.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from llama_gossip.errors import ConfigError
from llama_gossip.submission import MAX_PRIORITY

MAX_FILE_BYTES = 1 << 20  # ten thousand keys
MAX_KEYS = 1_000  # each is compared with every request's
ORDINARY_PRIORITY = 5  # of a request that names none
FORM = "a line is name:key:priority:rate; priority 0-9 and rate, in requests a minute, may be left out"
MINUTE_S = 60.0


class Allowance:
    """Requests of one key: `rate` a minute, as many at once after a pause (a token bucket)."""

    def __init__(self, rate: float) -> None:
        self._per_s = rate / MINUTE_S
        self._most = max(1.0, rate)
        self._left = self._most
        self._seen_s: float | None = None

    def take(self, now_s: float) -> float:
        """0 when the request may pass; else seconds until the next one may."""
        if self._seen_s is not None:
            self._left = min(self._most, self._left + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        return (1.0 - self._left) / self._per_s


@dataclass(frozen=True, slots=True)
class Key:
    """priority: the most urgent that its requests may be. allowance None: as many as come."""

    name: str
    digest: bytes = field(repr=False)
    priority: int = MAX_PRIORITY
    allowance: Allowance | None = None


ANYBODY = Key("", b"")


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True, slots=True)
class Keys:
    """Falsy when there is none."""

    keys: tuple[Key, ...] = ()

    @classmethod
    def read(cls, path: Path | None, secret: str | None) -> Keys:
        """Of a file, and of one more key by itself. Raises ConfigError, which names the line, never a key."""
        found = [] if path is None else list(_keys_of(_lines_of(path), path))
        if secret:
            found.append(Key("environment", _checked(secret, "LLAMA_GOSSIP_API_KEY")))
        if path is not None and not found:
            raise ConfigError(f"{path} holds no key", hint=FORM)
        return cls(tuple(found))

    def __bool__(self) -> bool:
        return bool(self.keys)

    def find(self, authorization: str | None) -> Key | None:
        """Whose `Authorization` header this is; None: nobody's. All are compared, whichever it is."""
        if not self.keys:
            return ANYBODY
        scheme, _, secret = (authorization or "").partition(" ")
        digest, found = digest_of(secret.strip()), None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found if scheme.lower() == "bearer" else None


def _lines_of(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes", hint=FORM)
        return content.decode("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the key file {path}: {error.strerror}", hint=FORM) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8", hint=FORM) from error


def _keys_of(lines: Iterable[str], path: Path) -> Iterable[Key]:
    names: set[str] = set()
    digests: set[bytes] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"line {number} of {path}"
        key = _key_of(line, where)
        if key.name in names or key.digest in digests:
            raise ConfigError(f"{where} repeats a name or a key", hint="one line for each")
        if len(names) == MAX_KEYS:
            raise ConfigError(f"{path} holds more than {MAX_KEYS} keys", hint="remove those nobody uses")
        names.add(key.name)
        digests.add(key.digest)
        yield key


def _key_of(line: str, where: str) -> Key:
    parts = [part.strip() for part in line.split(":")]
    if not 2 <= len(parts) <= 4 or not parts[0]:
        raise ConfigError(f"{where} is no key", hint=FORM)
    name, secret, priority, rate = (*parts, "", "")[:4]
    return Key(name, _checked(secret, where), _priority_of(priority, where), _allowance_of(rate, where))


def _checked(secret: str, where: str) -> bytes:
    if not secret or not all("!" <= sign <= "~" for sign in secret):
        raise ConfigError(f"the key in {where} is empty or holds a sign that no header carries", hint=FORM)
    return digest_of(secret)


def _priority_of(text: str, where: str) -> int:
    if text and (not (text.isascii() and text.isdigit()) or int(text) > MAX_PRIORITY):
        raise ConfigError(f"the priority in {where} is no number from 0 to {MAX_PRIORITY}", hint=FORM)
    return int(text) if text else MAX_PRIORITY


def _allowance_of(text: str, where: str) -> Allowance | None:
    try:
        rate = float(text) if text else None
    except ValueError:
        rate = math.nan
    if rate is None:
        return None
    if not 0 < rate < math.inf:
        raise ConfigError(f"the rate in {where} is no number above 0", hint=FORM)
    return Allowance(rate)
