"""Identity between real processes: locks end with their process, first starts do not collide."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_gossip.config import Directories
from llama_gossip.identity import KeyInUse, claim_key

# Waits for the line "go" on stdin, does its work, prints the result, and holds what it has until stdin ends.
CLAIM = """
import sys
from llama_gossip.config import Directories
from llama_gossip.identity import KeyInUse, claim_key, network_secret
dirs = Directories.find()
print("up", flush=True)
sys.stdin.readline()
if sys.argv[1] == "secret":
    print(network_secret(dirs).hex(), flush=True)
else:
    try:
        key = claim_key(dirs, name=sys.argv[2] if len(sys.argv) > 2 else None)
        print(key.name, key.node_id.hex(), flush=True)
    except KeyInUse as error:
        print("refused", flush=True)
sys.stdin.read()
"""
RACERS = 6


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LLAMA_GOSSIP_HOME": str(home)},
    )
    assert line_of(process) == "up"
    return process


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(*processes: subprocess.Popen[str]) -> list[str]:
    """Lets all run at once; what each of them printed."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [line_of(process) for process in processes]


@contextlib.contextmanager
def running(count: int, home: Path, *arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
    processes = [start(home, *arguments) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_first_starts_at_once_agree_on_one_network_secret(tmp_path: Path) -> None:
    with running(RACERS, tmp_path, "secret") as processes:
        secrets = go(*processes)
    assert len(set(secrets)) == 1
    assert len(bytes.fromhex(secrets[0])) == 32
    assert [path.name for path in (tmp_path / "data" / "keys").iterdir()] == ["network.secret"]


def test_unnamed_nodes_that_start_at_once_all_get_names_of_their_own(tmp_path: Path) -> None:
    with running(RACERS, tmp_path, "key") as processes:
        answers = go(*processes)
    assert sorted(answer.split()[0] for answer in answers) == [f"node-{n}" for n in range(1, RACERS + 1)]
    assert len({answer.split()[1] for answer in answers}) == RACERS


def test_of_many_that_claim_one_name_at_once_one_gets_it(tmp_path: Path) -> None:
    with running(RACERS, tmp_path, "key", "hans") as processes:
        answers = go(*processes)
    assert sorted(answer.split()[0] for answer in answers) == ["hans"] + ["refused"] * (RACERS - 1)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_key_is_free_once_its_process_is_gone_however_it_went(tmp_path: Path, end: signal.Signals) -> None:
    dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path)})
    with running(1, tmp_path, "key", "hans") as [process]:
        _, node_id = go(process)[0].split()
        with pytest.raises(KeyInUse, match=f"process {process.pid}"):
            claim_key(dirs, name="hans")
        process.send_signal(end)
        process.wait(timeout=60)
        with claim_key(dirs, name="hans") as key:
            assert key.node_id.hex() == node_id
