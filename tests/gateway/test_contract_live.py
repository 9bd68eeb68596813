"""The contract's rows with two live workers, and all again while the worker that serves them is killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial

import httpx2
import pytest

from tests.cli.cli_process import READY_S
from tests.gateway.contract_rows import ROWS, TOKENS, Row, Told, told_by_stream, told_by_whole
from tests.gateway.network_process import Network, network
from tests.live.conftest import eventually

pytestmark = pytest.mark.live

ENGINE = "scripted:delay_ms=20"
WIDE = ("--max-concurrent", "32")  # nothing waits for a slot
SOME_EVENTS = 5  # of a choice: it has begun, and far more will follow
CALM_TRIES = 3
ROUNDS = 10  # a round strikes the rows of one worker: about half of those that are left


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("contract"), [ENGINE, ENGINE], WIDE) as one:
        yield one


@pytest.fixture(scope="module")
def calm(net: Network) -> dict[str, Told]:
    """What each row is answered when nothing happens."""
    told = asyncio.run(ask_all(net, list(ROWS)))
    for _ in range(CALM_TRIES):  # a machine that stands still for seconds makes faults of its own
        disturbed = [row for row in ROWS if set(told[row.name].attempts) != {1}]
        if disturbed:
            told |= asyncio.run(ask_all(net, disturbed))
    return told


@pytest.fixture(scope="module")
def struck(net: Network, calm: dict[str, Told]) -> dict[str, Told]:
    """The same of rows that lost their worker in mid-answer."""
    return asyncio.run(strike_all(net))


Begun = Callable[[str], object]  # told the name of a row that streams, once some of it has come


async def ask_all(net: Network, rows: list[Row], begun: Begun = id) -> dict[str, Told]:
    """All at once, so that both workers have some."""
    async with httpx2.AsyncClient(base_url=net.url, timeout=READY_S, trust_env=False) as http:
        told = await asyncio.gather(*(ask(http, row, begun) for row in rows))
    return {row.name: one for row, one in zip(rows, told, strict=True)}


async def ask(http: httpx2.AsyncClient, row: Row, begun: Begun) -> Told:
    text = ""
    async with http.stream("POST", row.path, json=row.body) as reply:
        async for part in reply.aiter_text():
            text += part
            if row.stream and text.count("data: ") > SOME_EVENTS * row.choices:
                begun(row.name)
    assert reply.status_code == 200, text
    assert reply.headers["x-request-id"]
    if row.stream:
        assert reply.headers["content-type"].startswith("text/event-stream")
        return told_by_stream(row, text)
    return told_by_whole(row, json.loads(text))


async def strike_all(net: Network) -> dict[str, Told]:
    """Round by round: the worker that has most of what is left is killed, and another takes its place."""
    left, struck = list(ROWS), dict[str, Told]()
    for number in range(ROUNDS):
        running = set[str]()
        asking = asyncio.create_task(ask_all(net, left, running.add))
        await eventually(partial(all_run, net, left, running), "all rows are being answered")
        requests = net.open_requests()
        print({worker[:6]: len(open_ones) for worker, open_ones in requests.items()})
        net.kill(max(requests, key=lambda worker: len(requests[worker])))
        told = await asking
        struck |= {name: one for name, one in told.items() if max(one.attempts) > 1}
        left = [row for row in left if row.name not in struck]
        print(f"round {number + 1}: {len(left)} rows are left")
        if not left:
            return struck
        await asyncio.to_thread(net.start, ENGINE)
    pytest.fail(f"never struck: {[row.name for row in left]}")


def all_run(net: Network, rows: list[Row], running: set[str]) -> bool:
    """Each has its worker, and those that stream have shown something of it."""
    accepted = sum(map(len, net.open_requests().values()))
    return accepted == sum(row.choices for row in rows) and running >= {
        row.name for row in rows if row.stream
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_holds(row: Row, calm: dict[str, Told], net: Network) -> None:
    told = calm[row.name]
    assert told.finish_reasons == ("length",) * row.choices
    assert all(told.texts)
    assert len(set(told.texts)) == row.choices
    assert set(told.attempts) == {1}
    if told.usage is not None:
        assert told.usage["completion_tokens"] == TOKENS * row.choices
    if row.asks.get("logprobs"):
        assert all(told.logprobs)


def test_both_workers_had_some_of_the_rows(calm: dict[str, Told]) -> None:
    assert len({worker for told in calm.values() for worker in told.workers}) == 2


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_holds_when_its_worker_is_killed(
    row: Row, calm: dict[str, Told], struck: dict[str, Told]
) -> None:
    assert struck[row.name] == calm[row.name]  # every word, count and log probability
    assert max(struck[row.name].attempts) >= 2
