"""Installers: what this environment fetches packages with, pip else uv, as a child that cannot outlive us.

The law: no index is ever named, so the user's own settings (mirrors, proxies, offline) hold; nothing is
built, no dependency comes along, hashes are required; and no installer is quoted with an address in it.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from .progress import Progress

FETCH_S: Final = 3600.0  # 93 MB over a line of 30 kB/s; longer is a hang
RAW_PROGRESS_PIP: Final = (24, 1)  # the first pip that prints its progress for programs
REASON_CHARS: Final = 160  # of an installer's complaint, quoted in ours
# What the operating system's refusals look like in an installer's words: pip's, then uv's.
DISK_FULL: Final = re.compile(r"No space left|File too large|quota exceeded|os error (27|28|122)\b")


# Becomes the command in argv, killed by Linux when the thread that started it is gone, even by SIGKILL or
# os._exit. In a program of its own, for code between fork and exec is not safe beside threads.
TETHER: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Installer:
    """How to get a pinned wheel, or what is in it, into a folder."""

    name: str
    command: Callable[[Path, Path], list[str]]  # (requirements file, target folder)


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


def run(command: list[str], progress: Progress) -> tuple[int, str]:
    """Exit status and output. Whatever ends this function, or this process, ends the installer too."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", TETHER, str(os.getpid()), *command],
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


def complaint(said: str) -> str:
    """The installer's last error, fit for our sentence: no addresses (they may hold passwords), one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    text = " ".join(lines[-1:]) or "nothing"
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        if re.match(r"(error|×)", line, re.IGNORECASE):
            text = f"{line} {following}" if line.endswith(":") else line
            break
    text = re.sub(r"\S+://\S+", "…", text)
    text = re.sub(r"(^(ERROR|error)|×|╰─▶)[:\s]*", "", text)
    return "".join(char for char in text if char.isprintable())[:REASON_CHARS]
