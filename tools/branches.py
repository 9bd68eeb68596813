"""Branches: how many of the core's branches its tests take, a line a module. Exit 1 below LEAST_PERCENT.

python tools/branches.py .coverage.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LEAST_PERCENT = 95.0


def main(path: str) -> int:
    files: dict[str, Any] = json.loads(Path(path).read_text())["files"]
    taken = there = 0
    for name, found in sorted(files.items()):
        summary = found["summary"]
        taken += summary["covered_branches"]
        there += summary["num_branches"]
        sys.stdout.write(
            f"{Path(name).stem:<16} {_line(summary)}  {_missed(found['missing_branches'])}".rstrip() + "\n"
        )
    percent = 100 * taken / there if there else 0.0
    sys.stdout.write(
        f"{taken} of {there} branches: {percent:.1f} %, at least {LEAST_PERCENT:.0f} % are asked for" + "\n"
    )
    return 0 if percent >= LEAST_PERCENT else 1


def _line(summary: dict[str, int]) -> str:
    taken, there = summary["covered_branches"], summary["num_branches"]
    return f"{taken:>4} of {there:>4}  {100 * taken / there if there else 100.0:>5.1f} %"


def _missed(branches: list[list[int]]) -> str:
    """From line to line; a negative one leaves the function."""
    return " ".join(f"{start}→{end}" if end > 0 else f"{start}→end" for start, end in branches)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
