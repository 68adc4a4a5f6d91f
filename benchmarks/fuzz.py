"""Feed mutated files to whatever reads files: nothing but typed errors, no hang, no hunger.

    python benchmarks/fuzz.py --files 10000 --seed 0
    python benchmarks/fuzz.py --seed 0 --only 4711 --keep bad       # one input again, and its file

Every input is made from the seed and its number alone. It is read in a worker process with a limit
of time and of memory; a worker that hangs, crashes or dies is replaced. What is neither read nor a
:class:`medrd.errors.MedrdError` is printed, with the options that make it again, and the exit code
is 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # imported by a test, too

from fuzz_inputs import KINDS, Seeds, make_seeds

from medrd.errors import MedrdError
from medrd.run.table import markdown_table

LIMIT_S, LIMIT_BYTES = 10.0, 2 << 30
"""For one input: seconds, and bytes beyond what the worker has at its start."""
_PATIENCE = 3.0
"""On a busy machine, seconds are those of the processor, up to this many limits on the clock."""


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes
    ----------
    kind
        The key of its kind in :data:`fuzz_inputs.KINDS`.
    result
        ``read``, the name of a typed error, or ``FAILED``.
    found
        For a failure: the exception, ``hang``, or the signal that ended the worker.
    peak_bytes
        Resident memory beyond what the worker had at its start.
    """

    number: int
    kind: str
    result: str
    found: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0


def attempt(seeds: Seeds, kinds: Sequence[str], seed: int, number: int, folder: Path) -> Outcome:
    """Make an input in a folder and read it."""
    kind = kinds[number % len(kinds)]
    rng = np.random.default_rng([seed, number])
    started = time.monotonic()
    result, found = "read", ""
    try:
        KINDS[kind](seeds, rng, folder)
    except MedrdError as error:
        result = type(error).__name__
    except BaseException as error:  # whatever it is, it should have been typed
        result, found = "FAILED", _described(error)
    return Outcome(number, kind, result, found, time.monotonic() - started)


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}medrd{os.sep}" in frame.filename]
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{place}"


def _work(pipe: Connection, seeds: Seeds, kinds: Sequence[str], seed: int) -> None:
    """Answer numbers with outcomes, in a process that cannot take more memory than the limit."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)  # the C libraries write where they like
    os.dup2(silent, 2)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    began = _resident("VmRSS")
    while True:
        number = pipe.recv()
        with suppress(OSError):  # sets the peak back
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        with tempfile.TemporaryDirectory() as folder:
            outcome = attempt(seeds, kinds, seed, number, Path(folder))
        pipe.send(replace(outcome, peak_bytes=max(0, _resident("VmHWM") - began)))


def _resident(field: str) -> int:
    """``VmRSS`` or ``VmHWM``, the resident memory now and at its peak, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class Worker:
    """A process that reads inputs, and another in its place when it is lost."""

    def __init__(self, target: Callable[[Connection], None]) -> None:
        self._target = target
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")  # the libraries are imported once
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=self._target, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def ask(self, number: int) -> Outcome | str:
        """The outcome, or why there is none."""
        try:
            self._pipe.send(number)
            if self._answers():
                outcome = self._pipe.recv()
                assert isinstance(outcome, Outcome)
                return outcome
            lost = f"hang: no answer in {LIMIT_S:g} s"
        except (EOFError, OSError):
            self._process.join(5)
            lost = f"the process died (exit code {self._process.exitcode})"
        self.stop()
        self._start()
        return lost

    def _answers(self) -> bool:
        """Whether there is an answer within the limit."""
        began, used = time.monotonic(), self._processor_s()
        while not self._pipe.poll(min(1.0, LIMIT_S)):
            seconds = time.monotonic() - began
            if self._processor_s() - used > LIMIT_S or seconds > _PATIENCE * LIMIT_S:
                return False
        return True

    def _processor_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        user, system = fields.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


@contextmanager
def worker(target: Callable[[Connection], None]) -> Iterator[Worker]:
    """A worker, stopped at the end."""
    made = Worker(target)
    try:
        yield made
    finally:
        made.stop()


def fuzz(
    numbers: Sequence[int], *, seed: int, kinds: Sequence[str] = tuple(KINDS)
) -> list[Outcome]:
    """Read the inputs of these numbers."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
        with worker(lambda pipe: _work(pipe, seeds, kinds, seed)) as hands:
            for number in numbers:
                answer = hands.ask(number)
                if isinstance(answer, str):
                    answer = Outcome(number, kinds[number % len(kinds)], "FAILED", answer, LIMIT_S)
                outcomes.append(answer)
            return outcomes


def report(outcomes: Sequence[Outcome], seed: int) -> str:
    """A row for each kind, the slowest and the hungriest input, and a line for each failure."""
    rows = []
    for kind in KINDS:
        mine = Counter(each.result for each in outcomes if each.kind == kind)
        errors = sum(mine.values()) - mine["read"] - mine["FAILED"]
        if mine:
            rows.append(
                [kind, *map(str, (sum(mine.values()), mine["read"], errors, mine["FAILED"]))]
            )
    lines = [markdown_table(["kind", "inputs", "read", "typed errors", "failed"], rows), ""]
    slowest = max(outcomes, key=lambda each: each.seconds)
    hungriest = max(outcomes, key=lambda each: each.peak_bytes)
    lines.append(
        f"slowest: number {slowest.number} ({slowest.kind}), {slowest.seconds:.2f} s; "
        f"hungriest: number {hungriest.number} ({hungriest.kind}), "
        f"{hungriest.peak_bytes / 2**30:.2f} GiB"
    )
    lines += [
        f"{each.kind}: {each.found}  (--seed {seed} --only {each.number})"
        for each in outcomes
        if each.result == "FAILED"
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=tuple(KINDS), action="append", help="only these kinds")
    parser.add_argument("--only", type=int, help="only the input of this number")
    parser.add_argument("--keep", type=Path, help="with --only: folder for its files")
    options = parser.parse_args()
    kinds = tuple(options.kind or KINDS)
    if options.keep is not None and options.only is not None:
        shutil.rmtree(options.keep, ignore_errors=True)
        options.keep.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as folder:
            seeds = make_seeds(Path(folder))
            print(attempt(seeds, kinds, options.seed, options.only, options.keep))
    numbers = range(options.files) if options.only is None else [options.only]
    outcomes = fuzz(numbers, seed=options.seed, kinds=kinds)
    print(report(outcomes, options.seed))
    return int(any(each.result == "FAILED" for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
