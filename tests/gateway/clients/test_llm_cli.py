"""The `llm` command as people use it, a process with a home of its own, against a live gateway."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cli_process import LONG_S
from tests.gateway.network_process import Network, program_environment

from .conftest import KEY, MODEL

pytestmark = pytest.mark.live

LLM = str(Path(sys.executable).with_name("llm"))


@pytest.fixture(scope="module")
def llm_home(net: Network, keyed_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the models of both gateways in its file, as llm's documentation says."""
    home = tmp_path_factory.mktemp("llm")
    (home / "extra-openai-models.yaml").write_text(
        f"""
- model_id: net
  model_name: {MODEL}
  api_base: {net.base_url}
- model_id: keyed
  model_name: {MODEL}
  api_base: {keyed_url}
  api_key_name: gossip
""",
        encoding="utf-8",
    )
    (home / "keys.json").write_text(f'{{"gossip": "{KEY}"}}', encoding="utf-8")
    return home


def llm(home: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LLM, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LONG_S,
        env=program_environment(home, LLM_USER_PATH=str(home)),
        check=False,
    )


FIXED = ("-o", "seed", "7", "-o", "max_tokens", "12")


def test_a_prompt_is_answered_streamed_and_whole_alike(llm_home: Path) -> None:
    streamed = llm(llm_home, "-m", "net", "Hello", *FIXED)
    whole = llm(llm_home, "-m", "net", "Hello", *FIXED, "--no-stream")
    assert (streamed.returncode, streamed.stderr) == (0, "")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert len(streamed.stdout.split()) >= 10
    assert streamed.stdout == whole.stdout


def test_system_prompt_pipe_and_key_work(llm_home: Path) -> None:
    done = llm(llm_home, "-m", "keyed", "-s", "Be short.", *FIXED, stdin="Hello")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_an_endpoint_needs_no_file_at_all(llm_home: Path, net: Network) -> None:
    done = llm(llm_home, "openai", "endpoint", net.base_url, "Hello", "-m", MODEL, *FIXED)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) >= 10
