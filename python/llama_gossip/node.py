"""InferenceNode: a machine in the network, for notebooks, scripts and the command line.

    async with InferenceNode.open(join=ticket) as node:
        async for token in node.generate("Once upon a time"):
            print(token.text, end="")

It owns what a node consists of (key, transport, core, engine) and ends it in the right order.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llama_gossip import address_book
from llama_gossip.abandoned import abandon
from llama_gossip.answer import Answer
from llama_gossip.assembly import core_of
from llama_gossip.directories import Directories, ensure_private
from llama_gossip.driver import Driver, now
from llama_gossip.engine_slot import EngineSlot
from llama_gossip.errors import TransportError
from llama_gossip.figures import of_engines
from llama_gossip.generation import Generation
from llama_gossip.home_network import HomeNetwork, home_network_of
from llama_gossip.identity import NodeKey, claim_key
from llama_gossip.meters import Meters
from llama_gossip.news import NodeEvent
from llama_gossip.peers import Peer, peer_of
from llama_gossip.protocol import events
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.messages import NodeId, RequestId
from llama_gossip.protocol.network import topic_id
from llama_gossip.scope import NodeScope
from llama_gossip.submission import DEFAULT_RESUME, PromptLike, Sampling, prompt_of, submission
from llama_gossip.telemetry import Telemetry
from llama_gossip.transport import Ticket, Transport, encode_ticket

if TYPE_CHECKING:
    from llama_gossip.engine.base import Engine, EngineInfo, EngineLoad
    from llama_gossip.sync import SyncNode

TICKET_PEERS = 8  # what a ticket holds


class InferenceNode:
    """One node. Make it with `open` (context manager) or `spawn` + `join`; end it with `shutdown`."""

    def __init__(
        self, key: NodeKey, core: Core, dirs: Directories, home: HomeNetwork, meters: Meters
    ) -> None:
        self._key = key
        self._core = core
        self._dirs = dirs
        self._home = home
        self._topic = topic_id(home.secret)
        self.meters = meters
        self._driver = Driver(core, key.node_id, meters)
        self._slot = EngineSlot(self._driver, trusted=home.name == "")
        self._transport: Transport | None = None
        # The topic's public half names the file: the secret must not be guessable from it.
        path = dirs.state / "peers" / f"{key.name}-{self._topic.hex()[:16]}.json"
        self._book = address_book.Book(path, key.node_id)
        self._joining: asyncio.Task[None] | None = None
        self._telemetry: Telemetry | None = None
        self._ended = False

    # --- beginning ---

    @classmethod
    def open(
        cls,
        *,
        name: str | None = None,
        engine: Engine | Sequence[Engine] | None = None,
        join: str | Sequence[str] = (),
        network: str | None = None,
        reach: str = "host",
        key_file: Path | None = None,
        dirs: Directories | None = None,
        allow: Sequence[NodeId] | None = None,
    ) -> NodeScope:
        """A joined node for one `async with`. Arguments as for `spawn`."""
        return NodeScope(
            lambda: cls.spawn(
                name,
                engine=engine,
                join=join,
                network=network,
                reach=reach,
                key_file=key_file,
                dirs=dirs,
                allow=allow,
            )
        )

    @classmethod
    async def spawn(
        cls,
        name: str | None = None,
        *,
        engine: Engine | Sequence[Engine] | None = None,
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
        serves, one or several (`set_engine`). join: tickets, all of one network. network: name of an open
        network. Neither: the user's own. allow: node ids that may connect and be heard (None: every member).
        role: what the others are told (None: worker or client, by what it serves). When this raises, the
        engine is still the caller's, as far as `set_engine` says.
        Raises ConfigError, KeyFileError, TicketError, UsageError, TransportError.
        """
        dirs = dirs or Directories.find()
        home = home_network_of(join, network, dirs)
        key = claim_key(dirs, name=name, key_file=key_file)
        try:
            core, meters = core_of(key, home, allow=allow, role=role, is_open=network is not None)
            node = cls(key, core, dirs, home, meters)
            try:
                await node._bind(reach, allow)
            except BaseException:
                node._ended = True  # there is nothing to shut down
                raise
        except BaseException:
            key.release()
            raise
        if engine is not None:
            try:
                node.set_engine(engine)
            except BaseException:
                await node.shutdown()
                raise
        return node

    async def _bind(self, reach: str, allow: Sequence[NodeId] | None) -> None:
        self._book.read(peer for ticket in self._home.tickets for peer in ticket.peers)
        self._transport = await Transport.bind(
            self._driver.on_transport,
            seed=self._key.seed,
            reach=reach,
            rendezvous_dir=str(ensure_private(self._dirs.runtime / "rendezvous")),
            address_book=self._book.entries,
            allowlist=allow,
        )
        self._driver.transport = self._transport

    async def join(self) -> None:
        """Joins the network's topic and begins to announce. Harmless when repeated. Raises TransportError."""
        transport = self._live_transport()
        if self._joining is None:  # a task of its own: who stops waiting must not leave it half done
            self._joining = asyncio.create_task(self._join(transport), name="llama-gossip join")
        await asyncio.shield(self._joining)

    async def _join(self, transport: Transport) -> None:
        await transport.join(self._topic, self._book.entries)
        self._live_transport()  # a shutdown may have come meanwhile
        self._driver.feed(events.Joined(transport.addresses))
        self._telemetry = Telemetry(self._driver, self._slot)

    def set_engine(self, engine: Engine | Sequence[Engine] | None) -> None:
        """Serves `engine` from now on; the node owns it and closes it at its end. None: a client again.

        Of several engines each serves requests for its own model; all may be in use at once, and the node
        takes as many requests at once as the smallest of their max_concurrent. An engine that served before
        goes on undisturbed; jobs of one that is not among them end at once and are retried by their
        requesters. Raises UsageError for an engine that was closed, serves elsewhere, has too long a name or
        that of another (then nothing has changed, but that of several new ones some may be closed), and
        TransportError after a shutdown.
        """
        self._live_transport()
        engines = () if engine is None else tuple(engine) if isinstance(engine, Sequence) else (engine,)
        self._slot.put(engines)

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
        logprobs: int | None = None,
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
        resume: str = DEFAULT_RESUME,
        delivery: str = "auto",
        visibility: str = "private",
    ) -> Generation:
        """Asks the network; the tokens come by `async for`, and leaving the loop cancels the request.

        prompt: a string is one user message through the model's chat template (raw=True: as it is), a list
        of {"role", "content"} a conversation, a list of ints token ids. model None: any that is offered.
        seed None: drawn. logprobs: alternatives a token, 0 to 20. deadline_s: seconds for the whole answer.
        worker: node id, only that one.
        resume: the least that a continuation by another worker may be: exact, ids (same weights) or text.
        delivery: auto (direct, else sealed over gossip), direct or gossip. visibility: public, all may read.
        Raises UsageError at once; the rest comes out of the iteration (see Generation).
        """
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            stop=stop,
            logprobs=logprobs,
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
            resume=resume,
            delivery=delivery,
            visibility=visibility,
        )
        return self.submit(submit)

    def submit(self, submit: events.Submit) -> Generation:
        """As `generate`, for a request that `submission` has made."""
        self._live_transport()
        self._driver.check_loop()
        return Generation(self._driver.ask(submit), self._cancel)

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
        return [peer_of(view, self._link(view.node_id)) for view in self._core.peers(now())]

    def _link(self, node_id: NodeId) -> tuple[str, float] | None:
        """Path and round trip in ms of the connection to a peer, where there is one."""
        return self._transport.remote_info(node_id) if self._transport is not None else None

    def stats(self) -> dict[str, int]:
        """Counters of the core and of the network layer since the start; `clock_skew_ms`: the others' clocks
        minus this one's. Of a worker besides what it does now: `running`, `queue_depth`, `queue_ms`, `parked`
        and the figures of its engine (`figures.of_engines`)."""
        native = self._transport.stats() if self._transport else {}
        own = {"gossip_lagged": self._driver.lagged, "clock_skew_ms": self._core.skew_ms()}
        engines = of_engines([load for _, load in self._slot.engines()])
        return {**self._core.counters(), **native, **own, **self._core.load(), **engines}

    def engines(self) -> list[tuple[EngineInfo, EngineLoad]]:
        """What it serves with now, and how busy each is."""
        return self._slot.engines()

    def ticket(self) -> str:
        """One line that lets its holder into this network."""
        own = (self.node_id, self.addresses)
        peers = (own, *self._seen())[:TICKET_PEERS]
        return encode_ticket(Ticket(self._home.secret, peers, self._home.name))

    def add_listener(self, listener: Callable[[NodeEvent], None]) -> Callable[[], None]:
        """Calls `listener` with every NodeEvent from now on; the returned function ends that."""
        return self._driver.listen(listener)

    # --- ending ---

    async def drain(self, timeout_s: float = 10.0, reason: str = "draining") -> bool:
        """Takes no new work and finishes what runs. False: time ran out, or a shutdown came, before all of it
        was done. Raises TransportError after a shutdown."""
        self._live_transport()
        self._driver.feed(events.Drain(reason))
        try:
            await asyncio.wait_for(self._driver.drained.wait(), timeout_s)
        except TimeoutError:
            return False
        return not self._ended

    async def shutdown(self, reason: str = "shutdown") -> None:
        """Says goodbye and frees everything, within about four seconds in the worst case. Idempotent."""
        if self._ended:
            return
        self._ended = True
        try:
            await self._say_goodbye(reason)
        finally:
            self._driver.stop()
            try:
                await self._slot.close()
            finally:
                self._key.release()

    async def _say_goodbye(self, reason: str) -> None:
        """Whatever goes wrong, or cancels it, the transport is closed."""
        try:
            if self._telemetry is not None:
                await self._telemetry.stop()
            self._book.write(self._seen())
            self._driver.feed(events.Goodbye(reason))
        finally:
            if self._transport is not None:
                await self._transport.close()
                self._driver.transport = None
            if self._joining is not None:  # it has failed, if it had not ended
                await asyncio.gather(self._joining, return_exceptions=True)

    def _seen(self) -> list[address_book.Entry]:
        """Peers of this run that can be dialled."""
        return [(view.node_id, view.addresses) for view in self._core.peers(now()) if view.addresses]

    def _live_transport(self) -> Transport:
        if self._transport is None or self._ended:
            raise TransportError("this node was shut down", hint="open a new one", code="closed")
        return self._transport

    async def __aenter__(self) -> InferenceNode:
        try:
            await self.join()
        except BaseException:  # nobody will call __aexit__
            await self.shutdown()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    def __del__(self) -> None:
        if getattr(self, "_ended", True):
            return
        self._ended = True
        abandon(self._driver, self._slot, self._telemetry, self._key)
        warnings.warn(f"node {self.name} was never shut down", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<InferenceNode {self.name} {self.node_id.hex()[:10]}>"

    @classmethod
    def sync(cls, **options: object) -> SyncNode:
        """The same node without `await`, for plain scripts and cells. Options as for `open`."""
        from llama_gossip.sync import SyncNode

        return SyncNode(options)
