"""Digests say what a model is, which part differs, and never trust a file that may still change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from llama_gossip.engine.digest import DOMAIN, DigestCache, ModelDigest, digest_folder, hash_file

LONG_AGO = time.time() - 3600


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "README.md"):
        (made / name).write_text(f"content of {name}")
    return made


def digest(folder: Path) -> ModelDigest:
    return digest_folder(folder, cache=DigestCache(None))


def test_the_root_is_sha256_over_the_canonical_list_of_the_files(folder: Path) -> None:
    names = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    listed = [
        [n, (folder / n).stat().st_size, hashlib.sha256((folder / n).read_bytes()).hexdigest()] for n in names
    ]
    text = json.dumps(listed, separators=(",", ":"))
    assert digest(folder).root == hashlib.sha256(DOMAIN + text.encode()).digest()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.safetensors", "weights"),
        ("config.json", "weights"),
        ("tokenizer.json", "tokenizer"),
        ("chat_template.jinja", "template"),
    ],
)
def test_a_changed_file_changes_the_root_and_its_own_part_only(folder: Path, name: str, part: str) -> None:
    before = digest(folder)
    (folder / name).write_text("other")
    after = digest(folder)
    changed = {
        p for p in ("root", "weights", "tokenizer", "template") if getattr(before, p) != getattr(after, p)
    }
    assert changed == {"root", part}


def test_a_readme_is_no_part_of_the_model(folder: Path) -> None:
    before = digest(folder)
    (folder / "README.md").write_text("other")
    (folder / "training.log").write_text("new")
    assert digest(folder) == before


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Collects what is really read."""
    seen: list[Path] = []

    def watched(path: Path, *rest: object) -> str:
        seen.append(path)
        return hash_file(path)

    monkeypatch.setattr("llama_gossip.engine.digest.hash_file", watched)
    return seen


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.time() + seconds
    monkeypatch.setattr("llama_gossip.engine.digest.time.time", lambda: now)


def test_an_old_unchanged_file_is_read_once_over_two_processes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = hashed(monkeypatch)
    later(monkeypatch, 10)
    kept = tmp_path / "digests.json"
    first = digest_folder(folder, cache=DigestCache.open(kept))
    assert len(seen) == 4
    assert digest_folder(folder, cache=DigestCache.open(kept)) == first
    assert len(seen) == 4


def test_a_file_touched_within_two_seconds_is_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = hashed(monkeypatch)
    later(monkeypatch, 1)
    kept = tmp_path / "digests.json"
    for _ in range(2):
        digest_folder(folder, cache=DigestCache.open(kept))
    assert len(seen) == 8


def test_same_size_and_mtime_with_other_bytes_is_noticed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = folder / "model.safetensors"
    os.utime(weights, (LONG_AGO, LONG_AGO))
    later(monkeypatch, 10)
    cache = DigestCache.open(tmp_path / "digests.json")
    before = digest_folder(folder, cache=cache)
    weights.write_bytes(weights.read_bytes()[::-1])
    os.utime(weights, (LONG_AGO, LONG_AGO))  # a hand that hides its change: the change time still tells
    assert digest_folder(folder, cache=cache) != before


def test_verify_reads_every_byte_whatever_is_remembered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = hashed(monkeypatch)
    later(monkeypatch, 10)
    cache = DigestCache.open(tmp_path / "digests.json")
    digest_folder(folder, cache=cache)
    digest_folder(folder, cache=cache, verify=True)
    assert len(seen) == 8


@pytest.mark.parametrize("content", ["", "[", "[]", '{"a": 1}', '{"a": "short"}', "\x00"])
def test_a_broken_memory_only_costs_time(folder: Path, tmp_path: Path, content: str) -> None:
    kept = tmp_path / "digests.json"
    kept.write_text(content)
    assert digest_folder(folder, cache=DigestCache.open(kept)) == digest(folder)


def test_progress_rises_to_the_size_of_all_files(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    digest_folder(
        folder, cache=DigestCache(None), progress=lambda _s, done, total: seen.append((done, total))
    )
    sizes = sum(path.stat().st_size for path in folder.iterdir() if path.name != "README.md")
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (sizes, sizes)
