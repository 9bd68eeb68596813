"""Which models the gateway lists: those that can be asked for now."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_gossip import load_engine
from tests.live.conftest import eventually

from .staging import Stage, staged

pytestmark = pytest.mark.live


async def listed(stage: Stage) -> list[str]:
    return [model["id"] for model in (await stage.http.get("/v1/models")).json()["data"]]


async def test_a_worker_that_leaves_or_loads_is_not_asked_for(tmp_path: Path) -> None:
    async with staged(tmp_path, ["scripted"]) as stage:
        (worker,) = stage.workers
        assert await listed(stage) == ["scripted"]
        worker.set_engine(None)
        worker.announce_loading()
        await eventually(lambda: stage.node.peers()[0].state == "loading", "the worker loads")
        assert await listed(stage) == []
        assert (await stage.http.get("/readyz")).status_code == 503
        worker.set_engine(load_engine("scripted"))
        await eventually(lambda: stage.node.peers()[0].state == "ready", "the worker is ready again")
        assert await listed(stage) == ["scripted"]
        assert (await stage.http.get("/readyz")).status_code == 200
        await worker.drain()
        await eventually(lambda: stage.node.peers()[0].state == "draining", "the worker leaves")
        assert stage.node.peers()[0].models == ("scripted",)
        assert await listed(stage) == []


async def test_its_own_model_is_listed_too_and_each_name_once(tmp_path: Path) -> None:
    async with staged(tmp_path, ["scripted"]) as stage:
        stage.node.set_engine([load_engine("scripted"), load_engine("paced:1")])
        assert await listed(stage) == ["paced", "scripted"]
        reply = await stage.chat(model="paced")
        assert reply.headers["x-llama-gossip-worker"] == stage.node.node_id.hex()
