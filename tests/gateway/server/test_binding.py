"""Where a server may listen, and what is said when it may not."""

from __future__ import annotations

import asyncio
import socket

import pytest

from llama_gossip.errors import ConfigError
from llama_gossip.gateway.binding import bind


@pytest.mark.parametrize("host", ["example.org", "", "*", "127.0.0.1:80", "256.1.1.1"])
def test_what_is_no_address_is_refused_and_never_looked_up(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("somebody was asked"))
    with pytest.raises(ConfigError, match="no address that can be listened on") as caught:
        bind(host, 0)
    assert "127.0.0.1" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("192.0.2.1", 0, "no address of this machine"),  # TEST-NET-1: nobody has it
        ("127.0.0.1", 70000, "70000 is no port"),
        ("127.0.0.1", -1, "-1 is no port"),
    ],
)
def test_what_cannot_be_bound_says_why(host: str, port: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        bind(host, port)
    assert caught.value.hint


def test_a_port_that_needs_privileges_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: socket.socket, _address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)  # whoever runs this may be allowed everything
    with pytest.raises(ConfigError, match="port 80 may not be used by this user") as caught:
        bind("127.0.0.1", 80)
    assert "above 1023" in caught.value.hint


async def test_small_writes_leave_at_once() -> None:
    """Without TCP_NODELAY a reply of two writes waits 40 ms for its client's acknowledgement."""
    undelayed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def look(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        undelayed.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    bound = bind("127.0.0.1", 0)
    async with await asyncio.start_server(look, sock=bound):
        _, writer = await asyncio.open_connection(*bound.getsockname())
        assert await undelayed == 1
        writer.close()
