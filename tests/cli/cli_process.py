"""The program as users run it: a process of its own, with a home of its own."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = [sys.executable, "-m", "llama_gossip"]
READY_S = 120.0  # a start on a slow machine that is busy with other work: only a failure waits so long
LONG_S = 150.0
LOOKS = 4


def environment(home: Path, **more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_GOSSIP_")}
    return {**own, "LLAMA_GOSSIP_HOME": str(home), **more}


def run(
    home: Path, *arguments: str, stdin: bytes = b"", timeout_s: float = LONG_S, **env: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*PROGRAM, *arguments],
        input=stdin,
        capture_output=True,
        env=environment(home, **env),
        timeout=timeout_s,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def look(home: Path, *arguments: str, sees: str) -> subprocess.CompletedProcess[str]:
    """A command that shows whom it sees within three seconds. On a busy machine it may need a second look;
    what it shows at last is what the test judges."""
    for _ in range(LOOKS):
        done = run(home, *arguments)
        if sees in done.stdout:
            break
    return done


def objects(text: str) -> list[dict[str, Any]]:
    """Every line of a --json stdout; a line that is no object fails here."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(isinstance(one, dict) for one in found), text
    return found


class Running:
    """A process under way: its stdout lines as they come, with the time of each."""

    def __init__(self, home: Path, *arguments: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home, **env),
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._told = threading.Condition()  # an error line has come
        self._waiting: queue.Queue[str | None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._waiting.put(line.decode())
        self._waiting.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._told:
                self.errors.append(line.decode())
                self._told.notify_all()

    def error_with(self, *words: str, timeout_s: float = READY_S) -> str:
        """The first line of stderr that holds all these words, awaited: it comes by a way of its own."""

        def found() -> str | None:
            return next((line for line in self.errors if all(word in line for word in words)), None)

        with self._told:
            line = self._told.wait_for(found, timeout_s)
        assert line is not None, f"no {words} on stderr within {timeout_s} s; before: {self.told()}"
        return line

    def line(self, timeout_s: float = READY_S) -> str:
        """The next line of stdout. Fails when the output has ended."""
        try:
            line = self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"no line within {timeout_s} s; before: {self.told()}") from None
        assert line is not None, f"the output has ended; before: {self.told()}"
        self.lines.append(line)
        return line

    def line_with(self, words: str) -> str:
        """The next line of stdout that holds these words; others on the way are passed over."""
        while words not in (line := self.line()):
            pass
        return line

    def event(self, name: str, timeout_s: float = READY_S, **fields: object) -> dict[str, Any]:
        """The next event of this name with these fields; others on the way are passed over."""
        deadline = time.monotonic() + timeout_s
        while True:
            found: dict[str, Any] = json.loads(self.line(max(0.01, deadline - time.monotonic())))
            if found["event"] == name and all(found[field] == value for field, value in fields.items()):
                return found

    def event_so_far(self, name: str, **fields: object) -> dict[str, Any]:
        """As `event`, but one that has been read already counts too."""
        for found in self.events():
            if found["event"] == name and all(found[field] == value for field, value in fields.items()):
                return found
        return self.event(name, **fields)

    def events_now(self) -> list[dict[str, Any]]:
        """All events that have come by now, without waiting for one."""
        while not self._waiting.empty():
            self.line()
        return self.events()

    def told(self) -> str:
        return "".join([*self.lines[-20:], "--- stderr ---\n", *self.errors[-20:]])

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = READY_S) -> int:
        """The exit code; what is left of the output lands in `lines`."""
        code = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join(timeout_s)
        while (line := self._waiting.get(timeout=timeout_s)) is not None:
            self.lines.append(line)
        self._waiting.put(None)
        return code

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(LONG_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
