"""A process of its own that makes a model ready and says what it does, a line an event.

    python model_work.py MODELS_DIR SPEC [largest file in bytes]

Prints `progress STAGE DONE TOTAL`, then `ready PATH`, or `refused EXIT_CODE CODE SENTENCE`.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from llama_gossip.engine import models
from llama_gossip.errors import LlamaGossipError

DONE_S = 120.0  # for a fetch and a conversion on a busy machine


def start(models_dir: Path, spec: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-X", "dev", __file__, str(models_dir), spec, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def finish(process: subprocess.Popen[str]) -> list[str]:
    """The lines of a started process, once it has ended."""
    said, _ = process.communicate(timeout=DONE_S)
    return said.splitlines()


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def main(where: str, spec: str, largest: str = "") -> int:
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
    try:
        found = models.resolve(spec, Path(where), progress=lambda *now: say("progress", *now))
    except LlamaGossipError as error:
        say("refused", error.exit_code, error.code, error)
        return error.exit_code
    say("ready", found.path)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
