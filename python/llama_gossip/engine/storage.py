"""Storage: how files come into the models directory so that nobody ever meets a half-made one.

The law: work happens in a temporary folder on the same filesystem, is flushed to the disk, and appears under
its name by one rename, while a lock keeps other processes from doing the same work. A process killed at any
instant leaves only a temporary folder, which the next holder of the lock removes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from llama_gossip.errors import ConfigError, LlamaGossipError, ModelUnavailable

from .progress import Progress

LOCK_WAIT_S: Final = 3600.0  # the longest fetch and conversion worth waiting for
LOCK_POLL_S: Final = 0.2  # how soon a waiting process sees that the other is done
SPACE_HINT: Final = "free space there, or name a folder on another disk with LLAMA_GOSSIP_MODELS"
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, or file size limit reached


@contextmanager
def locked(folder: Path, name: str, progress: Progress) -> Iterator[None]:
    """Holds the lock `name` of a folder, alone among all processes, and clears what a dead one left."""
    with storing(folder, f"prepare {name}"):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait(descriptor, name, progress)
        for left in folder.glob(f".{name}.partial-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)  # frees the lock; the file stays, removing it would let two hold it


def _wait(descriptor: int, name: str, progress: Progress) -> None:
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        if time.monotonic() > give_up:
            raise ModelUnavailable(
                f"another process has been preparing {name} for {LOCK_WAIT_S:.0f} s",
                hint="end it and start again",
            )
        progress("wait for another process", 0, 0)
        time.sleep(LOCK_POLL_S)


@contextmanager
def partial_folder(folder: Path, name: str) -> Iterator[Path]:
    """A fresh temporary folder for the holder of the lock `name`; gone afterwards."""
    with storing(folder, f"prepare {name}"):
        made = Path(tempfile.mkdtemp(prefix=f".{name}.partial-", dir=folder))
        made.chmod(0o755)  # mkdtemp's 0700 would lock other users out of a shared models folder
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def publish(made: Path, final: Path) -> None:
    """Gives a flushed file or folder its name, replacing what stands there."""
    if final.is_dir() and not final.is_symlink():
        shutil.rmtree(final)
    elif made.is_dir():
        final.unlink(missing_ok=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    made.replace(final)
    flush(final.parent)


def flush(path: Path) -> None:
    """To the disk; a folder as far as its filesystem can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storing(folder: Path, what: str) -> Iterator[None]:
    """Turns an operating system's refusal to write under `folder` into one sentence."""
    try:
        yield
    except OSError as error:
        raise cannot_store(folder, what, error) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an operating system's refusal to read a file or folder of a model into one sentence."""
    try:
        yield
    except OSError as error:
        raise ModelUnavailable(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}",
            hint="check the path and its permissions",
        ) from error


def cannot_store(folder: Path, what: str, error: OSError) -> LlamaGossipError:
    if error.errno in FULL:
        return disk_full(folder, what)
    return ConfigError(
        f"cannot {what} in {folder}: {(error.strerror or str(error)).lower()}",
        hint="make the folder writable, or name another with LLAMA_GOSSIP_MODELS",
    )


def disk_full(folder: Path, what: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"cannot {what}: the disk of {folder} is full",
        hint=SPACE_HINT,
        code="disk_full",
    )


def need_space(folder: Path, size: int, what: str) -> None:
    """Says before the work what would fail in the middle of it."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ModelUnavailable(
            f"cannot {what}: it needs {size >> 20} MiB and the disk of {folder} has {free >> 20} MiB free",
            hint=SPACE_HINT,
            code="disk_full",
        )
