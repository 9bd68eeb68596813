"""Fetching from the hub: asked for by name, weights and JSON only, and one sentence where that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_gossip.engine.models import ModelFolder
from tests.cli.cli_process import run
from tests.support.fake_hub import COMMIT, Hub, serving

REPOSITORY = "acme/tiny"
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture(scope="module")
def files(llama: ModelFolder) -> dict[str, bytes]:
    found = {file.name: file.read_bytes() for file in llama.path.iterdir()}
    return found | {
        "model.bin": b"a pickle",
        "modeling.py": b"code",
        "original/params.json": b"{}",
        "consolidated.safetensors": b"the weights again",
    }


def fetched(home: Path, address: str, *arguments: str) -> tuple[int, str, str]:
    environment = {"HF_ENDPOINT": address, "HF_HOME": str(home / "hf")}
    done = run(home, "models", *arguments, **environment)
    return done.returncode, done.stdout, done.stderr


def test_a_model_is_fetched_once_without_code_or_pickles_and_then_lies_here(
    tmp_path: Path, files: dict[str, bytes], llama: ModelFolder
) -> None:
    with serving(Hub(REPOSITORY, files)) as hub:
        code, out, err = fetched(tmp_path, hub.address, "fetch", REPOSITORY)
        assert (code, Path(out.strip()).name) == (0, COMMIT), err
        assert set(hub.fetched) == {file.name for file in llama.path.iterdir()}
        del hub.fetched[:]
        assert fetched(tmp_path, hub.address, "fetch", REPOSITORY)[:2] == (0, out)
        assert hub.fetched == []
    snapshot = Path(out.strip())
    assert {file.name: file.read_bytes() for file in snapshot.iterdir()} == {
        name: files[name] for name in (file.name for file in llama.path.iterdir())
    }
    assert fetched(tmp_path, NOBODY, "path", REPOSITORY)[:2] == (0, out), "no network is needed any more"


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, "RepoNotFound"), "the hub has no model acme/tiny"),
        ((403, "GatedRepo"), "accepted its licence"),
        ((500, ""), "cannot be had from the hub"),
    ],
)
def test_what_the_hub_refuses_is_told_with_a_remedy(
    tmp_path: Path, refusal: tuple[int, str], words: str
) -> None:
    with serving(Hub(REPOSITORY, {}, refusal)) as hub:
        code, _, err = fetched(tmp_path, hub.address, "fetch", REPOSITORY)
    assert code == 4
    assert words in err
    assert len(err.strip().splitlines()) == 2, "a sentence and its remedy"


def test_a_hub_out_of_reach_names_the_folder_to_fill(tmp_path: Path) -> None:
    code, _, err = fetched(tmp_path, NOBODY, "fetch", "tinyllama")
    assert code == 4
    assert "cannot be had from the hub" in err
    assert "models/tinyllama" in err


def test_a_repository_without_safetensors_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with serving(Hub(REPOSITORY, {"config.json": b"{}", "pytorch_model.bin": b""})) as hub:
        code, _, err = fetched(tmp_path, hub.address, "fetch", REPOSITORY)
        assert hub.fetched == []
    assert code == 4
    assert "no weights in safetensors" in err


def test_serving_asks_no_hub(tmp_path: Path, files: dict[str, bytes]) -> None:
    with serving(Hub(REPOSITORY, files)) as hub:
        done = run(
            tmp_path, "worker", "--model", REPOSITORY, HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path / "hf")
        )
        assert hub.fetched == []
    assert done.returncode == 4
    assert f"llama-gossip models fetch {REPOSITORY}" in done.stderr
