"""Which names and addresses are loopback."""

from __future__ import annotations

import pytest

from llama_gossip.gateway.access import is_loopback_name


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8411", "127.0.0.1:1", "127.8.9.1", "[::1]:80", "[::1]"]
)
def test_loopback_has_these_names(host: str) -> None:
    assert is_loopback_name(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "192.168.0.1",
        "127.0.0.1.evil.example",
        "[::2]",
        "[",
        "::1]",
    ],
)
def test_other_names_are_no_loopback(host: str) -> None:
    assert not is_loopback_name(host)
