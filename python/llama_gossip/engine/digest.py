"""Digests: the identity of a model, as sha256 roots over its files. No torch, no network.

root = sha256(domain ‖ canonical JSON of [name, size, sha256] for each file of a closed set, sorted by name).
Sub-roots over weights, tokenizer and template say which part differs. The law: a digest comes from bytes that
were read; the cache only spares reading again a file whose identity and times have not changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from .progress import Progress, silent

DOMAIN: Final = b"llama-gossip/model/v1\0"
RACY_S: Final = 2.0  # a file changed this recently may change again within one tick of its clock: read it
CHUNK: Final = 1 << 20  # bytes; enough to keep sha256 busy, small enough for a smooth progress bar
CACHE_ENTRIES: Final = 4096  # files remembered; the oldest go first

WEIGHT_NAMES: Final = ("model.safetensors.index.json", "config.json", "generation_config.json")
TOKENIZER_NAMES: Final = ("tokenizer.model", "special_tokens_map.json")

FileEntry: TypeAlias = tuple[str, int, str]  # name, bytes, sha256 in hex


@dataclass(frozen=True, slots=True)
class ModelDigest:
    """32-byte sha256 roots. Equal `root`: the same model; else the other three say what differs."""

    root: bytes
    weights: bytes
    tokenizer: bytes
    template: bytes


def root_of(entries: Iterable[FileEntry]) -> bytes:
    listed = [list(entry) for entry in sorted(entries)]
    text = json.dumps(listed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(DOMAIN + text.encode()).digest()


def part_of(name: str) -> str | None:
    """Which sub-root a file counts in; None: no part of the model (README, logs, pickles)."""
    if name.endswith(".safetensors") or name in WEIGHT_NAMES:
        return "weights"
    if name in TOKENIZER_NAMES or (name.startswith("tokenizer") and name.endswith(".json")):
        return "tokenizer"
    if name.startswith("chat_template"):
        return "template"
    return None


def digest_folder(
    folder: Path, *, cache: DigestCache, verify: bool = False, progress: Progress = silent
) -> ModelDigest:
    """The digest of a folder in the hub's layout. `verify` reads every byte again."""
    files = sorted(path for path in folder.iterdir() if part_of(path.name) and path.is_file())
    parts: dict[str, list[FileEntry]] = {"weights": [], "tokenizer": [], "template": []}
    total, done = sum(path.stat().st_size for path in files), 0
    for path in files:
        size = path.stat().st_size
        value = cache.sha256(path, verify=verify, progress=_shifted(progress, done, total))
        parts[part_of(path.name) or "weights"].append((path.name, size, value))
        done += size
    cache.save()
    everything = [entry for entries in parts.values() for entry in entries]
    return ModelDigest(
        root_of(everything), *(root_of(parts[p]) for p in ("weights", "tokenizer", "template"))
    )


def _shifted(progress: Progress, offset: int, total: int) -> Progress:
    def report(stage: str, done: int, _total: int, /) -> None:
        progress(stage, offset + done, total)

    return report


def hash_file(path: Path, progress: Progress = silent) -> str:
    """sha256 of the file's bytes, in hex."""
    state, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        total = os.fstat(file.fileno()).st_size
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            state.update(view[:count])
            done += count
            progress("check", done, max(total, done))
    return state.hexdigest()


@dataclass(slots=True)
class DigestCache:
    """Remembers sha256 by (real path, size, times, inode, device). Losing it costs time, never truth."""

    path: Path | None  # None: nothing is kept
    _known: dict[str, str] = field(default_factory=dict)
    _changed: bool = False

    @classmethod
    def open(cls, path: Path | None) -> DigestCache:
        cache = cls(path)
        if path is not None:
            with suppress(OSError, ValueError):
                stored = json.loads(path.read_text())
                if isinstance(stored, dict):
                    cache._known = {str(k): v for k, v in stored.items() if _is_sha256(v)}
        return cache

    def sha256(self, path: Path, *, verify: bool = False, progress: Progress = silent) -> str:
        before = _identity(path)
        known = None if verify or _is_racy(path) else self._known.get(before)
        if known is not None:
            return known
        value = hash_file(path, progress)
        if _identity(path) == before and not _is_racy(path):
            self._known[before] = value
            self._changed = True
        return value

    def save(self) -> None:
        """Best effort: a read-only or full disk only means hashing again next time."""
        if self.path is None or not self._changed:
            return
        kept = dict(list(self._known.items())[-CACHE_ENTRIES:])
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with suppress(OSError):
            try:
                temporary.write_text(json.dumps(kept))
                temporary.replace(self.path)
                self._changed = False
            finally:
                temporary.unlink(missing_ok=True)


def _identity(path: Path) -> str:
    real = path.resolve()
    stat = real.stat()
    return json.dumps(
        [str(real), stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev, stat.st_ctime_ns],
        separators=(",", ":"),
    )


def _is_racy(path: Path) -> bool:
    stat = path.stat()
    return time.time() - max(stat.st_mtime, stat.st_ctime) < RACY_S


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64
