"""Who this node is: its key, its boot number, its network's secret, and whom it admits.

The law: a secret is 32 random bytes in a file that only its owner can read; one process a key; a boot
number is on disk before anybody signs with it. Seeds stand in no repr, error or log.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from llama_gossip.directories import Directories, ensure_private
from llama_gossip.errors import ConfigError, KeyFileError, UsageError
from llama_gossip.lockfile import FileLock, LockHeld, create_exclusively, replace_atomically
from llama_gossip.protocol.messages import NodeId

SECRET_BYTES = 32
MAX_BOOT = 2**64 - 1  # u64 on the wire
MAX_NAME_BYTES = 40  # what an Announce carries of it
MAX_UNNAMED_NODES = 1000  # of one user on one host; beyond it something else is wrong
MAX_BOOT_FILE_BYTES = 32
MAX_ALLOWLIST_BYTES = 1 << 20  # 16 000 node ids

Locks: TypeAlias = tuple[FileLock, ...]


@dataclass(frozen=True, slots=True)
class NodeKey:
    """A claimed key: nobody else can claim it before `release`, or before this process ends."""

    name: str
    node_id: NodeId
    path: Path
    seed: bytes = field(repr=False)
    boot_file: Path = field(repr=False)
    locks: Locks = field(repr=False, compare=False)

    def release(self) -> None:
        """Idempotent."""
        for lock in self.locks:
            lock.release()

    def __enter__(self) -> NodeKey:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


# --- names -------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """A node's name is also its key's file name. Raises UsageError."""
    if not name:
        problem = "is empty"
    elif len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        problem = f"is longer than {MAX_NAME_BYTES} bytes"
    elif "/" in name or "\\" in name:
        problem = "holds a path separator"
    elif name[0] in ".-":
        problem = f"begins with {name[0]!r}"
    elif not name.isprintable() or name != name.strip():
        problem = "holds characters that cannot be printed, or ends in a space"
    else:
        return name
    raise UsageError(f"the node name {name[:80]!r} {problem}", hint="use letters, digits and dashes")


def _name_of_file(path: Path) -> str:
    """A key file outside our folder may be called anything; the node still needs a name."""
    try:
        return check_name(path.stem)
    except UsageError:
        return "node"


# --- keys --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key that may be in use: what anybody may know of it."""

    name: str
    node_id: NodeId
    path: Path


def make_or_read_key(dirs: Directories, *, name: str | None = None, key_file: Path | None = None) -> KeyFile:
    """The key of a name or a file, made when it is missing, not claimed. Raises as `claim_key`."""
    if key_file is not None:
        shown, path = name or _name_of_file(key_file), key_file
    else:
        ensure_private(dirs.keys)
        shown = check_name(name or "")
        path = key_path(dirs, shown)
    return KeyFile(shown, node_id_of(_make_or_read(path, "key file")), path)


def claim_key(dirs: Directories, *, name: str | None = None, key_file: Path | None = None) -> NodeKey:
    """Makes or reads a key and locks it. `key_file` names a file, `name` one of this user's keys; neither:
    the first of node-1, node-2, … that nobody uses. Raises KeyFileError, ConfigError, UsageError."""
    if name is not None:
        check_name(name)
    ensure_private(dirs.locks)
    if key_file is not None:
        return _claim(dirs, name or _name_of_file(key_file), key_file)
    ensure_private(dirs.keys)
    if name is not None:
        return _claim(dirs, name, key_path(dirs, name))
    for number in range(1, MAX_UNNAMED_NODES + 1):
        candidate = f"node-{number}"
        try:
            return _claim(dirs, candidate, key_path(dirs, candidate))
        except KeyInUse:
            continue
    raise ConfigError(f"all of node-1 … node-{MAX_UNNAMED_NODES} are in use", hint="give a --name")


class KeyInUse(KeyFileError):
    """Another process is this node now."""

    code = "key_in_use"


def key_path(dirs: Directories, name: str) -> Path:
    return dirs.keys / f"{check_name(name)}.key"


def node_id_of(seed: bytes) -> NodeId:
    from nacl.signing import SigningKey

    return NodeId(bytes(SigningKey(seed).verify_key))


def read_key(path: Path) -> NodeId:
    """The node id of a key file, which may be in use. Raises KeyFileError."""
    return node_id_of(_read_secret(path, "key file"))


def _claim(dirs: Directories, name: str, path: Path) -> NodeKey:
    seed = _make_or_read(path, "key file")
    node_id = node_id_of(seed)
    locks: list[FileLock] = []
    try:
        # The first knows its holder's pid and catches copies of a key, the second catches other homes.
        locks.append(FileLock(dirs.locks / f"{node_id.hex()}.lock"))
        locks.append(FileLock(path, note_pid=False))
    except LockHeld as held:
        _release(locks)
        who = f"process {held.pid}" if held.pid else "another process"
        raise KeyInUse(
            f"the key {name!r} is in use by {who} ({path})",
            hint="stop that process, or take another --name",
        ) from None
    except OSError as error:
        _release(locks)
        raise KeyFileError(f"cannot lock the key file {path}: {error.strerror}") from error
    return NodeKey(
        name=name,
        node_id=node_id,
        path=path,
        seed=seed,
        boot_file=dirs.boots / node_id.hex(),
        locks=tuple(locks),
    )


def _release(locks: list[FileLock]) -> None:
    for lock in locks:
        lock.release()


def _make_or_read(path: Path, what: str) -> bytes:
    """Two first starts at once: one makes the file, both read it."""
    if not os.path.lexists(path):
        try:
            create_exclusively(path, secrets.token_bytes(SECRET_BYTES))
        except OSError as error:
            raise KeyFileError(
                f"cannot make the {what} {path}: {error.strerror}",
                hint=f"check the permissions of {path.parent}, or name another place",
            ) from error
    return _read_secret(path, what)


def _read_secret(path: Path, what: str) -> bytes:
    try:
        # NONBLOCK: opening a pipe that somebody put there must not hang
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KeyFileError(
            f"cannot read the {what} {path}: {error.strerror}", hint=f"it must be yours: chmod 600 {path}"
        ) from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise KeyFileError(f"the {what} {path} is no regular file", hint="name a file of 32 random bytes")
        if mode & 0o077:
            raise KeyFileError(
                f"others can read or write the {what} {path} (mode {stat.S_IMODE(mode):04o})",
                hint=f"run: chmod 600 {path}",
            )
        content = os.read(fd, SECRET_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read the {what} {path}: {error.strerror}") from error
    finally:
        os.close(fd)
    if len(content) != SECRET_BYTES:
        size = "more" if len(content) > SECRET_BYTES else str(len(content))
        raise KeyFileError(
            f"{path} is no {what}: it must hold exactly {SECRET_BYTES} bytes and holds {size}",
            hint="restore it from a backup, or move it away and a new one is made",
        )
    return content


# --- boot numbers ------------------------------------------------------------------------------


def next_boot(key: NodeKey, now_ms: int) -> int:
    """max(now, stored + 1): the boot number of this start, on disk when it returns. Raises ConfigError."""
    try:
        boot = max(now_ms, _stored_boot(key.boot_file) + 1)
        if boot > MAX_BOOT:
            raise ValueError("the number is used up")
        ensure_private(key.boot_file.parent)
        replace_atomically(key.boot_file, b"%d\n" % boot)
    except ValueError as error:
        raise ConfigError(
            f"the boot counter {key.boot_file} cannot be used: {error}",
            hint="remove it: the clock then gives the next number",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot write the boot counter {key.boot_file}: {error.strerror}",
            hint="free some space, or check the folder's permissions",
        ) from error
    return boot


def _stored_boot(path: Path) -> int:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BOOT_FILE_BYTES + 1)
    except FileNotFoundError:
        return -1
    text = content.strip()
    if len(content) > MAX_BOOT_FILE_BYTES or not text.isdigit():
        raise ValueError("it holds no number")
    return int(text)


# --- the network -------------------------------------------------------------------------------


def network_secret(dirs: Directories) -> bytes:
    """The secret of this user's own network, made on first run. Raises KeyFileError, ConfigError."""
    return _make_or_read(ensure_private(dirs.keys) / "network.secret", "network secret")


def read_allowlist(path: Path) -> list[NodeId]:
    """One node id in hex a line; empty lines and what follows a # do not count. Raises ConfigError."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_ALLOWLIST_BYTES + 1)
        if len(content) > MAX_ALLOWLIST_BYTES:
            raise ConfigError(f"the allowlist {path} is larger than {MAX_ALLOWLIST_BYTES} bytes")
        lines = content.decode("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the allowlist {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"the allowlist {path} is no text file") from None
    found: dict[NodeId, None] = {}
    for number, line in enumerate(lines, 1):
        if text := line.partition("#")[0].strip():
            found[_node_id_in(text, f"line {number} of {path}")] = None
    return list(found)


def _node_id_in(text: str, where: str) -> NodeId:
    if len(text) == 2 * SECRET_BYTES and all(digit in "0123456789abcdef" for digit in text.lower()):
        return NodeId(bytes.fromhex(text))
    raise ConfigError(
        f"{where} is no node id: {text[:80]!r}", hint="a node id is 64 hex digits, see: llama-gossip peers"
    )
