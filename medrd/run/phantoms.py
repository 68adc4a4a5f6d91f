"""``medrd phantom``: a cohort of simulated brains in BraTS's layout."""

from __future__ import annotations

from pathlib import Path

from medrd.phantom.cohort import Sort, write_cohort
from medrd.run.progress import progress


def make_phantoms(
    out: str | Path,
    subjects: int,
    *,
    seed: int = 0,
    sort: Sort = "glioma",
    workers: int = 2,
) -> list[Path]:
    """Write the cohort with a progress bar; see :func:`medrd.phantom.cohort.write_cohort`."""
    with progress("simulating brains", subjects) as advance:
        return write_cohort(
            Path(out),
            subjects,
            seed=seed,
            sort=sort,
            workers=min(workers, subjects),
            on_done=lambda subject: advance(note=subject),
        )
