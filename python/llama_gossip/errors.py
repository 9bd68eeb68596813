"""Every failure a user can meet, as one tree. Each says whose fault, what happened, and what to do.

    LlamaGossipError            exit 1   a bug, or an error nobody classified
    ├── UsageError              exit 2   the caller asked for something impossible
    ├── ConfigError             exit 3   a file, key, ticket or directory is wrong
    │   └── KeyFileError
    │   └── TicketError
    ├── NoWorkers               exit 4   nobody serves it
    ├── ModelUnavailable        exit 4   weights cannot be had or read
    ├── PeerFailed              exit 5   the other side failed, after every retry
    ├── RequestTimeout          exit 6   the deadline passed
    ├── Cancelled               exit 130 somebody asked for the end
    ├── EngineError             exit 1   the model failed on this node
    ├── TransportError          exit 3   the network below us failed
    └── ProtocolError           exit 5   bytes of a peer that are no valid message

`code` is one lower-case word for programs, `hint` one sentence for people, `http_status` what a gateway
answers, `retryable` whether the same request may succeed elsewhere or later.
"""

from __future__ import annotations

from typing import ClassVar


class LlamaGossipError(Exception):
    """Root of all errors raised by this package.

    Attributes: message (one sentence), hint (what to do, or ""), code, exit_code, http_status, retryable.
    """

    code: str = "internal"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retryable: bool = False

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(LlamaGossipError):
    code = "usage"
    exit_code = 2
    http_status = 400


class ConfigError(LlamaGossipError):
    code = "config"
    exit_code = 3


class KeyFileError(ConfigError):
    code = "key"


class TicketError(ConfigError):
    code = "ticket"


class NoWorkers(LlamaGossipError):
    code = "no_workers"
    exit_code = 4
    http_status = 503
    retryable = True


class ModelUnavailable(LlamaGossipError):
    code = "model"
    exit_code = 4
    http_status = 404


class PeerFailed(LlamaGossipError):
    code = "peer_failed"
    exit_code = 5
    http_status = 502
    retryable = True


class RequestTimeout(LlamaGossipError):
    code = "timeout"
    exit_code = 6
    http_status = 504
    retryable = True


class Cancelled(LlamaGossipError):
    code = "cancelled"
    exit_code = 130
    http_status = 499


class EngineError(LlamaGossipError):
    code = "engine"
    exit_code = 1


class TransportError(LlamaGossipError):
    code = "transport"
    exit_code = 3
    http_status = 503
    retryable = True


class ProtocolError(LlamaGossipError):
    code = "protocol"
    exit_code = 5
    http_status = 502
