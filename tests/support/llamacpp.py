"""A real llama.cpp server on loopback, as the judge of what a GGUF file means."""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xllamacpp  # type: ignore[import-untyped]

ANSWER_S = 60.0  # for one request, on a machine that is busy


class LlamaCpp:
    def __init__(self, address: str, key: str) -> None:
        self._address, self._key = address, key

    def post(self, route: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._address + route, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        """Ids of a text as our engines encode it: no BOS added, special tokens recognised."""
        ids = self.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
        return [int(token) for token in ids]

    def rendered(self, messages: list[dict[str, str]]) -> str:
        """A chat as one text, with the answer's beginning opened."""
        return str(self.post("/apply-template", {"messages": messages})["prompt"])


@contextmanager
def llamacpp(model: Path, *, context: int = 256) -> Iterator[LlamaCpp]:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = context, 1, 1
    params.hostnames, params.port = ["127.0.0.1"], 0
    key = secrets.token_hex(16)
    params.api_keys = [key]  # without one it answers every origin
    server = xllamacpp.Server(params)
    try:
        yield LlamaCpp(server.listening_address, key)
    finally:
        del server
