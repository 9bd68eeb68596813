"""Reporting: what every bench does with its figures. A table with each figure beside its bar, or one object.

A missed bar is reported, not an error: what a figure is worth depends on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar

from workers import bench_home

Bars = Mapping[str, tuple[str, float]]  # a figure's name: ("<=" or ">=", the bar)
Figures = dict[str, Any]
Plan = TypeVar("Plan")  # how much a bench does


RESULTS: Final = Path(__file__).with_name("results")


def save(bench: str, figures: Figures, folder: Path = RESULTS) -> Path:
    """One file for each bench and device: the figures, the command that made them, and with what."""
    device = re.sub(r"[^a-z0-9]+", "-", str(figures["device"]).lower()).strip("-")
    made = {
        "device": figures["device"],
        "command": " ".join(["benches/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "figures": {name: value for name, value in figures.items() if name != "device"},
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{bench}-{device}.json"
    path.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return path


def table(figures: Figures, bars: Bars) -> str:
    lines = [f"{'figure':32} {'measured':>10}  bar"]
    for name, value in figures.items():
        if isinstance(value, int | float):
            lines.append(f"{name:32} {shown(value):>10}  {verdict(value, *bars.get(name, ('', 0.0)))}")
    return "\n".join(lines)


def shown(value: float) -> str:
    """A count as it is, what is large without places that mean nothing."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def verdict(value: float, sign: str, bar: float) -> str:
    if not sign:
        return ""
    held = value <= bar if sign == "<=" else value >= bar
    return f"{sign} {bar:g}  {'held' if held else 'MISSED'}"


def tell(figures: Figures, bars: Bars, *, as_json: bool) -> None:
    """A table; as JSON one object on stdout, and the table on stderr."""
    print(table(figures, bars), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(figures))


def main(
    about: str | None, bars: Bars, measure: Callable[[Plan], Awaitable[Figures]], plan: Plan, quick: Plan
) -> int:
    """The command line of a bench, which measures one of its two plans."""
    from llama_gossip.transport import native_versions  # here: the engine's bench runs without it

    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the short form")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, the table on stderr")
    options = parser.parse_args()

    async def run() -> Figures:
        return await measure(quick if options.quick else plan)

    with bench_home():
        figures = asyncio.run(run())
    figures["build"] = native_versions()["profile"]
    tell(figures, bars, as_json=options.json)
    return 0
