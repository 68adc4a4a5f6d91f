"""Phantom brains: a freely shareable cohort in the BraTS layout.

Each subject is the MNI152 template deformed into another head, with a glioma, scanned in
four modalities; or one of :mod:`medrd.phantom.varied`'s, in FLAIR alone. No patient data are
involved. A subject depends only on its index and the seed, so cohorts of different sizes share
their first subjects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from medrd.errors import ConfigError, OutputError
from medrd.files import atomic_folder, refuse_foreign
from medrd.phantom.anatomy import GRID, load_template, make_head, make_tissues
from medrd.phantom.contrast import MODALITIES, make_surroundings, render
from medrd.phantom.lesions import displace, grow_lesion, plan_lesion
from medrd.phantom.scanner import plan_acquisitions, scan
from medrd.phantom.varied import VERSION as VARIED_VERSION
from medrd.phantom.varied import make_varied

# Increase it whenever the same seed gives other voxels: existing subjects are then remade.
VERSION = 3

Sort = Literal["glioma", "varied", "healthy"]
"""``glioma``: subjects as in the demo's cohort; ``varied``: heads, scanners and lesions as
different as possible, some without a lesion; ``healthy``: the same, all without one."""
_NAMES: Final[dict[Sort, str]] = {"glioma": "Phantom", "varied": "Varied", "healthy": "Healthy"}

# Voxel axes point left, posterior, superior, with BraTS's origin.
BRATS_AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)

# BraTS 2018 has 210 high-grade and 75 low-grade gliomas. The grades follow a fixed cycle rather
# than being drawn, so that a cohort of four has both.
_LOW_GRADE_EVERY = 4
_BRIGHT_VOXEL_CHANCE = 0.2
_RECORD = "phantom.json"


@dataclass(frozen=True)
class Phantom:
    """One simulated subject.

    Attributes
    ----------
    subject_id
        ``Phantom_000``, the name of its folder.
    modalities
        ``flair``, ``t1``, ``t1ce`` and ``t2``, each (240, 240, 155) int16, 0 outside the
        brain and nonzero inside.
    labels
        (240, 240, 155) uint8: 1 necrotic or non-enhancing core, 2 oedema, 4 enhancing.
    affine
        (4, 4) float64, voxels to RAS millimetres.
    """

    subject_id: str
    modalities: dict[str, NDArray[np.int16]]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]


def make_subject(index: int, *, seed: int = 0) -> Phantom:
    """Simulate one subject (about 3 s; the first of a process takes longer).

    Parameters
    ----------
    index
        Index of the subject in the cohort, from 0.
    seed
        Seed of the cohort.

    Raises
    ------
    ConfigError
        If either is negative.
    """
    _require("index", index, least=0)
    _require("seed", seed, least=0)
    # One random stream per stage: a change in one leaves the others' draws unchanged.
    anatomy, folds, growth, normal, look, scanner = np.random.default_rng([seed, index]).spawn(6)
    template = load_template()
    head = make_head(anatomy, template)
    high_grade = (index + 1) % _LOW_GRADE_EVERY != 0
    plan = plan_lesion(growth, template, head, high_grade=high_grade)
    mni_mm = displace(head, plan)
    tissues = make_tissues(folds, template, head, mni_mm)
    lesion = grow_lesion(growth, head, tissues, plan)
    surroundings = make_surroundings(normal, head, tissues, mni_mm)
    signals = render(look, head, tissues, surroundings, lesion, mni_mm, high_grade=high_grade)
    acquisitions = plan_acquisitions(scanner)
    modalities = {m: scan(scanner, head, signals[m], acquisitions[m]) for m in MODALITIES}
    if scanner.random() < _BRIGHT_VOXEL_CHANCE:
        # Some BraTS volumes have one voxel at int16's maximum: a trap for scaling by the maximum.
        at = head.voxels[:, scanner.integers(head.voxels.shape[1])].astype(np.intp)
        modalities[str(scanner.choice(MODALITIES))][tuple(at)] = np.iinfo(np.int16).max
    labels = np.zeros(GRID, np.uint8)
    labels[head.box][head.mask] = lesion.labels
    return Phantom(_subject_id(index), modalities, labels, BRATS_AFFINE.copy())


def write_cohort(
    out: Path,
    subjects: int,
    *,
    seed: int = 0,
    sort: Sort = "glioma",
    on_done: Callable[[str], None] | None = None,
    workers: int = 1,
) -> list[Path]:
    """Write ``subjects`` phantoms in the BraTS layout.

    Complete subjects of the same seed and version are kept; incomplete ones are made again.
    A folder gets its name only after all its files are written.

    Parameters
    ----------
    out
        The cohort's folder, created if needed, for ``Phantom_000/Phantom_000_flair.nii.gz``
        and so on.
    subjects
        Number of subjects.
    seed
        Seed of the cohort.
    sort
        What to simulate; sorts may share a folder.
    on_done
        Called with each subject's name when it is written, in the order of the names.
    workers
        Number of processes; each needs about 1 GB of memory.

    Returns
    -------
    The subjects' folders, in order.

    Raises
    ------
    ConfigError
        If ``subjects`` or ``workers`` is below 1 or ``seed`` negative.
    OutputError
        If a folder cannot be written, or a subject's folder holds other files.
    """
    _require("subjects", subjects, least=1)
    _require("workers", workers, least=1)
    _require("seed", seed, least=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            out, expected="a folder to write to", found=str(error), remedy="Choose another --out."
        ) from error
    folders = []
    for folder in _written(out, subjects, seed, sort, workers):
        folders.append(folder)
        if on_done is not None:
            on_done(folder.name)
    return folders


def _written(out: Path, subjects: int, seed: int, sort: Sort, workers: int) -> Iterator[Path]:
    """Yield each subject's folder as soon as it and all before it are written."""
    jobs: Iterable[_Job] = ((out, index, seed, sort) for index in range(subjects))
    if workers == 1:
        yield from map(_write_job, jobs)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Spawned, not forked: the caller may have threads (torch, BLAS), which do not survive a fork.
    with ProcessPoolExecutor(min(workers, subjects), get_context("spawn")) as pool:
        yield from pool.map(_write_job, jobs)


_Job = tuple[Path, int, int, Sort]


def _write_job(job: _Job) -> Path:
    """Write one subject unless it exists; one job of a process."""
    out, index, seed, sort = job
    folder = out / _subject_id(index, sort)
    if _is_complete(folder, seed, sort):
        return folder
    refuse_foreign(folder, [*_file_names(folder.name, sort), _RECORD])
    with atomic_folder(folder) as partial:
        _save(_make(index, seed, sort), partial, _record(seed, sort))
    return folder


def _make(index: int, seed: int, sort: Sort) -> Phantom:
    if sort == "glioma":
        return make_subject(index, seed=seed)
    made = make_varied(index, seed=seed, healthy=sort == "healthy")
    return Phantom(_subject_id(index, sort), {"flair": made.image}, made.labels, made.affine)


def _record(seed: int, sort: Sort) -> dict[str, Any]:
    return {"seed": seed, "version": VERSION if sort == "glioma" else VARIED_VERSION}


def _save(phantom: Phantom, folder: Path, record: dict[str, Any]) -> None:
    """Write the volumes, then the record that marks the subject as complete."""
    import nibabel as nib

    sizes = {}
    for name, array in {**phantom.modalities, "seg": phantom.labels}.items():
        path = folder / f"{phantom.subject_id}_{name}.nii.gz"
        image = nib.Nifti1Image(array, phantom.affine)
        image.header.set_xyzt_units("mm", "sec")
        image.set_sform(phantom.affine, code=1)
        image.set_qform(phantom.affine, code=1)
        nib.save(image, path)
        sizes[path.name] = path.stat().st_size
    record = {**record, "bytes": sizes}
    (folder / _RECORD).write_text(json.dumps(record, indent=1) + "\n")


def _is_complete(folder: Path, seed: int, sort: Sort) -> bool:
    """True if the folder has this version's subject, with every file at its full length."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in _file_names(folder.name, sort)}
    except (OSError, ValueError):
        return False
    return bool(record == {**_record(seed, sort), "bytes": sizes})


def _file_names(subject_id: str, sort: Sort) -> list[str]:
    modalities = MODALITIES if sort == "glioma" else ("flair",)
    return [f"{subject_id}_{name}.nii.gz" for name in (*modalities, "seg")]


def _subject_id(index: int, sort: Sort = "glioma") -> str:
    return f"{_NAMES[sort]}_{index:03d}"


def _require(name: str, value: int, *, least: int) -> None:
    if value < least:
        raise ConfigError(
            name,
            expected=f"{least} or more",
            found=str(value),
            remedy=f"Give a whole number from {least}.",
        )
