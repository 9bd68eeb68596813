"""Binding: the socket that a server listens on. The law: an address is a number, never a name to be looked
up, so nobody is asked anything; what cannot be bound is one sentence and a remedy."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import TypeAlias

from llama_gossip.errors import ConfigError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

LOCALHOST = "127.0.0.1"
HINT = f"give an IP address of this machine: {LOCALHOST} is for this host only, 0.0.0.0 is all of them"


def address_of(host: str) -> Address:
    """The address that `host` names: an IP address, or localhost. Raises ConfigError."""
    try:
        return ipaddress.ip_address(LOCALHOST if host == "localhost" else host.strip("[]"))
    except ValueError:
        raise ConfigError(
            f"{host!r} is no address that can be listened on",
            hint=HINT,
        ) from None


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, not yet listening; port 0 takes any free one. Raises ConfigError."""
    address = address_of(host)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        # asyncio turns Nagle's algorithm off only where the protocol is named: without, 40 ms a reply.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigError(f"this machine has no IPv{address.version}: {error.strerror}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for TIME_WAIT
        bound.setblocking(False)
        bound.bind((str(address), port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise _refusal(error, address, port) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Where a program on this host reaches it: loopback, when it is bound to every address."""
    host, port = bound.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        address = ipaddress.ip_address(LOCALHOST if address.version == 4 else "::1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


def _refusal(error: OSError | OverflowError, address: Address, port: int) -> ConfigError:
    other = "choose another port; 0 takes any that is free"
    if isinstance(error, OverflowError):
        return ConfigError(f"{port} is no port", hint="a port is a number from 0 to 65535")
    match error.errno:
        case errno.EADDRINUSE:
            return ConfigError(f"port {port} of {address} is in use by another program", hint=other)
        case errno.EACCES | errno.EPERM:
            return ConfigError(f"port {port} may not be used by this user", hint=f"{other}, or is above 1023")
        case errno.EADDRNOTAVAIL:
            return ConfigError(
                f"{address} is no address of this machine",
                hint=HINT,
            )
        case _:
            return ConfigError(f"cannot listen on {address} port {port}: {error.strerror}", hint=other)
