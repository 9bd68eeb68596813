"""The engine against what else one could use, in one process, runs of all contenders taking turns.

    cpu_ratio_vs_rawN              CPU time of a padded batch under `model.forward` / ours over the same
                                   modules (packed rows, fast), N requests, fp32, one thread; the lower of
                                   both models
    cpu_ratio_exact_vs_rawN_7m     the same with ours in exact mode, which the padded batch has not
    cpu_ratio_served_vs_rawN       the same with what is served: the lean step, exact
    vs_generate_4                  CPU time of one thread with `generate` for each of four requests / ours as
                                   served: the lean step, exact
    vs_hf_continuous_batching_16   CPU time of transformers' continuous batching / ours as served
                                   (both: the 7 M shape, random weights; …_smollm2: the real model)
    vs_llamacpp_q4N                decoded tokens/s, ours / llama.cpp's, the same 4-bit file, two threads
                                   each; …_cpu: a second of CPU time instead of the clock's
    exact_vs_fast_DN               decoded tokens a second of CPU time of the lean step in that dtype, exact /
                                   fast, one thread
    …_wall                         the same ratio of the clock's time

Requests are greedy, of fresh prompts, and all have the same length. A ratio is the median over rounds, each
of two runs that follow each other closely: a shared machine changes its speed by a fifth within a minute.
Runs without the native extension.

With --device cuda the engine alone, against the device's memory (benches/throughput_limit.py).

    benches/engine.py [--quick] [--json] [--threads N] [--device cuda[:N]]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads; the 4-bit engine sets its own

from decoding import Contender, Spent, prompts
from llama_gossip.engine import device as devices
from llama_gossip.engine.catalogue import CATALOGUE, DEFAULT, PackagedFile
from llama_gossip.engine.load import load_engine
from reporting import Bars, Figures, tell

ROWS: Final = (1, 4, 16)
Q4_THREADS: Final = 2
MODE_ROWS: Final = (1, 16)
MODE_DTYPES: Final = ("bf16", "q4")
BARS: Final = {
    "cpu_ratio_vs_raw1": (">=", 0.93),
    "cpu_ratio_vs_raw4": (">=", 0.90),
    "cpu_ratio_vs_raw16": (">=", 0.88),
    "vs_generate_4": (">=", 2.5),
    "vs_hf_continuous_batching_16": (">=", 1.8),
    "vs_llamacpp_q41": (">=", 0.7),
    "vs_llamacpp_q44": (">=", 1.2),
    "vs_llamacpp_q416": (">=", 1.3),
    "exact_vs_fast_bf161": (">=", 0.65),
    "exact_vs_fast_bf1616": (">=", 0.9),
    "exact_vs_fast_q41": (">=", 0.95),
    "exact_vs_fast_q416": (">=", 0.95),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of each model is run."""

    rounds: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Plans:
    small: Plan
    smollm2: Plan
    q4: Plan
    modes: Plan


FULL: Final = Plans(small=Plan(9, 64, 48), smollm2=Plan(5, 64, 48), q4=Plan(9, 32, 96), modes=Plan(7, 32, 48))
QUICK: Final = Plans(
    small=Plan(5, 64, 48), smollm2=Plan(2, 16, 16), q4=Plan(4, 16, 48), modes=Plan(2, 16, 24)
)

Runs = Mapping[tuple[str, int], Sequence[Spent]]  # by contender and rows: one a round
Match = Mapping[
    str, tuple[Contender, Sequence[int]]
]  # a contender by its name, and for how many rows it runs


def contest(match: Match, plan: Plan, vocabulary: int) -> Runs:
    """All contenders in turn, several rounds; a first run of each warms it and is not counted."""
    chance = random.Random(1)

    def once(contender: Contender, rows: int, of: Plan) -> Spent:
        return contender.run(prompts(rows, of.prompt_tokens, vocabulary, chance), of.new_tokens)

    short = replace(plan, new_tokens=4)
    for contender, sizes in match.values():
        for rows in sizes:
            once(contender, rows, short)
    runs: defaultdict[tuple[str, int], list[Spent]] = defaultdict(list)
    for _ in range(plan.rounds):
        for rows in ROWS:
            for name, (contender, sizes) in match.items():
                if rows in sizes:
                    runs[name, rows].append(once(contender, rows, plan))
    return runs


@contextmanager
def closed(match: Match) -> Iterator[Match]:
    try:
        yield match
    finally:
        for contender, _ in match.values():
            contender.close()


def against_transformers(checkpoint: Any, served: Any, plan: Plan, *, exact: bool) -> Runs:
    """checkpoint: of transformers' modules; served: the same model for the lean step. exact: packed rows are
    run in that mode as well."""
    from hf_decoders import ContinuousBatching, GenerateThreads, RawForward
    from llama_gossip.engine.torch_engine import TorchEngine
    from own_engine import OwnEngine

    def own(what: Any, numerics: str) -> OwnEngine:
        return OwnEngine(TorchEngine(what, max_concurrent=max(ROWS), threads=1, numerics=numerics))

    module = checkpoint.module
    match: Match = {
        "served": (own(served, "exact"), ROWS),
        "packed": (own(checkpoint, "fast"), ROWS),
        "raw": (RawForward(module), ROWS),
        "generate": (GenerateThreads(module), (4,)),
        "hf_continuous_batching": (ContinuousBatching(module), (16,)),
    }
    if exact:
        match = {**match, "packed_exact": (own(checkpoint, "exact"), ROWS)}
    with closed(match):
        return contest(match, plan, int(module.config.vocab_size))


def small_runs(plan: Plan) -> Runs:
    from llama_gossip.engine.llama_load import of_module
    from shapes import SMALL, random_checkpoint

    checkpoint = random_checkpoint("7m", SMALL, device="cpu", dtype="fp32")
    return against_transformers(checkpoint, of_module(checkpoint, "fp32"), plan, exact=True)


def smollm2_runs(plan: Plan) -> Runs:
    from llama_gossip.engine.checkpoint import load_checkpoint
    from llama_gossip.engine.llama_load import load_llama

    served = load_llama(DEFAULT, dtype="fp32")
    return against_transformers(load_checkpoint(DEFAULT, dtype="fp32"), served, plan, exact=False)


def q4_runs(plan: Plan, threads: int) -> Runs:
    from llamacpp_decoder import LlamaCpp
    from own_engine import OwnEngine

    engine = load_engine(DEFAULT, dtype="q4", max_concurrent=max(ROWS), threads=threads)
    context = plan.prompt_tokens + plan.new_tokens + 1
    theirs = LlamaCpp(gguf_file(), threads=threads, rows=max(ROWS), context=context)
    match: Match = {"served": (OwnEngine(engine), ROWS), "llamacpp": (theirs, ROWS)}
    with closed(match):
        return contest(match, plan, VOCABULARY)


def mode_runs(plan: Plan) -> Runs:
    from llama_gossip.engine.llama_load import load_llama
    from llama_gossip.engine.torch_engine import TorchEngine
    from own_engine import OwnEngine

    def own(dtype: str, numerics: str) -> OwnEngine:
        checkpoint = load_llama(DEFAULT, dtype=dtype)
        return OwnEngine(TorchEngine(checkpoint, max_concurrent=max(ROWS), threads=1, numerics=numerics))

    match: Match = {
        f"{dtype}_{numerics}": (own(dtype, numerics), MODE_ROWS)
        for dtype in MODE_DTYPES
        for numerics in ("exact", "fast")
    }
    with closed(match):
        return contest(match, plan, VOCABULARY)


VOCABULARY: Final = 49_152  # of smollm2-135m


def gguf_file() -> Path:
    from llama_gossip.engine import models

    source = CATALOGUE[DEFAULT].source
    assert isinstance(source, PackagedFile)
    return models.default_models_dir() / DEFAULT / source.file


def paired(runs: Runs, other: str, own: str, rows: int, figure: Callable[[Spent], float]) -> float:
    """The other's figure over ours."""
    return median(
        figure(theirs) / figure(ours) for theirs, ours in zip(runs[other, rows], runs[own, rows], strict=True)
    )


def cpu_ratio(runs: Runs, other: str, own: str, rows: int) -> float:
    return paired(runs, other, own, rows, lambda spent: spent.cpu_s)


def wall_ratio(runs: Runs, other: str, own: str, rows: int) -> float:
    return paired(runs, other, own, rows, lambda spent: spent.wall_s)


def compared(small: Runs, smollm2: Runs) -> Figures:
    """The figures against transformers."""
    figures: Figures = {}
    for word, own in (("vs_raw", "packed"), ("served_vs_raw", "served")):
        for rows in ROWS:
            name = f"cpu_ratio_{word}{rows}"
            both = cpu_ratio(small, "raw", own, rows), cpu_ratio(smollm2, "raw", own, rows)
            figures |= {name: min(both), f"{name}_7m": both[0], f"{name}_smollm2": both[1]}
    for rows in ROWS:
        figures[f"cpu_ratio_exact_vs_raw{rows}_7m"] = cpu_ratio(small, "raw", "packed_exact", rows)
    for suffix, ratio in (("", cpu_ratio), ("_wall", wall_ratio)):
        for model, runs in (("", small), ("_smollm2", smollm2)):
            figures[f"vs_generate_4{model}{suffix}"] = ratio(runs, "generate", "served", 4)
            figures[f"vs_hf_continuous_batching_16{model}{suffix}"] = ratio(
                runs, "hf_continuous_batching", "served", 16
            )
    return figures


def compared_q4(runs: Runs) -> Figures:
    figures: Figures = {}
    for rows in ROWS:
        for suffix, figure in RATES.items():
            figures[f"vs_llamacpp_q4{rows}{suffix}"] = paired(runs, "served", "llamacpp", rows, figure)
    return figures


def compared_modes(runs: Runs) -> Figures:
    return {
        f"exact_vs_fast_{dtype}{rows}": paired(runs, f"{dtype}_exact", f"{dtype}_fast", rows, RATES["_cpu"])
        for dtype in MODE_DTYPES
        for rows in MODE_ROWS
    }


def rates(model: str, runs: Runs) -> Figures:
    """Decoded tokens a second, for the record: what they are worth depends on the machine."""
    return {
        f"tokens_per_s_{model}_{name}{rows}": max(spent.tokens_per_s for spent in spents)
        for (name, rows), spents in runs.items()
    }


RATES: Final[Mapping[str, Callable[[Spent], float]]] = {
    "": lambda spent: spent.tokens_per_s,
    "_cpu": lambda spent: spent.tokens_per_cpu_s,
}


def measure(plans: Plans, threads: int) -> Figures:
    small = small_runs(plans.small)
    smollm2 = smollm2_runs(plans.smollm2)
    q4 = q4_runs(plans.q4, threads)
    modes = mode_runs(plans.modes)
    return {
        **compared(small, smollm2),
        **compared_q4(q4),
        **compared_modes(modes),
        **rates("7m", small),
        **rates("smollm2", smollm2),
        **rates("q4", q4),
        **rates("smollm2", modes),
    }


def main() -> int:
    """Prints a table, with --json one object on stdout. A missed bar is reported, not an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the short form, minutes")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, the table on stderr")
    parser.add_argument("--device", default="cpu", help="cuda or cuda:N: the engine's throughput there")
    parser.add_argument(
        "--threads",
        type=int,
        default=Q4_THREADS,
        help="of the 4-bit runs; on a busy machine threads wait for each other, and only 1 tells something",
    )
    options = parser.parse_args()
    devices.prepare_environment()
    bars: Bars = BARS
    if options.device == "cpu":
        figures = measure(QUICK if options.quick else FULL, options.threads)
    else:
        import throughput_limit

        bars = throughput_limit.BARS
        plan = throughput_limit.plan(devices.place(options.device).device, quick=options.quick)
        figures = throughput_limit.told(throughput_limit.measure(options.device, plan))
    tell(figures, bars, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
