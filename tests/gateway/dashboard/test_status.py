"""/api/status: the contract with whoever reads it, and what is kept from those who may not."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from llama_gossip import NoWorkers
from llama_gossip.errors import ModelUnavailable
from llama_gossip.gateway.status import WORKER_SILENT_S, peer_row
from llama_gossip.news import RequestAnswered
from llama_gossip.peers import Peer
from llama_gossip.transport import decode_ticket
from llama_gossip.version import __version__

from .staging import Stage, staged

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]

# the promise to programs, written down a second time on purpose
WHOLE = "version node network peers requests served log ticket"
NODE = "node_id name role models device running queue_depth max_concurrent addresses uptime_s"
NETWORK = (
    "peers ready_workers models running max_concurrent queue_depth requests under_way failovers"
    " tokens_per_s made_tokens_per_s throughput made_throughput"
)
REQUEST = (
    "request_id asked_ms model worker worker_name outcome tokens prompt_tokens first_token_ms total_ms"
    " attempts failovers delivery"
)
HOSTILE = Peer(
    node_id="ab" * 32,
    name="\x1b[31m<script>\u202e\n",
    role="worker",
    state="ready",
    models=("<img src=x>\u2066", "b"),
    device="cpu\x00",
    tokens_per_s=9.54,
    queue_depth=1,
    running=2,
    max_concurrent=8,
    memory_free=1,
    last_seen_s=WORKER_SILENT_S + 0.1,
    addresses=("127.0.0.1:1\r",),
    version="0.1.0\x9b",
    path="direct",
    rtt_ms=0.44,
)


async def test_the_status_has_exactly_the_promised_fields(stage: Stage) -> None:
    await stage.node.complete("Hello", max_tokens=3)
    told = await stage.status()
    assert list(told) == WHOLE.split()
    assert list(told["node"]) == NODE.split()
    assert list(told["network"]) == NETWORK.split()
    assert list(told["peers"][0]) == [*(field.name for field in fields(Peer)), "silent"]
    assert list(told["requests"][-1]) == REQUEST.split()
    assert told["version"] == __version__
    assert (told["node"]["name"], told["node"]["role"]) == ("gateway", "client")
    assert told["node"]["node_id"] == stage.node.node_id.hex()


async def test_a_peer_is_told_as_peers_tells_it(stage: Stage) -> None:
    (row,) = (await stage.status())["peers"]
    (peer,) = stage.node.peers()
    assert {name: row[name] for name in ("node_id", "name", "role", "state", "device", "version")} == {
        "node_id": stage.worker.node_id.hex(),
        "name": "worker-1",
        "role": "worker",
        "state": "ready",
        "device": peer.device,
        "version": __version__,
    }
    assert (row["models"], row["max_concurrent"], row["silent"]) == (["scripted"], 8, False)


async def test_the_network_is_the_sum_of_its_ready_workers(stage: Stage) -> None:
    network = (await stage.status())["network"]
    assert (network["peers"], network["ready_workers"], network["models"]) == (1, 1, ["scripted"])
    assert (network["running"], network["max_concurrent"]) == (0, 8)
    assert len(network["throughput"]) == 60


async def test_a_request_is_told_with_its_worker_tokens_and_outcome(stage: Stage) -> None:
    before = (await stage.status())["network"]["requests"]
    answer = await stage.node.complete("Hello", max_tokens=7, seed=1)
    told = await stage.status()
    row = told["requests"][-1]
    assert row["request_id"] == answer.request_id
    assert (row["worker"], row["worker_name"]) == (stage.worker.node_id.hex(), "worker-1")
    assert (row["tokens"], row["outcome"], row["failovers"]) == (7, "length", 0)
    assert row["first_token_ms"] <= row["total_ms"]
    assert told["network"]["requests"] == before + 1
    assert told["network"]["under_way"] == 0
    assert told["log"][-1]["kind"] == "answered"


async def test_a_failure_is_told_with_its_code(stage: Stage) -> None:
    with pytest.raises((ModelUnavailable, NoWorkers)) as caught:
        await stage.node.complete("Hello", model="nobody-has-it")
    told = await stage.status()
    assert (told["requests"][-1]["outcome"], told["requests"][-1]["worker"]) == (caught.value.code, "")
    assert told["log"][-1]["kind"] == "failed"


async def test_the_ticket_is_of_this_network(stage: Stage) -> None:
    ticket = (await stage.status())["ticket"]
    assert decode_ticket(ticket).secret == decode_ticket(stage.node.ticket()).secret


async def test_it_is_fresh_and_of_its_type(stage: Stage) -> None:
    reply = await stage.http.get("/api/status")
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-cache, no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_with_keys_neither_page_nor_status_gives_a_way_past_them(tmp_path: Path) -> None:
    async with staged(tmp_path / "home", keyed=True) as stage:
        told = await stage.status()
        assert told["ticket"] is None
        page = (await stage.http.get("/")).text
        for word in ("worker-1", stage.node.node_id.hex()[:10], "scripted", "lg1"):
            assert word not in page
        assert 'data-access="keyed"' in page


async def test_after_close_the_node_is_watched_no_more(tmp_path: Path) -> None:
    async with staged(tmp_path / "home") as stage:
        stage.dashboard.close()
        await stage.node.complete("Hello", max_tokens=3)
        assert (await stage.status())["requests"] == []


async def test_what_a_hostile_peer_says_is_cleaned_and_overdue_it_is_silent() -> None:
    row = peer_row(HOSTILE)
    assert (row["name"], row["device"], row["version"]) == ("[31m<script>", "cpu", "0.1.0")
    assert row["models"] == ["<img src=x>", "b"]
    assert row["addresses"] == ["127.0.0.1:1"]
    assert row["silent"]
    assert (row["tokens_per_s"], row["rtt_ms"]) == (9.5, 0.4)
    json.dumps(row)


async def test_the_promise_names_what_the_news_tell() -> None:
    """One word for one thing: a field of the row is a field of RequestAnswered, but for two of our own."""
    own = {"asked_ms", "worker_name"}
    assert set(REQUEST.split()) - own == {field.name for field in fields(RequestAnswered)}
