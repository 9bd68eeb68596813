"""Report on file lengths; fails when a file passes 500 lines or the median passes 220."""

import statistics
import subprocess
import sys
from pathlib import Path

MAX_LINES = 500
MAX_MEDIAN_LINES = 220
SUFFIXES = {".py", ".rs"}


def main() -> int:
    """Prints the median and the longest files. Returns 1 when a bound is passed."""
    root = Path(__file__).resolve().parent.parent
    listed = subprocess.run(["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True).stdout
    files = [root / name for name in listed.splitlines() if Path(name).suffix in SUFFIXES]
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files if file.exists()}
    median = statistics.median(lengths.values())
    longest = sorted(lengths.items(), key=lambda item: -item[1])[:5]
    names = ", ".join(f"{path.relative_to(root)} {lines}" for path, lines in longest)
    sys.stdout.write(f"{len(lengths)} files, median {median:.0f} lines; longest: {names}\n")
    return int(median > MAX_MEDIAN_LINES or longest[0][1] > MAX_LINES)


if __name__ == "__main__":
    sys.exit(main())
