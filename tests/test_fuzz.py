"""Mutated files of all kinds: a short run of ``benchmarks/fuzz.py``."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medrd.errors import InputError

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which forks the processes that read."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import fuzz

    return fuzz


def test_mutated_files_give_typed_errors_in_time_and_memory(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--files", "84", "--seed", "4"])
    code = fuzz.main()
    said = capsys.readouterr().out
    assert code == 0, said
    rows = re.findall(r"^\| ([a-z ]+?) +\| +12 \| +(\d+) \| +(\d+) \|", said, re.MULTILINE)
    assert len(rows) == 7
    # Neither so little nor so much is changed that nothing is learned.
    assert all(int(read) > 0 and int(typed) > 0 for _, read, typed in rows), said


def ends(*_: Any) -> None:
    os._exit(7)


def bug(*_: Any) -> None:
    raise KeyError("a bug")


def sleeps(*_: Any) -> None:
    time.sleep(60)


def typed(*_: Any) -> None:
    raise InputError("x", expected="a", found="b", remedy="c")


def hungry(*_: Any) -> None:
    bytearray(3 << 30)


def test_what_fails_is_printed_with_what_makes_it_again(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers that fail in each way, in the place of those of medrd."""
    kinds = {reader.__name__: reader for reader in (ends, bug, sleeps, typed, hungry)}
    monkeypatch.setattr(fuzz, "KINDS", kinds)
    monkeypatch.setattr(fuzz, "LIMIT_S", 2.0)
    said = fuzz.report(fuzz.fuzz(range(5), seed=5, kinds=tuple(kinds)), 5)
    failed = [line for line in said.splitlines() if "--only" in line]
    assert len(failed) == 4, said
    assert failed[0] == "ends: the process died (exit code 7)  (--seed 5 --only 0)"
    assert failed[1] == "bug: KeyError: 'a bug'  (--seed 5 --only 1)"
    assert failed[2] == "sleeps: hang: no answer in 2 s  (--seed 5 --only 2)"
    assert failed[3].startswith("hungry: MemoryError")
    assert re.search(r"\| typed +\| +1 \| +0 \| +1 \| +0 \|", said)
