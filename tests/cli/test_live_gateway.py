"""`gateway`, `hybrid --http` and `--metrics-port` as users run them: processes on loopback."""

from __future__ import annotations

import http.client
import json
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.cli_process import READY_S, Running, look, objects
from tests.support.programs import program

pytestmark = pytest.mark.live

SECRET = "sk-never-shown"
JSON = {"content-type": "application/json"}


def gateway(home: Path, *more: str, **env: str) -> Running:
    return Running(home, "gateway", "--port", "0", *more, **env)


def worker(home: Path, *more: str, model: str = "scripted") -> Running:
    return Running(home, "worker", "--json", "--model", model, *more)


def asked(*, stream: bool = False, **more: object) -> str:
    messages = [{"role": "user", "content": "Hello"}]
    return json.dumps({"messages": messages, "seed": 7, "stream": stream, "max_tokens": 8, **more})


@contextmanager
def sent(url: str, path: str, body: str | None = None, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """The reply to a GET, or to a POST of JSON, while it comes."""
    at = urlsplit(url)
    assert at.hostname is not None
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=READY_S)
    try:
        connection.request("GET" if body is None else "POST", path, body, JSON | headers)
        yield connection.getresponse()
    finally:
        connection.close()


def reply(url: str, path: str, body: str | None = None, **headers: str) -> tuple[int, Any]:
    with sent(url, path, body, **headers) as response:
        return response.status, json.loads(response.read())


def test_a_gateway_says_where_it_listens_answers_and_leaves_in_order(home: Path) -> None:
    with worker(home) as serving, gateway(home, "--json") as front:
        serving_id = serving.event("ready")["node_id"]
        ready = front.event_so_far("ready")
        assert list(ready)[2:] == ["node_id", "name", "role", "ticket", "models", "device", "reach", "url"]
        assert (ready["role"], ready["models"], ready["reach"]) == ("gateway", ["scripted"], "host")
        assert front.event_so_far("peer_up", node_id=serving_id)["models"] == ["scripted"]
        assert reply(ready["url"], "/healthz")[0] == 200
        status, answer = reply(ready["url"], "/v1/chat/completions", asked(model="scripted"))
        assert (status, answer["usage"]["completion_tokens"]) == (200, 8)
        assert serving.event("request")["requester"] == ready["node_id"]
        front.signal(signal.SIGTERM)
        assert front.wait() == 0
        assert front.events()[-1]["event"] == "shutdown"
        assert front.events()[-1]["reason"] == "terminated"
        assert front.errors == []


def test_a_gateway_without_workers_is_ready_all_the_same_and_says_what_is_missing(home: Path) -> None:
    with gateway(home) as front:
        assert "gateway node-1 is ready" in front.line()
        told = [front.line() for _ in range(4)]
        url = told[0].split()[1].removesuffix("/v1")
        assert url.startswith("http://127.0.0.1:")
        assert f"{url}/  (dashboard)" in told[1]
        assert "llama-gossip worker" in told[2]
        assert f"curl {url}/v1/chat/completions" in told[3]
        assert reply(url, "/readyz")[0] == 503
        seen = look(home, "peers", "--json", sees="node-1")
        assert [row["role"] for row in objects(seen.stdout)] == ["client"]  # on the wire
        front.signal(signal.SIGINT)
        assert front.wait() == 0
        assert "has left" in front.lines[-1]


def test_the_next_command_that_a_gateway_prints_works(home: Path, tmp_path: Path) -> None:
    curl = program("curl")
    with worker(home, model="scripted:stop_after=5") as serving:
        serving.event("ready")
        with gateway(home) as front:
            line = front.line_with("  next ")
            words = shlex.split(line.partition("next")[2])
            done = subprocess.run([curl, "-sS", *words[1:]], capture_output=True, check=True, cwd=tmp_path)
            assert json.loads(done.stdout)["choices"][0]["finish_reason"] == "stop"


def test_the_first_signal_lets_a_running_answer_end_and_takes_no_new_one(home: Path) -> None:
    with worker(home, model="paced:20") as serving, gateway(home, "--json") as front:
        serving.event("ready")
        url = front.event_so_far("ready")["url"]
        looking = sent(url, "/api/events")
        running = sent(url, "/v1/chat/completions", asked(stream=True, model="paced", max_tokens=100))
        with looking as events, running as answer:
            answer.readline()
            front.signal(signal.SIGTERM)
            events.read()  # who only looks on is sent away at once
            while (status := reply(url, "/v1/chat/completions", asked(model="paced"))[0]) == 200:
                continue  # the signal was still on its way
            assert status == 503
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert front.wait() == 0
        assert serving.event("request_end", tokens=100)


def test_the_second_signal_ends_it_at_once(home: Path) -> None:
    with worker(home, model="paced:20") as serving, gateway(home, "--json") as front:
        serving.event("ready")
        url = front.event_so_far("ready")["url"]
        with sent(url, "/v1/chat/completions", asked(stream=True, model="paced", max_tokens=4000)) as running:
            running.readline()
            front.signal(signal.SIGTERM)
            while reply(url, "/v1/chat/completions", asked(model="paced"))[0] != 503:
                continue
            front.signal(signal.SIGTERM)
            assert front.wait() == 143


def test_a_key_opens_the_gateway_and_is_never_shown(home: Path) -> None:
    with gateway(home, "-vv", "--json", "--host", "0.0.0.0", LLAMA_GOSSIP_API_KEY=SECRET) as front:
        url = front.event("ready")["url"]
        assert urlsplit(url).hostname == "127.0.0.1"
        assert front.error_with("warning:", "not encrypted")
        assert reply(url, "/v1/models")[0] == 401
        status, models = reply(url, "/v1/models", authorization=f"Bearer {SECRET}")
        assert (status, models["data"]) == (200, [])
        front.signal(signal.SIGTERM)
        assert front.wait() == 0
        assert SECRET not in "".join([*front.lines, *front.errors])


def test_a_hybrid_is_a_gateway_too(home: Path) -> None:
    with Running(home, "hybrid", "--json", "--model", "scripted", "--http", "0") as both:
        ready = both.event("ready")
        assert ready["role"] == "hybrid"
        both.write("Hello\n")
        assert both.event("complete")["worker"] == ready["node_id"]
        status, answer = reply(ready["url"], "/v1/chat/completions", asked(model="scripted"))
        assert (status, answer["usage"]["completion_tokens"]) == (200, 8)
        assert reply(ready["url"], "/readyz")[0] == 200
        assert [model["id"] for model in reply(ready["url"], "/v1/models")[1]["data"]] == ["scripted"]
        both.signal(signal.SIGTERM)
        assert both.wait() == 0


def test_a_hybrid_that_is_told_to_stop_ends_its_http_answers_first(home: Path) -> None:
    hybrid = Running(home, "hybrid", "--json", "--model", "scripted", "--http", "0")
    with worker(home, model="paced:20") as serving, hybrid as both:
        serving_id = serving.event("ready")[
            "node_id"
        ]  # the answer's worker is another: nothing else holds it
        url = both.event("ready")["url"]
        both.event_so_far("peer_up", node_id=serving_id)
        with sent(url, "/v1/chat/completions", asked(stream=True, model="paced", max_tokens=100)) as running:
            running.readline()
            both.signal(signal.SIGTERM)
            assert running.read().endswith(b"data: [DONE]\n\n")
        assert both.wait() == 0
        assert serving.event("request_end")["tokens"] == 100


def test_a_worker_serves_its_figures(home: Path) -> None:
    with Running(home, "worker", "--model", "scripted", "--metrics-port", "0") as serving:
        url = serving.line_with("  metrics ").split()[1].removesuffix("/metrics")
        assert urlsplit(url).hostname == "127.0.0.1"
        with sent(url, "/metrics") as response:
            assert response.status == 200
            assert b"llama_gossip_" in response.read()
        serving.signal(signal.SIGTERM)
        assert serving.wait() == 0


def test_a_ready_line_of_a_worker_has_no_url(home: Path) -> None:
    with worker(home, "--metrics-port", "0") as serving:
        assert "url" not in serving.event("ready")
