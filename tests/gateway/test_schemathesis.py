"""The gateway against its own OpenAPI document, by a tester that has never seen its code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig

from llama_gossip.openai_api import openapi
from llama_gossip.protocol.limits import MAX_NAME_BYTES, MAX_U32
from tests.gateway.staging import MODEL, staged

ENGINE = "scripted:stop_after=3,context=8192"  # what is valid is answered at once, whatever it asks for
THE_MODELS = {"context_length_exceeded", "invalid_value"}  # reasons that no schema can tell
CONFIG = {
    "seed": 20_261_128,
    "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 400, 404]}},
}

pytestmark = [pytest.mark.live, pytest.mark.fuzz]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway on a loop of its own: the tester waits for each reply."""
    home = tmp_path_factory.mktemp("home")
    found: list[str] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    end = asyncio.Event()

    async def serve(home: Path) -> None:
        try:
            async with staged(home, [ENGINE]) as stage:
                found.append(stage.server.url)
                ready.set()
                await end.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(home)))
    thread.start()
    ready.wait()
    assert found, "the gateway did not begin"
    yield found[0]
    loop.call_soon_threadsafe(end.set)
    thread.join()
    loop.close()


def as_it_is_served(body: Any) -> Any:
    """Any name of a model is valid, and any text and any ids are a prompt. But a name that might be served
    elsewhere is asked for all over the network, for seconds; this model has 256 ids and wants some prompt.
    """
    body = without_points(body)
    if not isinstance(body, dict):
        return body
    model, prompt = body.get("model"), body.get("prompt")
    if isinstance(model, str) and 0 < len(model.encode()) <= MAX_NAME_BYTES:
        body["model"] = MODEL
    if prompt == "" or isinstance(prompt, list):
        body["prompt"] = prompt_of_this_model(prompt)
    return body


def without_points(value: Any) -> Any:
    """1.0 is an integer to a schema; to the gateway only 1 is, and no schema can say so."""
    match value:
        case dict():
            return {key: without_points(inner) for key, inner in value.items()}
        case list():
            return [without_points(inner) for inner in value]
        case float() if value.is_integer():
            return int(value)
    return value


def prompt_of_this_model(value: Any) -> Any:
    match value:
        case list():
            return [prompt_of_this_model(inner) for inner in value]
        case int() if not isinstance(value, bool) and 0 <= value <= MAX_U32:
            return value % 256
    return "a" if value == "" else value


SCHEMA = schemathesis.openapi.from_dict(openapi(), config=SchemathesisConfig.from_dict(CONFIG))


@SCHEMA.parametrize()
@settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_operation_does_what_the_document_says(case: Case, url: str) -> None:
    case.body = as_it_is_served(case.body)
    reply = case.call(base_url=url)
    case.validate_response(reply)
    assert case.meta is not None
    if case.meta.generation.mode is GenerationMode.POSITIVE and reply.status_code == 400:
        error = reply.json()["error"]
        assert error["code"] in THE_MODELS, error
        assert error["param"] in (None, "messages", "prompt"), error


def test_the_document_is_the_one_that_is_served(url: str) -> None:
    assert httpx2.get(f"{url}/openapi.json", trust_env=False).json() == openapi()
