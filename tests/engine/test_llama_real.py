"""smollm2-135m by the lean step: right answers in every precision, straight from its file."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from llama_gossip.engine import models
from llama_gossip.engine.forward import Draw, Segment, Span
from llama_gossip.engine.llama_load import load_llama, open_llama
from tests.engine.test_real_model import FRANCE

MODEL = "smollm2-135m"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # the template's own


def rendered() -> str:
    turns = [("system", SYSTEM), *FRANCE.messages]
    return (
        "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"
    )


def greedy(forward: Any, ids: list[int], ends: tuple[int, ...], limit: int = 20) -> list[int]:
    forward.reserve(8)
    made: list[int] = []
    fed, feed = 0, ids
    while len(made) < limit:
        logits = forward.run([Segment(Span(0, 8), fed, feed, Draw(0.0, 0, fed + len(feed)))])
        fed, feed = fed + len(feed), [int(logits[0].argmax())]
        if feed[0] in ends:
            break
        made += feed
    return made


@pytest.mark.parametrize("dtype", ["auto", "q8", "bf16", "fp32"])
def test_it_knows_the_capital_of_france(dtype: str) -> None:
    checkpoint = load_llama(MODEL, dtype=dtype)
    assert checkpoint.dtype == ("q4" if dtype == "auto" else dtype)
    forward = open_llama(checkpoint)
    ids = checkpoint.tokenizer.encode(rendered(), add_special_tokens=False).ids
    answer = greedy(forward, ids, checkpoint.eos_ids)
    assert checkpoint.tokenizer.decode(answer) == "The capital of France is Paris."


def test_it_is_the_model_of_the_converted_folder() -> None:
    from llama_gossip.engine.checkpoint import load_checkpoint

    lean, whole = load_llama(MODEL), load_checkpoint(MODEL, dtype="bf16")
    words = ("name", "digest", "chat_template", "bos_token", "eos_token", "bos_id", "eos_ids", "add_bos")
    words += ("context", "quantisation", "source_dtype", "parameters")
    for word in words:
        assert getattr(lean, word) == getattr(whole, word), word
    assert lean.tokenizer.to_str() == whole.tokenizer.to_str()
    assert models.resolve(MODEL).digest == lean.digest


def test_loading_needs_no_transformers_and_converts_nothing() -> None:
    script = f"""
import json, sys
from llama_gossip.engine import convert
convert.converted = None
from llama_gossip.engine.llama_load import load_llama, open_llama
forward = open_llama(load_llama({MODEL!r}))
print(json.dumps([forward.dtype, "transformers" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["q4", False]
