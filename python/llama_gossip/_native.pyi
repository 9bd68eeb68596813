"""The native boundary: iroh endpoints, gossip and bi-streams. It knows nothing of messages.

Calls never block and never wait: what takes time returns an operation id at once and ends as an
OP_OK or OP_FAILED event. Events come out of `Node.drain()` as tuples whose first element is one of
the EVENT_* numbers below; `Node.fileno()` is readable while events wait.

Units: sizes in bytes, times in milliseconds. Node ids are the 32 bytes of an ed25519 public key.
"""

from typing import Final, final

from typing_extensions import Buffer

class NativeError(Exception):
    """Root of the errors below. `code` is one lower-case word, stable across versions."""

    code: str

class NodeClosedError(NativeError):
    """code closed: the node was closed, or closes."""

class ForkedError(NativeError):
    """code forked: the process forked after its first node; make nodes in the child, after exec or spawn."""

class OversizeError(NativeError):
    """code oversize: the message exceeds what gossip or a stream write takes. Nothing was sent."""

class NotJoinedError(NativeError):
    """code not_joined: no topic has been joined yet, or no neighbour is there to hear it."""

class RateLimitedError(NativeError):
    """code rate_limited: the outbound gossip budget is spent; try again later."""

class UnknownStreamError(NativeError):
    """code unknown_stream: no such stream, or it has ended."""

class ConfigError(NativeError):
    """code config: a value given to `Node` is out of its range; the message names it."""

class TicketError(NativeError):
    """A ticket that cannot be read. code: truncated | checksum | wrong_kind | newer_version | malformed."""

# --- events: (number, ...) -------------------------------------------------------------------
EVENT_OP_OK: Final[int]  # (op, result)          result: None | stream id (open) | list[str] addresses (bind)
EVENT_OP_FAILED: Final[
    int
]  # (op, code, message) code: timeout | no_address | refused | lost | closed | bind | self_dial | not_allowed
EVENT_GOSSIP: Final[int]  # (delivered_from bytes, content bytes)
EVENT_LAG: Final[int]  # (dropped count)           gossip that this process was too slow to take, oldest first
EVENT_NEIGHBOR_UP: Final[int]  # (node_id)
EVENT_NEIGHBOR_DOWN: Final[int]  # (node_id)
EVENT_STREAM_ACCEPTED: Final[int]  # (stream, node_id)  always before the stream's first data
EVENT_STREAM_DATA: Final[int]  # (stream, bytes)   give credit back with `consumed`
EVENT_STREAM_FINISHED: Final[int]  # (stream)      the peer ended its side cleanly; nothing follows
EVENT_STREAM_RESET: Final[int]  # (stream, code)   the peer reset its side; nothing follows
EVENT_STREAM_STOPPED: Final[int]  # (stream, code) the peer reads no more of ours; writes now fail
EVENT_STREAM_LOST: Final[int]  # (stream, reason)  the connection is gone, both sides with it
EVENT_STREAM_WRITABLE: Final[int]  # (stream)      after a `write` that returned False
EVENT_PEER_FOUND: Final[int]  # (node_id, list[str] "ip:port")  from the rendezvous directory
EVENT_PEER_GONE: Final[int]  # (node_id)           its rendezvous entry is gone
EVENT_CLOSED: Final[int]  # (reason)               the last event of a node

MAX_GOSSIP_BYTES: Final[int]  # 60 000: larger broadcasts raise OversizeError
MAX_WRITE_BYTES: Final[int]  # 1 MiB + 64 KiB: the largest single `write`

def versions() -> dict[str, str]:
    """{"native", "iroh", "iroh_gossip", "profile": "debug" | "release"}."""

def public_key(secret_key: Buffer) -> bytes:
    """The node id (32 bytes) of a 32-byte secret key."""

def sign(secret_key: Buffer, message: Buffer) -> bytes:
    """ed25519 signature (64 bytes)."""

def verify(node_id: Buffer, message: Buffer, signature: Buffer) -> bool:
    """Strict verification by the Rust stack; used to cross-check PyNaCl in tests."""

def encode_ticket(secret: Buffer, peers: list[tuple[bytes, list[str]]], network: str = "") -> str:
    """One line `lg1…`: version, network secret (32 bytes), display name (<= 40 B), <= 8 peers with
    their "ip:port" addresses, checksum. Raises ConfigError."""

def decode_ticket(text: str) -> tuple[bytes, list[tuple[bytes, list[str]]], str]:
    """(secret, peers, network) of a ticket; white space around it is ignored. Raises TicketError."""

@final
class Node:
    """One iroh endpoint with its gossip topic and streams. Frozen; usable from one thread at a time."""

    def __new__(
        cls,
        *,
        secret_key: Buffer,
        reach: str = "host",
        alpn: bytes = b"/llama-gossip/1",
        rendezvous_dir: str | None = None,
        address_book: list[tuple[bytes, list[str]]] = ...,
        allowlist: list[bytes] | None = None,
        queue_items: int = 8192,
        queue_bytes: int = 16777216,
        gossip_per_s: int = 50,
        stream_credit: int = 262144,
        connection_credit: int = 4194304,
    ) -> Node:
        """Starts to bind at once; operation id 0 reports it (OP_OK with the bound addresses, or OP_FAILED).

        reach: "host" (127.0.0.1 only). rendezvous_dir: folder, 0700, where nodes of one user on one host
        publish their addresses (one file a node, replaced atomically, removed at close; entries of dead
        processes are ignored and removed). The folder is bound to a topic at `join`.
        address_book: nodes known from earlier, with addresses. allowlist: node ids that may connect or be
        dialled, None = everybody. queue_*: bounds of the event queue; beyond them gossip is dropped
        oldest first and counted (EVENT_LAG), nothing else ever is.
        Raises ConfigError, ForkedError.
        """

    @property
    def node_id(self) -> bytes: ...
    @property
    def addresses(self) -> list[str]:
        """Bound "ip:port" addresses; empty until bound."""

    def fileno(self) -> int:
        """Readable while events wait. -1 after the node has closed."""

    def drain(self, max_events: int = 256) -> list[tuple[object, ...]]:
        """Takes up to max_events waiting events, oldest first. Never blocks. [] after EVENT_CLOSED."""

    # --- gossip ---
    def join(self, topic: Buffer, bootstrap: list[tuple[bytes, list[str]]]) -> int:
        """Subscribes to a 32-byte topic, after a reset-dial of every known peer; bootstrap, address book
        and rendezvous directory together. OP_OK once subscribed (not: once a neighbour is there).
        One topic a node. The maintainer then keeps it joined."""

    def broadcast(self, data: Buffer, urgent: bool = False) -> None:
        """Sends to the topic. urgent goes before what waits and has a reserve of the rate budget.
        Raises OversizeError, NotJoinedError (before `join` has ended, and while there is no neighbour:
        iroh-gossip would lose it silently), RateLimitedError (budget spent, or a stalled peer has the
        topic congested), NodeClosedError."""

    def neighbors(self) -> list[bytes]: ...
    def add_addresses(self, node_id: Buffer, addresses: list[str]) -> None:
        """Adds to the address book. Addresses outside the reach, and what is no address, are ignored:
        they come from peers. The maintainer may dial it."""

    def forget(self, node_id: Buffer) -> None:
        """Removes a node from the address book: the maintainer stops dialling it."""

    def rebuild_gossip(self) -> None:
        """Closes our own gossip connections and rejoins: the cure for a mute outbound side."""

    def set_allowlist(self, allowlist: list[bytes] | None) -> None:
        """Replaces it; connections of nodes that are no longer on it are closed."""

    # --- streams ---
    def open(self, node_id: Buffer, timeout_ms: int = 4000) -> int:
        """Opens a bi-stream, over the cached connection or a new one. OP_OK carries the stream id.
        The peer learns of it with the first write. OP_OK is not yet the peer's consent: one that refuses us
        does so after the handshake, which is EVENT_STREAM_LOST, or OP_FAILED refused on the next open."""

    def write(self, stream: int, data: Buffer) -> bool:
        """Queues data. False: accepted, but wait for EVENT_STREAM_WRITABLE before more.
        Raises OversizeError (larger than MAX_WRITE_BYTES, or False was ignored until 4 of them wait),
        UnknownStreamError (also after `finish`), NodeClosedError."""

    def finish(self, stream: int) -> None:
        """Ends our side after what is queued. Unknown streams are ignored here and below."""

    def reset(self, stream: int, code: int) -> None:
        """Abandons our side: what is queued is dropped, the peer sees EVENT_STREAM_RESET."""

    def stop(self, stream: int, code: int) -> None:
        """Reads no more: the peer sees EVENT_STREAM_STOPPED. No further data events."""

    def consumed(self, stream: int, count: int) -> None:
        """Returns `count` bytes of credit. Without it a stream stops reading after stream_credit bytes,
        all streams of one connection together after connection_credit. A data event that waits to be
        drained costs 256 bytes of credit besides. What a stream still owes is settled by `stop`, and when
        its FINISHED, RESET or LOST has been drained."""

    def trust(self, stream: int) -> None:
        """The connection of this stream has carried its first valid Assign: its limit of 8 open streams
        rises to 1 024 and its bytes leave the budget for strangers."""

    # --- the rest ---
    def stats(self) -> dict[str, int]:
        """Counters: gossip_sent gossip_received gossip_bytes_sent gossip_bytes_received lag rate_limited
        neighbors connections connections_refused streams_open stream_bytes_sent stream_bytes_received
        rejoins redials queue_items queue_bytes."""

    def remote_info(self, node_id: Buffer) -> tuple[str, float] | None:
        """(path "direct" | "relayed", round-trip time in ms) of a live connection, or None."""

    def close(self, timeout_ms: int = 2000) -> int:
        """Leaves gracefully; the operation ends, then EVENT_CLOSED, within timeout_ms. Idempotent: later
        calls return the operation of the first. Finished streams get up to half of the time to arrive."""
