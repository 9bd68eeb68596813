"""Runs Python blocks as a notebook does: one after the other, in one namespace, `await` allowed outside of
functions. run_blocks.py < JSON list of [name, source]"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import sys
from typing import Any


async def run(blocks: list[tuple[str, str]]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for name, source in blocks:
        print(f"--- {name}", flush=True)
        code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)
        if inspect.iscoroutine(result):
            await result


asyncio.run(run(json.load(sys.stdin)))
