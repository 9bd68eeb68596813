"""What a spec may be, where it leads, and what is said when it leads nowhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llama_gossip.engine import models
from llama_gossip.engine.catalogue import CATALOGUE, DEFAULT
from llama_gossip.engine.models import ModelFolder, ModelState
from llama_gossip.errors import ModelUnavailable

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_in_hub_cache(hub: Path, repository: str, folder: Path) -> Path:
    """As the hub's own client lays it out, with links into its blobs."""
    kept = hub / f"models--{repository.replace('/', '--')}"
    snapshot = kept / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(REVISION)
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(file)
    return snapshot


def test_a_gguf_files_name_is_its_stem(llama: ModelFolder) -> None:
    assert (llama.name, llama.source.name, llama.quantisation) == ("my.model", "my.model.gguf", "none")


def test_a_gguf_in_the_models_directory_is_found_by_its_file_name(llama: ModelFolder, tmp_path: Path) -> None:
    shutil.copy(llama.source, tmp_path / "other.gguf")
    assert models.resolve("other.gguf", tmp_path).digest == llama.digest


def test_a_folder_is_found_by_path_and_by_its_name_in_the_models_directory(
    llama: ModelFolder, tmp_path: Path
) -> None:
    shutil.copytree(llama.path, tmp_path / "mine")
    by_path = models.resolve(str(tmp_path / "mine"), tmp_path)
    assert by_path == models.resolve("mine", tmp_path)
    assert by_path.name == "mine"
    assert by_path.digest.root != llama.digest.root, "a folder is known by its files, a GGUF by its source"


@pytest.mark.parametrize("spec", ["tinyllama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"])
def test_a_hub_model_is_taken_from_the_hubs_local_cache(
    spec: str, llama: ModelFolder, tmp_path: Path, empty_hub_cache: Path
) -> None:
    snapshot = put_in_hub_cache(empty_hub_cache, "TinyLlama/TinyLlama-1.1B-Chat-v1.0", llama.path)
    found = models.resolve(spec, tmp_path / "models")
    assert (found.path, found.name) == (snapshot, spec)


def test_the_models_directory_wins_over_the_hubs_cache(
    llama: ModelFolder, tmp_path: Path, empty_hub_cache: Path
) -> None:
    put_in_hub_cache(empty_hub_cache, "TinyLlama/TinyLlama-1.1B-Chat-v1.0", llama.path)
    shutil.copytree(llama.path, tmp_path / "tinyllama")
    assert models.resolve("tinyllama", tmp_path).path == tmp_path / "tinyllama"


@pytest.mark.parametrize("revision", ["../../../../etc", "", "main", REVISION[:-1] + "0"])
def test_a_cache_entry_that_leads_elsewhere_is_ignored(
    revision: str, llama: ModelFolder, tmp_path: Path, empty_hub_cache: Path
) -> None:
    snapshot = put_in_hub_cache(empty_hub_cache, "a/b", llama.path)
    (snapshot.parents[1] / "refs" / "main").write_text(revision)
    with pytest.raises(ModelUnavailable, match="not on this machine"):
        models.resolve("a/b", tmp_path)


@pytest.mark.parametrize(
    ("spec", "folder"),
    [
        ("tinyllama", "tinyllama"),
        ("llama-3.2-1b", "llama-3.2-1b"),
        ("some-org/Some-Llama", "some-org/Some-Llama"),
    ],
)
def test_weights_that_are_not_here_are_asked_for_with_the_folder_to_fill(
    spec: str, folder: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        models.resolve(spec, tmp_path)
    assert str(tmp_path / folder) in caught.value.hint
    assert "safetensors" in caught.value.hint
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "spec", ["smolm2-135m", "tinyllama", "some-org/Some-Llama", "here/is/no.gguf", "./broken"]
)
def test_a_spec_that_leads_nowhere_is_refused_by_the_quick_check_in_the_same_words(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(ModelUnavailable) as slow:
        models.resolve(spec, tmp_path)
    with pytest.raises(ModelUnavailable) as quick:
        models.glance(spec, tmp_path)
    assert str(quick.value) == str(slow.value)
    assert quick.value.hint == slow.value.hint


def test_the_quick_check_takes_what_can_be_served_and_fetches_nothing(
    llama: ModelFolder, tmp_path: Path
) -> None:
    where = tmp_path / "models"
    for spec in (DEFAULT, "tiny-random", str(llama.path), str(llama.source)):
        models.glance(spec, where)
    assert not where.exists()


def test_a_typo_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="unknown model 'smolm2-135m'") as caught:
        models.resolve("smolm2-135m", tmp_path)
    assert "did you mean smollm2-135m?" in caught.value.hint


@pytest.mark.parametrize(
    "spec",
    [
        "",
        " ",
        "x" * 5000,
        "a\x00b",
        "a\nb\x1b[31m",
        "~nobody-of-this-name/model",
        "http://host/v1",
        "a/b/c/d",
    ],
)
def test_what_can_be_no_model_is_one_printable_sentence(spec: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        models.resolve(spec, tmp_path)
    assert str(caught.value).isprintable()
    assert len(caught.value.message) < 400


def test_names_fit_an_announce(llama: ModelFolder, tmp_path: Path) -> None:
    long = tmp_path / ("é" * 60 + ".gguf")
    shutil.copy(llama.source, long)
    assert models.resolve(str(long), tmp_path).name == "é" * 20


def test_the_list_shows_the_catalogue_with_the_default_first_and_local_models_after(
    llama: ModelFolder, tmp_path: Path
) -> None:
    shutil.copytree(llama.path, tmp_path / "mine")
    (tmp_path / "digests.json").write_text("{}")
    (tmp_path / ".lock").write_text("")
    listed = models.list_models(tmp_path)
    assert [status.name for status in listed] == [*CATALOGUE, "mine"]
    assert [status.name for status in listed if status.default] == [DEFAULT] == [listed[0].name]
    states = {status.name: status.state for status in listed}
    assert states[DEFAULT] is ModelState.FETCHABLE
    assert states["tiny-random"] is ModelState.BUILT_IN
    assert states["tinyllama"] is ModelState.MISSING
    assert states["mine"] is ModelState.READY
    assert all(status.licence for status in listed if status.name in CATALOGUE)


def test_tiny_random_says_what_it_is_wherever_it_is_listed(tmp_path: Path) -> None:
    (tiny,) = (status for status in models.list_models(tmp_path) if status.name == "tiny-random")
    assert "random weights: for tests" in tiny.title
    with pytest.raises(ModelUnavailable, match="made in memory"):
        models.path("tiny-random", tmp_path)


@pytest.mark.parametrize(
    ("environment", "due"),
    [
        ({"LLAMA_GOSSIP_MODELS": "/m", "LLAMA_GOSSIP_HOME": "/h"}, "/m"),
        ({"LLAMA_GOSSIP_HOME": "/h"}, "/h/models"),
        ({"XDG_DATA_HOME": "/d"}, "/d/llama-gossip/models"),
    ],
)
def test_the_models_directory_follows_the_environment(
    environment: dict[str, str], due: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LLAMA_GOSSIP_MODELS", "LLAMA_GOSSIP_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert models.default_models_dir() == Path(due)


def test_finding_models_imports_no_torch(llama: ModelFolder) -> None:
    code = (
        "import sys, json; from pathlib import Path; from llama_gossip.engine import models; "
        f"models.list_models(Path({str(llama.source.parent)!r})); "
        f"models.resolve({str(llama.source)!r}, Path({str(llama.source.parent)!r})); "
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'transformers'})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
