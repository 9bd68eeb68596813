"""InferenceNode: a machine in the network, for notebooks, scripts and the command line.

    async with InferenceNode.open(join=ticket) as node:
        async for token in node.generate("Once upon a time"):
            print(token.text, end="")

It owns what a node consists of (key, transport, core, engine) and ends it in the right order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llama_gossip import address_book
from llama_gossip.answer import Answer
from llama_gossip.directories import Directories, ensure_private
from llama_gossip.driver import Driver, now
from llama_gossip.engine_bridge import EngineBridge
from llama_gossip.errors import TransportError, UsageError
from llama_gossip.generation import Conversation, Generation
from llama_gossip.identity import NodeKey, claim_key, network_secret, next_boot
from llama_gossip.news import NodeEvent
from llama_gossip.peers import Peer, peer_of
from llama_gossip.protocol import events
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.envelope import KeySigner
from llama_gossip.protocol.messages import NodeId, RequestId
from llama_gossip.protocol.network import net_id, open_secret, topic_id
from llama_gossip.submission import PromptLike, Sampling, prompt_of, submission
from llama_gossip.telemetry import Telemetry
from llama_gossip.transport import Ticket, Transport, decode_ticket, encode_ticket
from llama_gossip.version import __version__

if TYPE_CHECKING:
    from llama_gossip.engine.base import Engine
    from llama_gossip.sync import SyncNode

TICKET_PEERS = 8  # what a ticket holds


def _network_of(
    join: Sequence[str], network: str | None, dirs: Directories
) -> tuple[bytes, str, list[Ticket]]:
    """(secret, display name, tickets). Raises TicketError, UsageError, ConfigError."""
    tickets = [decode_ticket(text) for text in join]
    secrets = {ticket.secret for ticket in tickets}
    if network is not None:
        secrets.add(open_secret(network))
    if len(secrets) > 1:
        raise UsageError(
            "the tickets (or --network) belong to different networks",
            hint="a node is in one network: give tickets of one network only",
        )
    if secrets:
        name = network or next((t.network for t in tickets if t.network), "")
        return secrets.pop(), name, tickets
    return network_secret(dirs), "", []


class InferenceNode:
    """One node. Make it with `open` (context manager) or `spawn` + `join`; end it with `shutdown`."""

    def __init__(self, key: NodeKey, core: Core, dirs: Directories, secret: bytes, network: str) -> None:
        self._key = key
        self._core = core
        self._dirs = dirs
        self._secret = secret
        self._network = network
        self._driver = Driver(core, key.node_id)
        self._transport: Transport | None = None
        self._bootstrap: list[address_book.Entry] = []
        self._telemetry: Telemetry | None = None
        self._ended = False

    # --- beginning ---

    @classmethod
    def open(
        cls,
        *,
        name: str | None = None,
        engine: Engine | None = None,
        join: str | Sequence[str] = (),
        network: str | None = None,
        reach: str = "host",
        key_file: Path | None = None,
        dirs: Directories | None = None,
        allow: Sequence[NodeId] | None = None,
    ) -> contextlib.AbstractAsyncContextManager[InferenceNode]:
        """A joined node for one `async with`. Arguments as for `spawn`."""

        @contextlib.asynccontextmanager
        async def scope():  # type: ignore[no-untyped-def]  # typed by the return type of `open`
            node = await cls.spawn(
                name,
                engine=engine,
                join=join,
                network=network,
                reach=reach,
                key_file=key_file,
                dirs=dirs,
                allow=allow,
            )
            try:
                await node.join()
                yield node
            finally:
                await node.shutdown()

        return scope()

    @classmethod
    async def spawn(
        cls,
        name: str | None = None,
        *,
        engine: Engine | None = None,
        join: str | Sequence[str] = (),
        network: str | None = None,
        reach: str = "host",
        key_file: Path | None = None,
        dirs: Directories | None = None,
        allow: Sequence[NodeId] | None = None,
        role: str | None = None,
    ) -> InferenceNode:
        """Claims a key and binds; nothing is said to anybody before `join`.

        name: this node's name and its key's (None: the first free of node-1, node-2, …). engine: what it
        serves. join: tickets, all of one network. network: name of an open network. Neither: the user's own.
        allow: node ids that may connect and be heard (None: every member). role: what the others are told
        (None: worker or client, by what it serves).
        Raises ConfigError, KeyFileError, TicketError, UsageError, TransportError.
        """
        dirs = dirs or Directories.find()
        secret, network_name, tickets = _network_of(
            [join] if isinstance(join, str) else list(join), network, dirs
        )
        key = claim_key(dirs, name=name, key_file=key_file)
        try:
            core = Core(
                signer=KeySigner(key.seed),
                net_id=net_id(secret),
                boot=next_boot(key, now().wall_ms),
                node_name=key.name,
                rng=random.SystemRandom(),
                allowlist=None if allow is None else frozenset(allow),
                version=__version__,
                features=() if role is None else (f"role/{role}",),
                policy=Policy(open_network=network is not None),
            )
            node = cls(key, core, dirs, secret, network_name)
            try:
                await node._bind(reach, tickets, allow)
            except BaseException:
                node._ended = True  # there is nothing to shut down
                raise
        except BaseException:
            key.release()
            raise
        if engine is not None:
            node.set_engine(engine)
        return node

    async def _bind(self, reach: str, tickets: Sequence[Ticket], allow: Sequence[NodeId] | None) -> None:
        book = dict(address_book.read(self._book_path))
        for ticket in tickets:
            book.update({peer: addresses for peer, addresses in ticket.peers if peer != self.node_id})
        book.pop(self.node_id, None)
        self._bootstrap = list(book.items())
        self._transport = await Transport.bind(
            self._driver.on_transport,
            seed=self._key.seed,
            reach=reach,
            rendezvous_dir=str(ensure_private(self._dirs.runtime / "rendezvous")),
            address_book=self._bootstrap,
            allowlist=allow,
        )
        self._driver.transport = self._transport

    async def join(self) -> None:
        """Joins the network's topic and begins to announce. Raises TransportError."""
        transport = self._live_transport()
        await transport.join(topic_id(self._secret), self._bootstrap)
        self._driver.feed(events.Joined(transport.addresses))
        self._telemetry = Telemetry(self._driver)

    def set_engine(self, engine: Engine | None) -> None:
        """Serves `engine` from now on; the node owns it and closes it at its end. None: a client again."""
        if self._driver.bridge is not None:
            self._driver.bridge.close()
            self._driver.bridge = None
        if engine is None:
            self._driver.feed(events.EngineChanged(None))
            return
        bridge = EngineBridge(engine, self._driver.feed)
        bridge.start()
        self._driver.bridge = bridge
        self._driver.feed(events.EngineChanged(bridge.capacity()))

    def announce_loading(self) -> None:
        """Tells the others that a model is on its way; `set_engine` ends it."""
        self._driver.feed(events.EngineChanged(None, loading=True))

    # --- asking ---

    def generate(
        self,
        prompt: PromptLike,
        *,
        model: str | None = None,
        max_tokens: int = 50,
        temperature: float = 0.7,
        top_p: float = 0.9,
        top_k: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        min_p: float = 0.0,
        repetition: float = 1.0,
        presence: float = 0.0,
        frequency: float = 0.0,
        system: str | None = None,
        raw: bool = False,
        priority: int = 5,
        deadline_s: float | None = None,
        worker: str | bytes | None = None,
    ) -> Generation:
        """Asks the network; the tokens come by `async for`, and leaving the loop cancels the request.

        prompt: a string is one user message through the model's chat template (raw=True: as it is), a list
        of {"role", "content"} a conversation, a list of ints token ids. model None: any that is offered.
        seed None: drawn. deadline_s: seconds for the whole answer. worker: node id, only that one.
        Raises UsageError at once; the rest comes out of the iteration (see Generation).
        """
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            stop=stop,
            ignore_eos=ignore_eos,
            min_p=min_p,
            repetition=repetition,
            presence=presence,
            frequency=frequency,
        )
        submit = submission(
            prompt_of(prompt, system=system, raw=raw),
            sampling,
            model=model,
            priority=priority,
            deadline_s=deadline_s,
            worker=worker,
        )
        return self._submit(submit)

    def _submit(self, submit: events.Submit) -> Generation:
        self._live_transport()
        conversation = Conversation(submit.request_id, self._core.take_transcript)
        self._driver.conversations[submit.request_id] = conversation
        self._driver.feed(submit)
        return Generation(conversation, self._cancel)

    async def complete(self, prompt: PromptLike, **options: object) -> Answer:
        """The whole answer at once. Options and errors as for `generate`."""
        return await self.generate(prompt, **options).complete()  # type: ignore[arg-type]  # checked by `generate`

    def cancel(self, request_id: str, reason: str = "cancelled by the user") -> None:
        """Ends a request of this node by its id (32 hex characters). Harmless after its end."""
        self._cancel(RequestId(bytes.fromhex(request_id)), reason)

    def _cancel(self, request_id: RequestId, reason: str) -> None:
        if request_id in self._driver.conversations:
            self._driver.feed(events.CancelRequest(request_id, reason))

    # --- looking ---

    @property
    def node_id(self) -> NodeId:
        return self._key.node_id

    @property
    def name(self) -> str:
        return self._key.name

    @property
    def addresses(self) -> tuple[str, ...]:
        """Own "ip:port" addresses."""
        return self._transport.addresses if self._transport else ()

    def peers(self) -> list[Peer]:
        """Who is in the network, this node not counted."""
        return [peer_of(view) for view in self._core.peers(now())]

    def stats(self) -> dict[str, int]:
        """Counters of the core and of the network layer since the start."""
        native = self._transport.stats() if self._transport else {}
        return {**self._core.counters(), **native, "gossip_lagged": self._driver.lagged}

    def ticket(self) -> str:
        """One line that lets its holder into this network."""
        own = (self.node_id, self.addresses)
        others = [(view.node_id, view.addresses) for view in self._core.peers(now()) if view.addresses]
        return encode_ticket(Ticket(self._secret, (own, *others)[:TICKET_PEERS], self._network))

    def add_listener(self, listener: Callable[[NodeEvent], None]) -> Callable[[], None]:
        """Calls `listener` with every NodeEvent from now on; the returned function ends that."""
        self._driver.listeners.append(listener)
        return lambda: self._driver.listeners.remove(listener)

    # --- ending ---

    async def drain(self, timeout_s: float = 10.0, reason: str = "draining") -> bool:
        """Takes no new work and finishes what runs. False: time ran out before all of it was done."""
        self._driver.feed(events.Drain(reason))
        try:
            await asyncio.wait_for(self._driver.drained.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def shutdown(self, reason: str = "shutdown") -> None:
        """Says goodbye and frees everything, within about four seconds in the worst case. Idempotent."""
        if self._ended:
            return
        self._ended = True
        try:
            await self._say_goodbye(reason)
        finally:
            self._driver.stop()
            if self._driver.bridge is not None:
                await asyncio.to_thread(self._driver.bridge.close)
            self._key.release()

    async def _say_goodbye(self, reason: str) -> None:
        if self._telemetry is not None:
            await self._telemetry.stop()
        address_book.write(self._book_path, self._met())
        self._driver.feed(events.Goodbye(reason))
        if self._transport is not None:
            await self._transport.close()
            self._driver.transport = None

    def _met(self) -> list[address_book.Entry]:
        """Newest first; what an earlier run knew stays behind them."""
        seen = {v.node_id: v.addresses for v in self._core.peers(now()) if v.addresses}
        return list({**seen, **{i: a for i, a in self._bootstrap if i not in seen}}.items())

    @property
    def _book_path(self) -> Path:
        """The topic's public half names the file: the secret must not be guessable from it."""
        return self._dirs.state / "peers" / f"{self.name}-{topic_id(self._secret).hex()[:16]}.json"

    def _live_transport(self) -> Transport:
        if self._transport is None or self._ended:
            raise TransportError("this node was shut down", hint="open a new one", code="closed")
        return self._transport

    async def __aenter__(self) -> InferenceNode:
        await self.join()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            warnings.warn(f"node {self.name} was never shut down", ResourceWarning, source=self, stacklevel=2)
            self._key.release()

    def __repr__(self) -> str:
        return f"<InferenceNode {self.name} {self.node_id.hex()[:10]}>"

    @classmethod
    def sync(cls, **options: object) -> SyncNode:
        """The same node without `await`, for plain scripts and cells. Options as for `open`."""
        from llama_gossip.sync import SyncNode

        return SyncNode(options)
