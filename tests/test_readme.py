"""The README's code runs as it stands there, against a live worker with the real model and a live gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.cli_process import LONG_S, Running
from tests.gateway.network_process import Network, network
from tests.support.models import REAL_MODEL, real_model, shared_models_dir
from tests.support.readme_blocks import Block, Command, blocks, commands

ROOT = Path(__file__).resolve().parent.parent
README = blocks((ROOT / "README.md").read_text(encoding="utf-8"))
RUNNABLE = [block for block in README if block.language in {"sh", "python"} and not block.not_run]
SHELL = [block for block in RUNNABLE if block.language == "sh"]
USUAL_PORT = "8411"


# --- reading it -----------------------------------------------------------------------------------


def test_a_block_has_its_language_its_place_and_its_reason() -> None:
    text = "x\n```sh\na\nb\n```\n\n<!-- not run: takes hours -->\n\n```sh\nc\n```\n```\npicture\n```\n"
    assert blocks(text) == [
        Block("sh", 3, "a\nb"),
        Block("sh", 10, "c", "takes hours"),
        Block("", 13, "picture"),
    ]


@pytest.mark.parametrize(
    "text", ["```sh\na\n", "<!-- not run: -->\n```sh\na\n```\n", "<!-- not run -->\n```\n```"]
)
def test_an_open_block_and_a_missing_reason_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        blocks(text)


def test_commands_are_joined_stripped_and_told_from_services() -> None:
    first = "# first\nllama-gossip worker   # serves\n$ curl a \\\n  -d '#b\n c'\n"
    assert commands(first + "llama-gossip hybrid < in\nx | y") == [
        Command("llama-gossip worker   # serves", ("worker",)),
        Command("curl a    -d '#b\n c'"),
        Command("llama-gossip hybrid < in"),
        Command("x | y"),
    ]
    with pytest.raises(ValueError):
        commands("curl 'a")


def test_the_readme_has_code_that_is_run() -> None:
    assert {block.language for block in RUNNABLE} == {"sh", "python"}


# --- running it -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    real_model()
    with network(tmp_path_factory.mktemp("readme"), [REAL_MODEL]) as one:
        yield one


def environment(net: Network) -> dict[str, str]:
    """A terminal of the user whose network it is."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_GOSSIP_")}
    return {
        **own,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LLAMA_GOSSIP_HOME": str(net.home),
        "LLAMA_GOSSIP_MODELS": str(shared_models_dir()),
        "LLAMA_GOSSIP_PORT": "0",
    }


def placed(source: str, net: Network) -> str:
    """With the port that the gateway really has."""
    return source.replace(USUAL_PORT, str(urlsplit(net.url).port))


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_python_of_the_readme_runs_as_one_notebook(net: Network, tmp_path: Path) -> None:
    sources = [
        (f"README.md line {block.line}", placed(block.source, net))
        for block in RUNNABLE
        if block.language == "python"
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "run_blocks.py")],
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        env=environment(net),
        cwd=tmp_path,
        timeout=LONG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", SHELL, ids=lambda block: f"line {block.line}")
def test_the_commands_of_the_readme_run(block: Block, net: Network, tmp_path: Path) -> None:
    services: list[Running] = []
    try:
        for command in commands(placed(block.source, net)):
            if command.service:
                services.append(started(command, net))
            else:
                run(command, net, tmp_path)
        for service in services:
            service.signal(signal.SIGTERM)
            assert service.wait() == 0, service.told()
    finally:
        for service in services:
            service.__exit__(None, None, None)


def started(command: Command, net: Network) -> Running:
    service = Running(
        net.home, *command.service, LLAMA_GOSSIP_MODELS=str(shared_models_dir()), LLAMA_GOSSIP_PORT="0"
    )
    service.line_with(" is ready")
    return service


def run(command: Command, net: Network, where: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.text],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(net),
        cwd=where,
        timeout=LONG_S,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, f"{command.text}\n{done.stdout}{done.stderr}"
