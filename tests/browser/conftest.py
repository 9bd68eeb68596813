"""One Chromium for all browser tests; for each module a gateway and two workers; pages that keep a record.

LLAMA_GOSSIP_CHROMIUM names the browser where it is not the system's; LLAMA_GOSSIP_SCREENSHOTS a folder to
which the pages are drawn.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from .staging import Open, Stage, Window, staged

ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update")
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 60_000.0  # only a failure waits so long


def chromium() -> str:
    """Where it is. Without one the tests are skipped, and fail under CI."""
    named = os.environ.get("LLAMA_GOSSIP_CHROMIUM")
    found = (
        named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )
    if found is None:
        sentence = (
            "the dashboard is tested in Chromium, which is not here: install it (Debian: apt-get install"
            " chromium), or name it in LLAMA_GOSSIP_CHROMIUM"
        )
        pytest.skip(sentence)
    return found


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    async with async_playwright() as playwright:
        one = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield one
        await one.close()


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("home")) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("keyed"), key="open-sesame-1234") as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def window(browser: Browser) -> AsyncIterator[Open]:
    """window(url, width=1280, scheme="light", **options) opens a page of its own and keeps its record."""
    async with AsyncExitStack() as stack:

        async def opened(url: str, *, width: int = 1280, scheme: str = "light", **options: object) -> Window:
            context = await browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,  # type: ignore[arg-type]
                **options,  # type: ignore[arg-type]
            )
            stack.push_async_callback(context.close)
            context.set_default_timeout(PATIENCE_MS)
            return await Window.opened(await context.new_page(), url)

        yield opened


@pytest.fixture(scope="session")
def screenshots() -> Path | None:
    folder = os.environ.get("LLAMA_GOSSIP_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) if folder else None
