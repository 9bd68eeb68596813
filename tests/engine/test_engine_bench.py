"""benches/engine.py: what its ratios mean, and that a machine without the native extension can run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHES = Path(__file__).parents[2] / "benches"

WITHOUT_NATIVE = """
import sys
sys.modules["llama_gossip._native"] = None
sys.path.insert(0, sys.argv[1])
import random
from engine import Plan, closed, contest
from hf_decoders import RawForward
from own_engine import OwnEngine
from llama_gossip.engine.checkpoint import load_checkpoint
from llama_gossip.engine.torch_engine import TorchEngine
checkpoint = load_checkpoint("tiny-random")
own = OwnEngine(TorchEngine(checkpoint, max_concurrent=4, threads=1))
with closed({"own": (own, (1, 4)), "raw": (RawForward(checkpoint.module), (4,))}) as match:
    runs = contest(match, Plan(rounds=1, prompt_tokens=5, new_tokens=7), 259)
print({key: (spent[0].tokens, spent[0].cpu_s > 0) for key, spent in sorted(runs.items())})
"""


def test_contenders_answer_in_full_without_the_native_extension() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NATIVE, str(BENCHES)],
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    expected = {("own", 1): (7, True), ("own", 4): (28, True), ("raw", 4): (28, True)}
    assert done.stdout.strip() == str(expected)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHES))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the bench sets it where nobody has
    import engine

    return engine


def test_twice_as_cheap_is_a_ratio_of_two_and_the_lower_model_counts(bench: ModuleType) -> None:
    from decoding import Spent

    def runs(theirs: float) -> dict[tuple[str, int], list[Spent]]:
        names = [("raw", n) for n in (1, 4, 16)] + [("generate", 4), ("hf_continuous_batching", 16)]
        others = {key: [Spent(theirs, 9.0, 10, theirs, 9.0, 10)] for key in names}
        ours = {"served": 1.0, "packed": 2.0, "packed_exact": 4.0}
        return others | {
            (own, n): [Spent(cpu_s, 3.0, 10, cpu_s, 3.0, 10)]
            for own, cpu_s in ours.items()
            for n in (1, 4, 16)
        }

    figures = bench.compared(runs(2.0), runs(1.5))
    assert [figures[f"cpu_ratio_vs_raw{n}"] for n in (1, 4, 16)] == [0.75, 0.75, 0.75]
    assert figures["cpu_ratio_vs_raw4_7m"] == 1.0
    assert figures["cpu_ratio_exact_vs_raw1_7m"] == 0.5
    assert (figures["vs_generate_4"], figures["vs_generate_4_smollm2"]) == (2.0, 1.5)
    assert figures["vs_hf_continuous_batching_16_wall"] == 3.0


def test_decoded_tokens_count_from_when_every_row_has_one(bench: ModuleType) -> None:
    from decoding import Meter

    meter = Meter(2)
    meter.tokens(0, 3)
    meter.tokens(1, 1)
    meter.tokens(0, 2)
    assert (meter.spent(6).tokens, meter.spent(6).decode_tokens) == (6, 2)
    with pytest.raises(RuntimeError, match="6 of 7 tokens"):
        meter.spent(7)


def test_the_share_of_the_memorys_bandwidth_is_measured_through_the_engine(
    bench: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`bench` puts the benches where they are imported from."""
    import reporting
    import throughput_limit
    from shapes import SMALL

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    shape = SMALL | sizes | {"max_position_embeddings": 512}
    plan = throughput_limit.Plan(shape, "fp32", (1, 3), new_tokens=6, rounds=1, copy_bytes=1 << 20)
    figures = throughput_limit.measure("cuda:99", plan)
    throughput_limit.told(figures)
    assert "measured on cpu" in (said := capsys.readouterr().err)
    assert "CUDA WAS ASKED FOR (cuda:99)" in said
    weights = 4 * (4096 * 64 + 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128 + 2 * 64) + 64)
    cache = 4 * 2 * 2 * 2 * 16
    for rows in (1, 3):
        read = weights + rows * (throughput_limit.PROMPT_TOKENS + 3) * cache
        steps_per_s = figures[f"tokens_per_s{rows}"] / rows
        share = steps_per_s * read / (figures["copy_gb_per_s"] * 1e9)
        assert figures[f"bandwidth_share{rows}"] == pytest.approx(share)
    monkeypatch.setattr(sys, "argv", ["/somewhere/benches/throughput_limit.py", "--quick"])
    kept = json.loads(reporting.save("throughput_limit", figures, tmp_path).read_text())
    assert kept["command"] == "benches/throughput_limit.py --quick"
    assert kept["device"] == figures["device"]
    assert kept["figures"]["tokens_per_s3"] == figures["tokens_per_s3"]
    assert set(kept["versions"]) == {"torch", "transformers"}
