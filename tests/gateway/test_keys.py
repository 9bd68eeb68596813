"""The gateway's keys: what a file may hold, who is found, how often somebody may ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_gossip.errors import ConfigError
from llama_gossip.gateway.keys import ANYBODY, MAX_FILE_BYTES, MAX_KEYS, Allowance, Keys

FILE = """
# the team
alice : s3cret-a : 9 : 60
bob:s3cret-b:2

carol:s3cret-c
dave:s3cret-d::0.5
"""


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    path = tmp_path / "keys"
    path.write_text(FILE)
    return Keys.read(path, "from-the-environment")


@pytest.mark.parametrize(
    ("authorization", "name"),
    [
        ("Bearer s3cret-a", "alice"),
        ("bearer s3cret-b", "bob"),
        ("BEARER   s3cret-c", "carol"),
        ("Bearer from-the-environment", "environment"),
    ],
)
def test_the_header_finds_its_key_whatever_the_case_of_its_scheme(
    keys: Keys, authorization: str, name: str
) -> None:
    found = keys.find(authorization)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "s3cret-a",
        "Basic s3cret-a",
        "Bearer s3cret",
        "Bearer S3CRET-A",
        "Bearer é",
    ],
)
def test_what_is_no_key_finds_nobody(keys: Keys, authorization: str | None) -> None:
    assert keys.find(authorization) is None


def test_priority_and_rate_may_be_left_out(keys: Keys) -> None:
    priorities = {key.name: key.priority for key in keys.keys}
    assert priorities == {"alice": 9, "bob": 2, "carol": 9, "dave": 9, "environment": 9}
    assert [key.name for key in keys.keys if key.allowance is not None] == ["alice", "dave"]


def test_without_keys_everybody_is_let_in() -> None:
    keys = Keys.read(None, "")
    assert not keys
    assert keys.find(None) is keys.find("Bearer whatever") is ANYBODY


def test_no_key_shows_in_a_repr(keys: Keys) -> None:
    assert "s3cret" not in repr(keys)
    assert all(key.digest.hex() not in repr(keys) and repr(key.digest) not in repr(keys) for key in keys.keys)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("alice\n", "line 1"),
        ("\n:secret\n", "line 2"),
        ("alice:\n", "line 1"),
        ("alice:se cret\n", "line 1"),
        ("alice:sécret\n", "line 1"),
        ("alice:secret:10\n", "priority in line 1"),
        ("alice:secret:-1\n", "priority in line 1"),
        ("alice:secret:5:0\n", "rate in line 1"),
        ("alice:secret:5:fast\n", "rate in line 1"),
        ("alice:secret:5:inf\n", "rate in line 1"),
        ("alice:secret:5:60:more\n", "line 1"),
        ("alice:secret\nalice:other\n", "line 2"),
        ("alice:secret\nbob:secret\n", "line 2"),
    ],
)
def test_a_bad_file_is_refused_by_its_line_and_no_key_is_told(
    content: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        Keys.read(path, None)
    assert told in caught.value.message
    assert caught.value.hint
    assert "cret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Keys.read(tmp_path / "nowhere", None)
    (tmp_path / "binary").write_bytes(b"alice:\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        Keys.read(tmp_path / "binary", None)


def test_a_file_may_be_only_so_large(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    lines = [f"name-{number}:secret-{number}" for number in range(MAX_KEYS + 1)]
    path.write_text("\n".join(lines[:-1]))
    assert len(Keys.read(path, None).keys) == MAX_KEYS
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 1000 keys"):
        Keys.read(path, None)
    path.write_text("#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="is larger than"):
        Keys.read(path, None)


def test_an_allowance_is_used_up_and_comes_back_with_time() -> None:
    allowance = Allowance(60)  # one a second, sixty at once
    assert [allowance.take(100.0) for _ in range(60)] == [0.0] * 60
    assert allowance.take(100.0) == pytest.approx(1.0)
    assert allowance.take(100.5) == pytest.approx(0.5)
    assert allowance.take(101.0) == 0.0
    assert allowance.take(101.0) > 0
    assert [allowance.take(1e6) for _ in range(61)][-1] > 0, "a long pause saves up no more than a minute's"


def test_a_rate_below_one_a_minute_lets_the_first_pass() -> None:
    allowance = Allowance(0.5)
    assert allowance.take(0.0) == 0.0
    assert allowance.take(0.0) == pytest.approx(120.0)
