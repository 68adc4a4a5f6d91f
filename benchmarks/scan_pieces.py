"""The steps of one scan's prediction, and an estimate of the time on a large cluster.

Used by scaling.py.
"""

from __future__ import annotations

import pickle
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from medrd.data.cache import source_hash
from medrd.data.cases import Case
from medrd.prediction.case import CasePredictor, Job
from medrd.prediction.options import PredictOptions
from medrd.run.model_folder import load_model
from medrd.run.table import markdown_table


@dataclass
class Pieces:
    """The steps of one scan, in seconds, MB and kB.

    Attributes
    ----------
    hash_s, read_s
        SHA-256 of the compressed files; unpacking, checking and preparing slices.
    network_s
        Maps of all slices, smoothed.
    write_s
        Resampling maps to the grid; writing map, mask, picture and JSON.
    in_mb, out_mb
        Sizes of the compressed files.
    answer_kb
        Size of a process's pickled result.
    """

    hash_s: float = 0.0
    read_s: float = 0.0
    network_s: float = 0.0
    write_s: float = 0.0
    in_mb: float = 0.0
    out_mb: float = 0.0
    answer_kb: float = 0.0

    @property
    def core_s(self) -> float:
        """Time of all steps that run on the CPU."""
        return self.hash_s + self.read_s + self.write_s


def measure_pieces(run: Path, brains: list[Path], out: Path, device: str) -> Pieces:
    """The median of each piece over scans, after one that warms up; files are in the cache."""
    model = load_model(run)
    cases = model.kind.find(brains, frame=None, series=None).cases
    worker = _Timed(model, job_in(out, device))
    print(f"\n## One scan, on {device} in {worker.precision}")
    found = [worker.pieces_of(case) for case in cases][1:]
    names = [field.name for field in fields(Pieces)]
    return Pieces(**{n: statistics.median(getattr(each, n) for each in found) for n in names})


def job_in(out: Path, device: str) -> Job:
    """A job with the defaults of ``medrd predict``, which also repeats finished scans."""
    return Job(out, PredictOptions(overwrite=True, device=device))


class _Timed(CasePredictor):
    """The worker of ``medrd predict``, with timing."""

    @property
    def precision(self) -> str:
        return self._predictor.execution.precision

    def pieces_of(self, case: Case) -> Pieces:
        pieces = Pieces()
        maps = self._predictor.maps

        def timed(*slices: Any) -> Any:
            with clock() as network:
                result = maps(*slices)
            pieces.network_s = network[0]
            return result

        with clock() as hashing:
            for source in case.subject.images.values():
                source_hash(source)
        with clock() as reading:
            loaded = self.read(case)
        assert loaded is not None
        self._predictor.maps = timed  # type: ignore[assignment, method-assign]
        with clock() as finishing:
            outcome = self.finish(loaded)
        self._predictor.maps = maps  # type: ignore[method-assign]
        pieces.hash_s = hashing[0]
        pieces.read_s = reading[0] - hashing[0]
        pieces.write_s = finishing[0] - pieces.network_s
        pieces.in_mb = sum(s.path.stat().st_size for s in case.subject.images.values()) / 1e6
        endings = self._kind.files.endings
        pieces.answer_kb = len(pickle.dumps(outcome, protocol=5)) / 1e3
        outputs = (case.output(self._out, ending) for ending in endings)
        pieces.out_mb = sum(path.stat().st_size for path in outputs if path.is_file()) / 1e6
        return pieces


@contextmanager
def clock() -> Iterator[list[float]]:
    """Time a block; its seconds are in the list afterwards."""
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds.append(time.perf_counter() - start)


def print_pieces(pieces: Pieces, device: str) -> None:
    rows = [
        ["hash the input", f"{pieces.hash_s:.3f}"],
        ["unpack, check, prepare", f"{pieces.read_s:.3f}"],
        [f"network ({device})", f"{pieces.network_s:.3f}"],
        ["back to the grid; map, mask, picture, JSON", f"{pieces.write_s:.3f}"],
    ]
    print("\n" + markdown_table(["piece", "s"], rows))
    print(f"\n{pieces.in_mb:.1f} MB in, {pieces.out_mb:.1f} MB out\n")


# --- On paper ---


@dataclass(frozen=True)
class Site:
    """A cluster for which the time is estimated."""

    gpus: int
    cores: int
    disk_mb_s: float


def hours(pieces: Pieces, caller_s: float, site: Site, scans: int) -> dict[str, float]:
    """Hours that each resource would need for all scans if it were the bottleneck."""
    return {
        "GPU": scans * pieces.network_s / site.gpus / 3600,
        "cores (unpacking, writing)": scans * pieces.core_s / (site.gpus * site.cores) / 3600,
        "disk": scans * (pieces.in_mb + pieces.out_mb) / site.disk_mb_s / 3600,
        "the caller (its own core)": scans * caller_s / 3600,
    }


def print_paper(pieces: Pieces, caller_s: float, site: Site, scans: int) -> None:
    needed = hours(pieces, caller_s, site, scans)
    longest = max(needed, key=lambda name: needed[name])
    rows = [
        [name, f"{value:.2f}", f"{value / needed[longest]:.2f}"] for name, value in needed.items()
    ]
    print(
        f"\n## {scans} scans on {site.gpus} GPUs, {site.cores} cores a GPU, "
        f"{site.disk_mb_s:g} MB/s of disk in all\n\n"
        + markdown_table(["resource", "h", "of the longest"], rows)
    )
    share = (pieces.core_s + pieces.network_s) / max(pieces.network_s, 1e-9)
    print(
        f"\nThe cores saturate before the GPUs where a GPU does a scan's network in less than "
        f"{pieces.core_s / site.cores:.2f} s."
    )
    print(
        f"\n{longest} saturates first. A GPU is busy from {share:.1f} processes on that share it "
        f"(--gpus {1 / share:.2f}), each with a core.\n"
    )
