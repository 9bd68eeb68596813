"""Directories: where files belong, and who may look into them."""

from __future__ import annotations

import os
import stat
from dataclasses import fields
from pathlib import Path

import pytest

from llama_gossip.config import Directories, ensure_private
from llama_gossip.errors import ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_with_a_home_every_directory_lies_under_it(tmp_path: Path) -> None:
    dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path.parent)})
    for field in fields(dirs):
        assert getattr(dirs, field.name).is_relative_to(tmp_path), field.name
    for path in (dirs.keys, dirs.locks, dirs.boots, dirs.config_file):
        assert path.is_relative_to(tmp_path)


def test_models_may_lie_elsewhere(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path / "home"), "LLAMA_GOSSIP_MODELS": shared})
    assert dirs.models == Path(shared)
    assert Directories.find({"LLAMA_GOSSIP_MODELS": shared}).models == Path(shared)


def test_a_home_may_be_relative_or_begin_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Directories.find({"LLAMA_GOSSIP_HOME": "h"}).state == tmp_path / "h" / "state"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Directories.find({"LLAMA_GOSSIP_HOME": "~/h"}).state == tmp_path / "h" / "state"


def test_without_a_home_the_platform_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    dirs = Directories.find({})
    assert all(
        path.is_relative_to(tmp_path) for path in (dirs.config, dirs.data, dirs.state, dirs.models, dirs.keys)
    )
    assert len({dirs.config, dirs.data, dirs.state}) == 3


def test_the_runtime_directory_is_the_sessions_own(tmp_path: Path) -> None:
    assert Directories.find({"XDG_RUNTIME_DIR": str(tmp_path)}).runtime == tmp_path / "llama-gossip"


@pytest.mark.parametrize("useless", ["missing", "relative", "file"])
def test_a_useless_runtime_variable_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, useless: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "relative").mkdir()
    value = "relative" if useless == "relative" else str(tmp_path / useless)
    runtime = Directories.find({"XDG_RUNTIME_DIR": value}).runtime
    assert not str(runtime).startswith(value)
    assert runtime.is_absolute()


def test_looking_for_directories_makes_none(tmp_path: Path) -> None:
    Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path / "home")})
    assert list(tmp_path.iterdir()) == []


def test_private_means_0700_also_under_a_generous_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        ensure_private(tmp_path / "made")
    finally:
        os.umask(old)
    assert mode(tmp_path / "made") == 0o700


def test_a_looser_folder_of_ours_is_tightened(tmp_path: Path) -> None:
    (tmp_path / "loose").mkdir(mode=0o755)
    (tmp_path / "loose").chmod(0o755)
    assert ensure_private(tmp_path / "loose") == tmp_path / "loose"
    assert mode(tmp_path / "loose") == 0o700


def test_a_link_or_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_bytes(b"")
    for name in ("link", "file", "file/below"):
        with pytest.raises(ConfigError) as caught:
            ensure_private(tmp_path / name)
        assert caught.value.hint


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_private(tmp_path / "theirs")
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)  # the test cannot give files away
    with pytest.raises(ConfigError, match="belongs to another user"):
        ensure_private(folder)
