"""Reach `host`: nothing is sent to where no loopback address leads, whoever names the address."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from helpers import OpFailed, Peer

from llama_gossip import _native as native

STRANGE_KEY = bytes([7]) * 32
STRANGER = native.public_key(STRANGE_KEY)


@contextmanager
def listener(host: str) -> Iterator[socket.socket]:
    """A UDP socket that only notes whether anything arrives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((host, 0))
        udp.setblocking(False)
        yield udp


def arrived(udp: socket.socket) -> bool:
    try:
        udp.recv(65_536)
    except BlockingIOError:
        return False
    return True


def dial_code(peer: Peer, timeout_ms: int) -> str:
    with pytest.raises(OpFailed) as caught:
        peer.done(peer.node.open(STRANGER, timeout_ms))
    return caught.value.code


def spellings(port: int) -> list[str]:
    """Addresses that end at a socket of this very host, none of them by the loopback's own name."""
    return [f"0.0.0.0:{port}", f"[::]:{port}", f"[::ffff:127.0.0.1]:{port}"]


def test_an_address_that_is_no_loopback_is_never_dialled(make: Callable[..., Peer]) -> None:
    with listener("127.0.0.1") as udp:
        port = udp.getsockname()[1]
        outside = [*spellings(port), f"192.0.2.1:{port}", "224.0.0.251:5353", f"[2001:db8::1]:{port}"]
        ticket = native.encode_ticket(bytes(32), [(STRANGER, outside[:8])])
        _, contacts, _ = native.decode_ticket(ticket)
        peer = make(address_book=contacts)
        peer.join(contacts)  # a ticket's peers are reset-dialled here
        peer.node.add_addresses(STRANGER, outside)  # an announce's
        assert dial_code(peer, 4000) == "no_address", "refused at once, not after a dial"
        assert not arrived(udp)
        # The same socket by its loopback name: that the listener would have noticed a dial.
        peer.node.add_addresses(STRANGER, [f"127.0.0.1:{port}"])
        assert dial_code(peer, 500) == "timeout"
        assert arrived(udp)


def test_the_system_sends_nothing_from_a_loopback_socket_to_elsewhere() -> None:
    # What a neighbour tells iroh-gossip itself never passes our filter: this is the line behind it.
    with listener("127.0.0.1") as udp, pytest.raises(OSError, match=r"Invalid argument|unreachable"):
        udp.sendto(b"x", ("192.0.2.1", 9))
