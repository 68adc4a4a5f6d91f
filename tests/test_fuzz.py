"""Mutated files of all kinds: a short run of ``benchmarks/fuzz.py``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "fuzz.py"


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *argv], capture_output=True, text=True, check=False
    )


def test_mutated_files_give_typed_errors_in_time_and_memory() -> None:
    done = run("--files", "84", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| ([a-z ]+?) +\| +12 \| +(\d+) \| +(\d+) \|", done.stdout, re.MULTILINE)
    assert len(rows) == 7
    # Neither so little nor so much is changed that nothing is learned.
    assert all(int(read) > 0 and int(typed) > 0 for _, read, typed in rows), done.stdout


def test_what_fails_is_printed_with_what_makes_it_again(tmp_path: Path) -> None:
    """Readers that fail in each way, in the place of those of medrd."""
    program = f"""
import os, sys, time
sys.path.insert(0, {str(SCRIPT.parent)!r})
import fuzz
from medrd.errors import InputError

def ends(seeds, rng, folder):
    os._exit(7)

def bug(seeds, rng, folder):
    raise KeyError("a bug")

def typed(seeds, rng, folder):
    raise InputError("x", expected="a", found="b", remedy="c")

def hungry(seeds, rng, folder):
    bytearray(3 << 30)

fuzz.LIMIT_S = 2.0
fuzz.KINDS = {{"ends": ends, "bug": bug, "sleeps": lambda *_: time.sleep(60), "typed": typed,
              "hungry": hungry}}
print(fuzz.report(fuzz.fuzz(range(5), seed=5, kinds=tuple(fuzz.KINDS)), 5))
"""
    path = tmp_path / "program.py"
    path.write_text(program)
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=False, timeout=300
    )
    failed = [line for line in done.stdout.splitlines() if "--only" in line]
    assert len(failed) == 4, done.stdout + done.stderr
    assert failed[0] == "ends: the process died (exit code 7)  (--seed 5 --only 0)"
    assert failed[1] == "bug: KeyError: 'a bug'  (--seed 5 --only 1)"
    assert failed[2] == "sleeps: hang: no answer in 2 s  (--seed 5 --only 2)"
    assert failed[3].startswith("hungry: MemoryError")
    assert re.search(r"\| typed +\| +1 \| +0 \| +1 \| +0 \|", done.stdout)
