"""The package's face: light to import, complete, and its versions agree."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import llama_gossip

ROOT = Path(__file__).resolve().parent.parent


def test_every_public_name_can_be_loaded() -> None:
    assert [name for name in llama_gossip.__all__ if getattr(llama_gossip, name, None) is None] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        llama_gossip.nonsense  # noqa: B018  reading it is the test


@pytest.mark.parametrize(("file", "table"), [("pyproject.toml", "project"), ("Cargo.toml", "package")])
def test_the_version_is_the_same_everywhere(file: str, table: str) -> None:
    declared = tomllib.loads((ROOT / file).read_text())[table]["version"]
    assert declared == llama_gossip.__version__


def test_the_changelog_speaks_of_this_version() -> None:
    assert f"## {llama_gossip.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_lock_file_names_no_index() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if "://" in line or line.startswith(("-i", "--"))] == []


def test_every_error_has_an_exit_code_and_a_status() -> None:
    from llama_gossip import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) > 10
    assert {kind.exit_code for kind in kinds} <= {1, 2, 3, 4, 5, 6, 130}
    assert all(400 <= kind.http_status < 600 for kind in kinds)


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llama_gossip", "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert llama_gossip.__version__ in done.stdout
