"""Clients that send plain HTTP: Open WebUI's shapes of request, and curl."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cli_process import LONG_S
from tests.gateway.network_process import Network, program_environment
from tests.support.programs import program

from .conftest import KEY, MODEL

pytestmark = pytest.mark.live

WEB_UI = {"authorization": "Bearer none", "x-openwebui-user-name": "A", "x-openwebui-user-role": "admin"}


def web_ui_body(**more: Any) -> dict[str, Any]:
    """What Open WebUI posts: OpenAI's fields and several of its own."""
    return {
        "model": MODEL,
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}],
        "max_tokens": 12,
        "seed": 7,
        "chat_id": "0f4e",
        "session_id": "b1",
        "id": "c2",
        "features": {"web_search": False, "image_generation": False},
        "variables": {"{{USER_NAME}}": "A"},
        "background_tasks": {"title_generation": True},
        "params": {},
        "tool_servers": [],
        "filter_ids": [],
        "metadata": {"chat_id": "0f4e"},
        **more,
    }


def datas(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def test_open_webui_lists_models_streams_with_usage_and_asks_for_titles(net: Network) -> None:
    models = net.http.get("/v1/models", headers=WEB_UI).json()
    assert [model["id"] for model in models["data"]] == [MODEL]
    body = web_ui_body(stream=True, stream_options={"include_usage": True})
    streamed = net.http.post("/v1/chat/completions", json=body, headers=WEB_UI)
    assert streamed.status_code == 200
    *pieces, usage, done = datas(streamed.text)
    assert done == "[DONE]"
    assert json.loads(usage)["usage"]["completion_tokens"] == 12
    text = "".join(json.loads(piece)["choices"][0]["delta"].get("content", "") for piece in pieces)
    title = net.http.post("/v1/chat/completions", json=web_ui_body(stream=False), headers=WEB_UI).json()
    assert title["choices"][0]["message"]["content"] == text


def test_open_webui_checks_a_connection_by_the_list_of_models(net: Network, keyed_url: str) -> None:
    assert net.http.get(f"{keyed_url}/models", headers=WEB_UI).status_code == 401
    with_key = {**WEB_UI, "authorization": f"bearer {KEY}"}
    assert net.http.get(f"{keyed_url}/models", headers=with_key).status_code == 200


@pytest.fixture
def curl() -> str:
    return program("curl")


def test_curl_streams_and_sees_the_headers(net: Network, curl: str, tmp_path: Path) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 5,
        "stream": True,
    }
    done = subprocess.run(
        [curl, "-sSNi", f"{net.base_url}/chat/completions", "--json", json.dumps(body)],
        capture_output=True,
        text=True,
        timeout=LONG_S,
        env=program_environment(tmp_path),
        check=True,
    )
    head, _, events = done.stdout.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 200 OK")
    assert "x-accel-buffering: no" in head.lower()
    assert "\nserver:" not in head.lower()
    assert datas(events)[-1] == "[DONE]"


def test_curl_sees_a_refusal_while_it_is_still_sending(net: Network, curl: str, tmp_path: Path) -> None:
    big = tmp_path / "big.json"
    big.write_bytes(b" " * (8 << 20))
    done = subprocess.run(
        [curl, "-sS", "-w", "%{http_code}", f"{net.base_url}/chat/completions", "--json", f"@{big}"],
        capture_output=True,
        text=True,
        timeout=LONG_S,
        env=program_environment(tmp_path),
        check=False,
    )
    assert (done.returncode, done.stdout[-3:]) == (0, "413"), done.stderr
