"""Loading: specs, and what must not be imported for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from llama_gossip.engine import load_engine
from llama_gossip.engine.scripted import ScriptedEngine
from llama_gossip.errors import UsageError

HEAVY = ("torch", "transformers", "numpy", "tokenizers", "jinja2", "llama_gossip._native")


def imported_by(code: str) -> list[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
        env=os.environ,
    )
    loaded: list[str] = json.loads(done.stdout)
    return loaded


def test_importing_the_engine_package_brings_no_torch_numpy_or_native_extension() -> None:
    assert imported_by("from llama_gossip.engine import load_engine") == []


def test_the_scripted_engine_runs_without_torch_numpy_or_native_extension() -> None:
    assert imported_by("from llama_gossip.engine import load_engine; load_engine('scripted').close()") == []


def test_whether_models_fit_is_told_without_torch() -> None:
    heavy = imported_by(
        "from llama_gossip.engine import check_specs; check_specs(['tiny-random'], device='cpu')"
    )
    assert {"torch", "transformers", "llama_gossip._native"} & set(heavy) == set()


def test_a_scripted_spec_gives_a_scripted_engine_under_its_name() -> None:
    engine = load_engine("paced:5", max_concurrent=3)
    try:
        assert isinstance(engine, ScriptedEngine)
        assert (engine.info.model, engine.info.max_concurrent) == ("paced", 3)
        assert engine.info.tokens_per_s == 200.0
    finally:
        engine.close()


@pytest.mark.parametrize("options", [{"max_concurrent": 0}, {"threads": 0}])
def test_counts_below_one_are_usage_errors(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        load_engine("scripted", **options)  # type: ignore[arg-type]


def test_unknown_numerics_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown numerics"):
        load_engine("scripted", numerics="rounded")
