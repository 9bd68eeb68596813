"""LiteLLM's `openai/` provider against a live gateway: a process of its own, which calls nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cli_process import LONG_S
from tests.gateway.network_process import Network, program_environment

from .conftest import MODEL

pytestmark = pytest.mark.live

SCRIPT = """
import json, sys
import litellm

litellm.telemetry = False
base_url, model = sys.argv[1:]
options = dict(
    model=f"openai/{model}", messages=[{"role": "user", "content": "Hello"}], api_base=base_url,
    api_key="none", seed=7, max_tokens=12, num_retries=0,
)
whole = litellm.completion(**options)
chunks = list(litellm.completion(**options, stream=True, stream_options={"include_usage": True}))
try:
    litellm.completion(**(options | {"model": "openai/gpt-9"}))
except litellm.NotFoundError as error:
    refused = error.status_code
print(json.dumps({
    "whole": whole.choices[0].message.content,
    "finish_reason": whole.choices[0].finish_reason,
    "tokens": whole.usage.completion_tokens,
    "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
    "streamed_tokens": chunks[-1].usage.completion_tokens,
    "chunks": len(chunks),
    "refused": refused,
}))
"""


def test_whole_streamed_and_refused(net: Network, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, net.base_url, MODEL],
        capture_output=True,
        text=True,
        timeout=LONG_S,
        env=program_environment(tmp_path, LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_TELEMETRY="False"),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["whole"] == told["streamed"]
    assert len(told["whole"].split()) >= 10
    assert (told["finish_reason"], told["tokens"], told["streamed_tokens"]) == ("length", 12, 12)
    assert told["chunks"] > 3
    assert told["refused"] == 404
