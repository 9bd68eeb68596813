"""The network behind the pages, and a page with what it did: console, requests, refusals."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Locator, Page, expect

from llama_gossip import InferenceNode, load_engine
from llama_gossip.directories import Directories
from llama_gossip.engine.scripted import Script, ScriptedEngine
from llama_gossip.gateway.app import Gateway
from llama_gossip.gateway.keys import Keys
from llama_gossip.gateway.server import Server
from llama_gossip.scope import NodeScope
from tests.live.conftest import eventually

HOSTILE_NAME = "<img src=x onerror=alert(1)>\u202eevil\x1b[2J"
SHOWN_NAME = "<img src=x onerror=alert(1)>evil[2J"
SLOW = "scripted:delay_ms=15"
# Before any script of the page: what its policy kept from running.
WATCH = """
window.kept = [];
document.addEventListener("securitypolicyviolation", (e) => kept.push(e.violatedDirective + e.blockedURI));
"""


@dataclass
class Stage:
    home: Path
    server: Server
    gateway: Gateway
    node: InferenceNode
    workers: list[InferenceNode]

    @property
    def url(self) -> str:
        return self.server.url

    async def away(self) -> None:
        await self.server.stop(0.0)

    async def back(self) -> None:
        self.server = Server(self.gateway.app, "127.0.0.1", int(self.url.rpartition(":")[2]))
        await self.server.start()

    @property
    def nodes(self) -> list[InferenceNode]:
        return [self.node, *self.workers]

    def settled(self, node: InferenceNode) -> bool:
        """It is a neighbour of all others in the topic: what it says as its last word is heard."""
        others = {one.node_id for one in self.nodes} - {node.node_id}
        transport = node._transport
        return transport is not None and others <= set(transport.neighbors())

    def guest(self, name: str, script: Script, model: str = "") -> NodeScope:
        """For one `async with`: a worker. model: its own name when none is given."""
        dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(self.home)})
        return InferenceNode.open(name=name, dirs=dirs, engine=ScriptedEngine(script, name=model or name))


@asynccontextmanager
async def staged(home: Path, *, key: str = "") -> AsyncIterator[Stage]:
    """Two workers, one of them with a hostile name, seen by a gateway. key: the one it demands."""
    dirs = Directories.find({"LLAMA_GOSSIP_HOME": str(home)})
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(InferenceNode.open(name="gateway", dirs=dirs))
        workers = []
        for name in ("worker-1", "hostile"):
            worker = await InferenceNode.spawn(name, engine=load_engine(SLOW), dirs=dirs)
            stack.push_async_callback(worker.shutdown)
            if name == "hostile":
                worker._core._presence._node_name = HOSTILE_NAME
            await worker.join()
            workers.append(worker)
        gateway = Gateway(node, keys=Keys.read(None, key or None), host="127.0.0.1")
        stack.callback(gateway.close)
        one = Stage(home, Server(gateway.app, "127.0.0.1", 0), gateway, node, workers)
        await one.server.start()
        stack.push_async_callback(one.away)
        await eventually(lambda: [p.state for p in node.peers()] == ["ready"] * 2, "both workers are seen")
        await eventually(lambda: all(map(one.settled, one.nodes)), "all hear each other")
        yield one


@dataclass
class Window:
    page: Page
    origin: str
    said: list[str] = field(default_factory=list)  # on the console, and uncaught
    strangers: list[str] = field(default_factory=list)  # requests to elsewhere
    refused: list[str] = field(default_factory=list)  # answers of 400 and above

    @classmethod
    async def opened(cls, page: Page, url: str) -> Window:
        one = cls(page, url)
        page.on("console", lambda message: one.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: one.said.append(f"uncaught: {error}"))
        page.on("dialog", lambda dialog: one.said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: one._asked(request.url))
        page.on("response", lambda answer: one._answered(answer.status, answer.url))
        await page.add_init_script(WATCH)
        await page.goto(url)
        return one

    def _asked(self, url: str) -> None:
        if not url.startswith((f"{self.origin}/", "data:")):
            self.strangers.append(url)

    def _answered(self, status: int, url: str) -> None:
        if status >= 400:
            self.refused.append(f"{status} {url}")

    async def live(self) -> None:
        await expect(self.of("connection")).to_have_text("live", timeout=60_000)

    def of(self, testid: str) -> Locator:
        return self.page.get_by_test_id(testid)

    def peer(self, node: InferenceNode) -> Locator:
        return self.page.locator(f'[data-testid="peer"][data-key="{node.node_id.hex()}"]')

    async def ask(self, text: str) -> None:
        await self.of("message").fill(text)
        await self.of("message").press("Enter")


def longer_than(length: int) -> re.Pattern[str]:
    return re.compile(f".{{{length + 1},}}", re.DOTALL)


Open = Callable[..., Awaitable[Window]]
