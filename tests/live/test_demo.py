"""The demo: the whole path on real parts, as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.models import real_model, shared_models_dir

ROOT = Path(__file__).resolve().parent.parent.parent


def run_demo(home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "LLAMA_GOSSIP_HOME": str(home),
        "LLAMA_GOSSIP_MODELS": str(shared_models_dir()),
        **environment,
    }
    command = [sys.executable, str(ROOT / "examples" / "demo.py")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=900)


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_demo_answers_from_a_real_model_and_leaves_nothing_behind(tmp_path: Path) -> None:
    real_model()
    done = run_demo(tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Paris" in done.stdout
    assert done.stdout.count("signatures verified") == 3
    assert [path for path in (tmp_path / "home" / "run").rglob("*") if not path.is_dir()] == []


@pytest.mark.live
def test_the_demo_fails_with_a_sentence_when_the_model_cannot_be_had(tmp_path: Path) -> None:
    blocked = tmp_path / "models"
    blocked.write_text("a file where the folder belongs")
    done = run_demo(tmp_path / "home", LLAMA_GOSSIP_MODELS=str(blocked))
    assert done.returncode == 1
    assert "The demo failed" in done.stderr
    assert "Traceback" not in done.stderr
