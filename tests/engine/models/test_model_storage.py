"""Whatever kills or starves the work on a model, nobody ever meets a half-made one."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from llama_gossip.engine import models
from llama_gossip.engine.models import ModelFolder
from llama_gossip.errors import ConfigError, ModelUnavailable
from tests.support.gguf_files import byte_level, random_weights, write_gguf
from tests.support.model_work import finish, start


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    vocabulary = byte_level("smollm")
    return write_gguf(tmp_path / "m.gguf", random_weights(len(vocabulary.tokens), 5), vocabulary)


def folders(models_dir: Path) -> list[Path]:
    return [path for path in (models_dir / "converted").iterdir() if path.is_dir()]


@pytest.mark.parametrize("lines", [1, 40, 200])
def test_a_conversion_killed_at_any_point_is_made_again_from_the_start(
    smollm2: ModelFolder, tmp_path: Path, lines: int
) -> None:
    process = start(tmp_path, str(smollm2.source))
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen += line.startswith("progress convert")
        if seen == lines:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait(30) == -signal.SIGKILL
    process.stdout.close()
    assert [path for path in folders(tmp_path) if not path.name.startswith(".")] == [], (
        "nothing under its name"
    )
    assert finish(start(tmp_path, str(smollm2.source)))[-1].startswith("ready")
    left = folders(tmp_path)
    assert len(left) == 1, "the dead one's folder is gone"
    assert not left[0].name.startswith(".")


def test_two_processes_that_convert_at_once_make_one_folder(smollm2: ModelFolder, tmp_path: Path) -> None:
    both = [finish(p) for p in [start(tmp_path, str(smollm2.source)) for _ in range(2)]]
    assert both[0][-1] == both[1][-1]
    assert both[0][-1].startswith("ready")
    converting = [any(line.startswith("progress convert") for line in lines) for lines in both]
    assert sorted(converting) == [False, True], "one converts, the other waits and takes it"


@pytest.mark.parametrize("largest", [0, 1000, 100_000])
def test_a_disk_that_fills_up_while_converting_is_one_sentence_and_leaves_nothing(
    gguf: Path, tmp_path: Path, largest: int
) -> None:
    said = finish(start(tmp_path, str(gguf), str(largest)))
    assert said[-1].startswith("refused 4 disk_full cannot convert m.gguf: the disk of ")
    assert "LLAMA_GOSSIP_MODELS" in said[-1]
    assert folders(tmp_path) == []


def test_a_disk_without_room_is_told_before_the_work(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    with pytest.raises(ModelUnavailable, match="has 5 MiB free") as caught:
        models.resolve(str(gguf), tmp_path)
    assert caught.value.code == "disk_full"


def test_a_models_directory_that_cannot_be_made_is_one_sentence(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where a folder should be")
    with pytest.raises(ConfigError, match="LLAMA_GOSSIP_MODELS") as caught:
        models.resolve(str(gguf), tmp_path / "models")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "llama-gossip.json"])
@pytest.mark.parametrize("damage", ["shorter", "other bytes", "gone"])
def test_a_damaged_conversion_is_made_again(gguf: Path, tmp_path: Path, name: str, damage: str) -> None:
    folder = models.resolve(str(gguf), tmp_path).path
    file = folder / name
    whole = file.read_bytes()
    match damage:
        case "shorter":
            file.write_bytes(whole[: len(whole) // 2])
        case "other bytes":
            file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        case _:
            file.unlink()
    assert models.resolve(str(gguf), tmp_path).path == folder
    assert file.read_bytes() == whole


def test_a_second_start_converts_nothing(gguf: Path, tmp_path: Path) -> None:
    first = finish(start(tmp_path, str(gguf)))
    second = finish(start(tmp_path, str(gguf)))
    assert any(line.startswith("progress convert") for line in first)
    assert not any(line.startswith("progress convert") for line in second)
    assert first[-1] == second[-1]
