"""What a user waits for: processor time of whole commands, and of the imports in them.

Each command runs in a process of its own, alternating with the same command of another checkout,
so that other work on the machine affects both equally. What counts is the ratio.

    python benchmarks/startup.py run scan.nii.gz
    python benchmarks/startup.py run scans/*.nii.gz --evaluate config.yaml
    git worktree add ../earlier v0.1
    python benchmarks/startup.py run scan.nii.gz --against ../earlier
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from medrd.run.table import markdown_table

HERE = Path(__file__).resolve().parents[1]
_LIBRARIES = 12
"""How many the table of imports has."""


def cpu_seconds(words: list[str], checkout: Path) -> float:
    """User and system time of ``python WORDS`` with medrd from a checkout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *words],
        check=True,
        capture_output=True,
        # Without the safe path, medrd of the current folder would be measured for both.
        env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def import_seconds(words: list[str]) -> dict[str, float]:
    """Seconds of the imports of ``python WORDS`` by library, each without what it imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], check=True, capture_output=True, text=True
    )
    seconds: dict[str, float] = {}
    for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)", done.stderr):
        seconds[name] = seconds.get(name, 0.0) + int(own) / 1e6
    return seconds


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="Run folder of a trained model.")
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--evaluate", type=Path, help="Config to evaluate the run with.")
    parser.add_argument("--against", type=Path, help="Another checkout of medrd.")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    checkouts = {"here": HERE} | ({"there": args.against.resolve()} if args.against else {})

    with tempfile.TemporaryDirectory() as folder:
        predict = ["-m", "medrd", "predict", str(args.run), *map(str, args.scans), "--overwrite"]
        predict += ["--out", folder]
        commands = {
            "import torch": ["-c", "import torch"],
            "medrd --help": ["-m", "medrd", "--help"],
            "medrd doctor": ["-m", "medrd", "doctor"],
            f"medrd predict, scans: {len(args.scans)}": predict,
        }
        if args.evaluate:
            evaluate = ["-m", "medrd", "evaluate", str(args.run), str(args.evaluate)]
            commands["medrd evaluate"] = [*evaluate, "--out", f"{folder}/evaluation"]
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(args.repeats):
            for command, words in commands.items():
                for name, checkout in checkouts.items():
                    seconds = cpu_seconds(words, checkout)
                    found.setdefault((command, name), []).append(seconds)
        imports = import_seconds(predict)

    rows = []
    for command in commands:
        medians = [statistics.median(found[command, name]) for name in checkouts]
        ratio = []
        if args.against:
            here, there = (found[command, name] for name in checkouts)
            rounds = [b / a for a, b in zip(here, there, strict=True)]
            ratio = [f"{medians[1] / medians[0]:.2f} ({min(rounds):.2f} to {max(rounds):.2f})"]
        rows.append([command, *(f"{seconds:.2f}" for seconds in medians), *ratio])
    header = ["command", *(f"{name}, CPU s" for name in checkouts)]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {metadata.version('torch')}"
    print(f"Median of {args.repeats}, ratio with the least and the most; {machine}\n")
    print(markdown_table(header + (["ratio"] if args.against else []), rows))
    slowest = sorted(imports.items(), key=lambda item: -item[1])[:_LIBRARIES]
    print(f"\nImports of one prediction: {sum(imports.values()):.2f} s\n")
    print(markdown_table(["library", "s"], [[name, f"{s:.2f}"] for name, s in slowest]))


if __name__ == "__main__":
    main()
