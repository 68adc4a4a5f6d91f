"""What a user waits for: processor time of whole commands, their memory, and the imports in them.

Each command runs in a process of its own, alternating with the same command of another checkout,
so that other work on the machine affects both equally. What counts is the ratio.

    python benchmarks/startup.py run scan.nii.gz
    python benchmarks/startup.py run scans/*.nii.gz --evaluate config.yaml --train config.yaml
    git worktree add ../earlier v0.1
    python benchmarks/startup.py run scan.nii.gz --against ../earlier
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from medrd.run.table import markdown_table

HERE = Path(__file__).resolve().parents[1]
NEW = "NEW"
"""Stands for the folder in a command."""
_LIBRARIES = 12
"""How many the table of imports has."""


def run(words: list[str], checkout: Path) -> tuple[float, float]:
    """CPU seconds and peak MB of ``python WORDS`` with medrd from a checkout, in a new folder."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, *(word.replace(NEW, folder) for word in words)],
            stdout=said,
            stderr=said,
            env=environment(checkout),
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().decode() + f"failed in {checkout}: {' '.join(words)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024  # Linux gives kB


def environment(checkout: Path) -> dict[str, str]:
    """In which Python imports medrd from a checkout."""
    # Without the safe path, it would import medrd of the current folder.
    return {**os.environ, "PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}


def import_seconds(words: list[str]) -> dict[str, float]:
    """Seconds of the imports of ``python WORDS`` by library, each without what it imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        check=True,
        capture_output=True,
        text=True,
        env=environment(HERE),
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
    parser.add_argument("--train", type=Path, nargs="*", default=[], help="Configs to train.")
    parser.add_argument("--against", type=Path, help="Another checkout of medrd.")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    checkouts = {"here": HERE} | ({"there": args.against.resolve()} if args.against else {})

    medrd, out = ["-m", "medrd"], ["--out", f"{NEW}/out"]
    predict = [*medrd, "predict", str(args.run), *map(str, args.scans), *out]
    commands = {
        "import torch": ["-c", "import torch"],
        "medrd --help": [*medrd, "--help"],
        "medrd doctor": [*medrd, "doctor"],
        f"medrd predict, scans: {len(args.scans)}": predict,
    }
    if args.evaluate:
        evaluate = [*medrd, "evaluate", str(args.run), str(args.evaluate), *out]
        commands["medrd evaluate"] = evaluate
    for config in args.train:
        commands[f"medrd train {config.stem}"] = [*medrd, "train", str(config), *out]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(args.repeats):
        for command, words in commands.items():
            for name, checkout in checkouts.items():
                found.setdefault((command, name), []).append(run(words, checkout))
    with tempfile.TemporaryDirectory() as folder:
        imports = import_seconds([word.replace(NEW, folder) for word in predict])

    rows = []
    for command in commands:
        sides = [list(zip(*found[command, name], strict=True)) for name in checkouts]
        row = [command, *(f"{statistics.median(seconds):.2f}" for seconds, _ in sides)]
        if args.against:
            (here, _), (there, _) = sides
            ratios = [b / a for a, b in zip(here, there, strict=True)]
            row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        rows.append([*row, *(f"{statistics.median(peak):.0f}" for _, peak in sides)])
    header = ["command", *(f"{name}, CPU s" for name in checkouts)]
    header += ["ratio"] if args.against else []
    header += [f"{name}, peak MB" for name in checkouts]
    print(f"Medians of {args.repeats}, in brackets the least and the most; {machine()}\n")
    print(markdown_table(header, rows))
    slowest = sorted(imports.items(), key=lambda item: -item[1])[:_LIBRARIES]
    print(f"\nImports of one prediction: {sum(imports.values()):.2f} s\n")
    print(markdown_table(["library", "s"], [[name, f"{s:.2f}"] for name, s in slowest]))


def machine() -> str:
    """What the processor can do, what medrd computes in on it, and the version of torch."""
    import torch

    from medrd.run.device import choose_execution

    # torch does not know to what oneDNN is limited.
    capability = torch.backends.cpu.get_cpu_capability()
    capability = os.environ.get("ONEDNN_MAX_CPU_ISA", capability)
    precision = choose_execution("cpu").precision
    return f"{os.cpu_count()} cores, {capability}, {precision}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
