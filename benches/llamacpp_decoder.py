"""llama.cpp as a contender of the engine bench: its server in this process, asked without HTTP."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path
from typing import Any

from decoding import Meter, Prompts, Spent, by_threads


class LlamaCpp:
    def __init__(self, path: Path, *, threads: int, rows: int, context: int) -> None:
        import xllamacpp  # type: ignore[import-untyped]

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel = rows * context, rows
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.hostnames, params.port = ["127.0.0.1"], 0
        params.api_keys = [secrets.token_hex(16)]  # without one it answers every origin
        params.verbosity = -1
        self._server = xllamacpp.Server(params)

    def run(self, prompts: Prompts, new_tokens: int) -> Spent:
        return by_threads(self._answer, prompts, new_tokens)

    def _answer(
        self, row: int, prompt: list[int], new_tokens: int, meter: Meter, lock: threading.Lock
    ) -> None:
        made = 0

        def hear(chunk: dict[str, Any]) -> bool:
            """A chunk is a token, unless one waits for the rest of a character; the last has the count."""
            nonlocal made
            total = int(chunk["usage"]["completion_tokens"]) if "usage" in chunk else made + 1
            with lock:
                meter.tokens(row, total - made)
            made = total
            return False  # goes on

        self._server.handle_completions(
            {
                "prompt": list(prompt),
                "n_predict": new_tokens,
                "temperature": 0.0,
                "ignore_eos": True,
                "cache_prompt": False,
                "stream": True,
            },
            hear,
        )

    def close(self) -> None:
        del self._server
