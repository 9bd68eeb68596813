"""Identity: keys, names, boot numbers, the network secret, the allowlist."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from llama_gossip import identity
from llama_gossip.config import Directories
from llama_gossip.errors import ConfigError, KeyFileError, UsageError
from llama_gossip.identity import (
    KeyInUse,
    check_name,
    claim_key,
    make_or_read_key,
    network_secret,
    next_boot,
    read_allowlist,
    read_key,
)

NODE_A, NODE_B = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture
def dirs(tmp_path: Path) -> Directories:
    return Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path / "home")})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write_key(path: Path, content: bytes, permissions: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(permissions)
    return path


# --- keys --------------------------------------------------------------------------------------


def test_a_key_is_32_bytes_that_only_its_owner_reads(dirs: Directories) -> None:
    old = os.umask(0)
    try:
        with claim_key(dirs, name="a") as key:
            assert (mode(key.path), mode(key.path.parent)) == (0o600, 0o700)
            assert key.path.read_bytes() == key.seed
            assert len(key.seed) == 32
            assert key.node_id == bytes(SigningKey(key.seed).verify_key)
    finally:
        os.umask(old)


def test_the_seed_stands_in_no_repr(dirs: Directories) -> None:
    with claim_key(dirs) as key:
        for secret in (key.seed.hex(), repr(key.seed)[2:-1], str(key.seed)):
            assert secret not in repr(key)


def test_a_key_survives_its_process_and_no_two_are_alike(dirs: Directories) -> None:
    with claim_key(dirs, name="a") as first, claim_key(dirs, name="b") as other:
        assert first.node_id != other.node_id
    with claim_key(dirs, name="a") as again:
        assert again.node_id == first.node_id
    assert read_key(again.path) == first.node_id


def test_an_unnamed_node_takes_the_first_free_name(dirs: Directories) -> None:
    one, two, three = (claim_key(dirs) for _ in range(3))
    assert [key.name for key in (one, two, three)] == ["node-1", "node-2", "node-3"]
    two.release()
    with claim_key(dirs) as again:
        assert (again.name, again.node_id) == ("node-2", two.node_id)
    one.release()
    three.release()


def test_a_named_key_in_use_is_refused_and_its_holder_named(dirs: Directories) -> None:
    with claim_key(dirs, name="a"), pytest.raises(KeyInUse) as caught:
        claim_key(dirs, name="a")
    assert f"process {os.getpid()}" in caught.value.message
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_a_copy_of_a_key_in_use_is_refused_as_well(dirs: Directories) -> None:
    with claim_key(dirs, name="a") as key:
        copy = write_key(dirs.keys / "b.key", key.seed)
        with pytest.raises(KeyInUse, match=f"process {os.getpid()}"):
            claim_key(dirs, key_file=copy)


def test_a_key_file_in_use_under_another_home_is_refused(dirs: Directories, tmp_path: Path) -> None:
    other = Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path / "other")})
    with claim_key(dirs, name="a") as key, pytest.raises(KeyInUse, match="another process"):
        claim_key(other, key_file=key.path)


def test_release_may_be_called_twice_and_harms_no_later_holder(dirs: Directories) -> None:
    key = claim_key(dirs, name="a")
    key.release()
    with claim_key(dirs, name="a"):
        key.release()
        with pytest.raises(KeyInUse):
            claim_key(dirs, name="a")


def test_a_refused_claim_leaks_no_descriptor(dirs: Directories) -> None:
    with claim_key(dirs, name="a"):
        before = len(os.listdir("/dev/fd"))
        for _ in range(20):
            with pytest.raises(KeyInUse):
                claim_key(dirs, name="a")
        assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("permissions", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o777])
def test_a_key_that_others_can_reach_is_refused_with_the_remedy(dirs: Directories, permissions: int) -> None:
    path = write_key(dirs.keys / "a.key", bytes(32), permissions)
    with pytest.raises(KeyFileError) as caught:
        claim_key(dirs, name="a")
    assert f"{permissions:04o}" in caught.value.message
    assert caught.value.hint == f"run: chmod 600 {path}"


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 4096])
def test_a_key_of_the_wrong_size_is_refused_and_kept(dirs: Directories, size: int) -> None:
    path = write_key(dirs.keys / "a.key", b"k" * size)
    with pytest.raises(KeyFileError, match="exactly 32 bytes"):
        claim_key(dirs, name="a")
    assert path.read_bytes() == b"k" * size


def test_what_is_no_file_is_refused_at_once(dirs: Directories, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("folder", "pipe", "dangling", "file-less/key"):
        with pytest.raises(KeyFileError) as caught:
            claim_key(dirs, key_file=tmp_path / name)
        assert caught.value.hint, name


def test_a_key_file_may_lie_anywhere_and_is_made_when_missing(dirs: Directories, tmp_path: Path) -> None:
    path = tmp_path / "own.key"
    with claim_key(dirs, key_file=path) as made:
        assert (made.name, made.path, mode(path)) == ("own", path, 0o600)
    with claim_key(dirs, name="other", key_file=path) as again:
        assert (again.name, again.node_id) == ("other", made.node_id)


def test_a_key_file_with_an_impossible_name_still_gets_a_node_name(dirs: Directories, tmp_path: Path) -> None:
    with claim_key(dirs, key_file=tmp_path / ("x" * 60 + ".key")) as key:
        assert key.name == "node"


def test_a_failed_write_leaves_no_key_and_no_rest(dirs: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        claim_key(dirs, name="a")
    assert list(dirs.keys.iterdir()) == []


def test_looking_at_a_key_does_not_claim_it(dirs: Directories) -> None:
    seen = make_or_read_key(dirs, name="a")
    with claim_key(dirs, name="a") as key:
        assert make_or_read_key(dirs, name="a") == seen
        assert (key.node_id, key.path) == (seen.node_id, seen.path)


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a",
        "a/b",
        "a\\b",
        "-a",
        ".hidden",
        " a",
        "a ",
        "a\nb",
        "a\x00b",
        "a\x1b[31m",
        "é" * 21,
    ],
)
def test_a_name_that_could_leave_its_folder_or_break_a_terminal_is_refused(
    dirs: Directories, name: str
) -> None:
    with pytest.raises(UsageError) as caught:
        claim_key(dirs, name=name)
    assert caught.value.exit_code == 2
    assert not dirs.keys.exists() or list(dirs.keys.iterdir()) == []


@settings(deadline=None)  # a busy machine is no failure
@given(name=st.text(max_size=50))
def test_an_accepted_name_is_one_path_component_of_40_bytes(name: str) -> None:
    try:
        check_name(name)
    except UsageError:
        return
    path = Path("/keys") / f"{name}.key"
    assert path.parent == Path("/keys")
    assert os.path.normpath(path) == str(path)
    assert 0 < len(name.encode()) <= identity.MAX_NAME_BYTES


# --- boot numbers ------------------------------------------------------------------------------


def test_a_boot_number_is_the_time_or_one_more_than_the_last(dirs: Directories) -> None:
    with claim_key(dirs, name="a") as key:
        assert [next_boot(key, now_ms) for now_ms in (100, 100, 50, 102, 103)] == [100, 101, 102, 103, 104]


@settings(deadline=None)  # a busy machine is no failure
@given(times=st.lists(st.integers(0, 2**63), min_size=1, max_size=8))
def test_boot_numbers_rise_whatever_the_clock_does(
    tmp_path_factory: pytest.TempPathFactory, times: list[int]
) -> None:
    dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path_factory.mktemp("home"))})
    boots = []
    for now_ms in times:
        with claim_key(dirs, name="a") as key:
            boots.append(next_boot(key, now_ms))
    assert boots == sorted(set(boots))
    assert all(boot >= now_ms for boot, now_ms in zip(boots, times, strict=True))


def test_a_boot_number_is_flushed_before_it_is_returned(
    dirs: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noting(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object) -> object:
            done.append(name)
            return call(*arguments)

        return wrapped

    with claim_key(dirs, name="a") as key:
        monkeypatch.setattr(os, "fsync", noting("fsync", os.fsync))
        monkeypatch.setattr(os, "replace", noting("replace", os.replace))
        boot = next_boot(key, 7)
        assert done == ["fsync", "replace", "fsync"]  # the file, its new name, the folder
        assert key.boot_file.read_bytes() == b"%d\n" % boot


@pytest.mark.parametrize("content", [b"", b"abc", b"-1", b"1.5", b"9" * 40, b"%d" % (2**64 - 1)])
def test_a_boot_counter_that_cannot_be_used_is_one_sentence(dirs: Directories, content: bytes) -> None:
    with claim_key(dirs, name="a") as key:
        next_boot(key, 1)
        key.boot_file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            next_boot(key, 1)
        assert str(key.boot_file) in caught.value.message
        assert caught.value.hint


def test_a_full_disk_keeps_the_old_boot_number(dirs: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    with claim_key(dirs, name="a") as key:
        next_boot(key, 5)

        def full(_fd: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(ConfigError, match="No space left"):
                next_boot(key, 9)
        assert [path.name for path in key.boot_file.parent.iterdir()] == [key.boot_file.name]
        assert next_boot(key, 0) == 6


# --- network secret, allowlist -----------------------------------------------------------------


def test_the_network_secret_is_made_once_beside_the_keys(dirs: Directories) -> None:
    secret = network_secret(dirs)
    assert len(secret) == 32
    assert network_secret(dirs) == secret
    assert mode(dirs.keys / "network.secret") == 0o600


def test_a_secret_that_others_can_read_is_refused(dirs: Directories) -> None:
    network_secret(dirs)
    (dirs.keys / "network.secret").chmod(0o644)
    with pytest.raises(KeyFileError, match="network secret"):
        network_secret(dirs)


def test_an_allowlist_holds_one_node_id_a_line(tmp_path: Path) -> None:
    path = tmp_path / "allowlist"
    path.write_text(
        f"# friends\n\n{NODE_A.hex()}\n  {NODE_B.hex().upper()}  # Bea\r\n{NODE_A.hex()}\n", encoding="utf-8"
    )
    assert read_allowlist(path) == [NODE_A, NODE_B]


@pytest.mark.parametrize("line", ["abc", "zz" * 32, "00" * 33, f"{'00' * 32} {'11' * 32}", "０" * 64])
def test_a_line_that_is_no_node_id_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "allowlist"
    path.write_text(f"{NODE_A.hex()}\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2 of"):
        read_allowlist(path)


def test_an_allowlist_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"#" * (identity.MAX_ALLOWLIST_BYTES + 1))
    for name in ("missing", "binary", "large", "."):
        with pytest.raises(ConfigError, match="allowlist"):
            read_allowlist(tmp_path / name)
