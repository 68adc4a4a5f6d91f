"""Prepared volumes on disk, so that training reads random slices at memory speed.

Each subject is prepared once into plain, memory-mapped ``.npy`` arrays. The key covers the
content of its files, the recipe and the version of the preparing code, so an entry is never
stale. Entries are built under a temporary name and then renamed: a killed build leaves no
incomplete entry, and if two processes build the same entry, the later one discards its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import uuid
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.config import digest
from medrd.data.kind import CODE_VERSION, Kind
from medrd.data.subject import Source, Subject
from medrd.data.traits import ScanTraits
from medrd.errors import InputError, OutputError
from medrd.files import file_hash, write_json
from medrd.images.dicom_series import choose_series
from medrd.images.formats import parts_of

logger = logging.getLogger("medrd.data")

_ARRAYS = ("images", "region", "numbers", "positions_mm", "touched")
_INDEX = "entry.json"

# A process that found a damaged entry may remove the intact one that another process has just
# put in its place, so a single failure does not mean a bad disk.
_ATTEMPTS = 3


# NumPy parses the headers of .npy files as Python literals, and CPython before 3.12 counts the
# recursion depth for all threads together: two at once can raise a SystemError (gh-106905).
_HEADERS = threading.Lock()


@dataclass(frozen=True, eq=False)
class CachedSubject:
    """Prepared slices of a subject, memory-mapped.

    Attributes
    ----------
    images
        (S, C, H, W) float16 in [0, 1]: steps of at most 1/2048 are finer than a scanner's noise,
        and float16 needs half the space of float32. Pictures deeper than 8 bits are float32.
    region
        (S, H, W) bool: the brain, or the part of the square that shows the picture.
    numbers
        (S,) position of each slice in the whole stack.
    positions_mm
        (S,) position of each slice along the stack.
    lesion_slices
        (L,) positions in the whole stack of slices that hold a lesion at original resolution, or
        show a neighbour that does; empty for a subject without a label.
    content
        Hash of the scan itself (:attr:`medrd.data.kind.TrainingItem.content`), independent of
        file names and compression.
    """

    id: str
    images: NDArray[np.float16] | NDArray[np.float32]
    region: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    positions_mm: NDArray[np.float64]
    lesion_slices: NDArray[np.int64]
    content: str
    warnings: tuple[str, ...]
    traits: ScanTraits | None = None
    """Summary of the scan's appearance; None for a picture."""


def default_cache() -> Path:
    """``MEDRD_CACHE``, or ``medrd`` in the user's cache folder."""
    named = os.environ.get("MEDRD_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "medrd"


def files_hash(subject: Subject) -> str:
    """SHA-256 over the bytes of the subject's images in the order of their channels."""
    return digest([source_hash(source) for source in subject.images.values()])


def cache_subjects(
    subjects: Sequence[Subject],
    kind: Kind,
    *,
    folder: Path,
    budget: int,
    workers: int = 2,
    on_done: Callable[[str], None] | None = None,
) -> tuple[dict[str, CachedSubject], list[InputError]]:
    """Prepare the subjects that are not cached yet, and open all of them.

    Parameters
    ----------
    folder
        The cache; created if missing.
    budget
        Maximum number of voxels or pixels; a larger file is refused before it is read.
    workers
        Number of threads; reading and decompression release the interpreter lock.
    on_done
        Called with a subject's id when it is ready or has failed.

    Returns
    -------
    cached
        Opened subjects by id.
    errors
        The errors of the subjects that could not be prepared.

    Raises
    ------
    OutputError
        The cache cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            folder,
            expected="a cache folder that can be written",
            found=str(error),
            remedy="Set data.cache or MEDRD_CACHE to another folder.",
        ) from None
    cached: dict[str, CachedSubject] = {}
    errors: list[InputError] = []
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        futures = {
            pool.submit(cache_subject, s, kind, folder=folder, budget=budget): s for s in subjects
        }
        try:
            for future in as_completed(futures):
                subject = futures[future]
                try:
                    cached[subject.id] = future.result()
                except OutputError:  # concerns the cache, not this subject
                    raise
                except InputError as error:
                    errors.append(error)
                if on_done:
                    on_done(subject.id)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return cached, sorted(errors, key=lambda error: error.where)


def cache_subject(subject: Subject, kind: Kind, *, folder: Path, budget: int) -> CachedSubject:
    """Open one subject from the cache, or prepare it if it is missing or damaged."""
    files = files_hash(subject)
    label: Any = None
    if subject.label:
        values = list(subject.lesion_labels) or "all whole numbers but 0"
        label = {"file": source_hash(subject.label), "lesion": values}
    key = digest(
        {
            "content": files,
            "label": label,
            "recipe": kind.recipe.to_dict(),
            "code": CODE_VERSION,
        }
    )
    entry = folder / key[:2] / key
    cached = _open(entry, subject.id)
    logger.debug("%s: %s", subject.id, "already prepared" if cached else "preparing")
    attempts = 0
    while cached is None and attempts < _ATTEMPTS:
        build_entry(entry, subject, kind, budget=budget)
        cached = _open(entry, subject.id)
        attempts += 1
    if cached is None:
        raise OutputError(
            entry,
            expected="the cache entry that was just written",
            found="a damaged one",
            remedy="Check the disk, or set data.cache to another folder.",
        )
    return cached


def source_hash(source: Source) -> str:
    """SHA-256 of the file, or of its parts or a series' files in order, with the chosen frame."""
    frame = "" if source.frame is None else f":{source.frame}"
    if source.path.is_dir():
        files = choose_series(source.path, source.series).files
        return digest([file_hash(path) for path in files]) + frame
    parts = parts_of(source.path)
    if len(parts) > 1:
        return digest([file_hash(path) for path in parts]) + frame
    return file_hash(source.path) + frame


def build_entry(entry: Path, subject: Subject, kind: Kind, *, budget: int) -> None:
    item = kind.training_item(subject, budget=budget)
    prepared = item.prepared
    arrays = {
        "images": prepared.images if item.fine else prepared.images.astype(np.float16),
        "region": prepared.region,
        "numbers": prepared.numbers,
        "positions_mm": prepared.positions_mm,
        "touched": item.lesion_slices,  # the name in existing caches
    }
    temporary = entry.parent / f".{entry.name}.{os.getpid()}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        for name, array in arrays.items():
            with (temporary / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        index = {
            "content": item.content,
            "warnings": list(prepared.warnings),
            "traits": prepared.traits.to_dict() if prepared.traits else None,
            "checksums": {name: checksum(temporary / f"{name}.npy") for name in arrays},
        }
        write_json(temporary / _INDEX, index)
        put_in_place(temporary, entry)
    except OSError as error:
        raise OutputError(
            entry,
            expected="space and permission for a cache entry",
            found=str(error),
            remedy="Free some space, or set data.cache or MEDRD_CACHE to another folder.",
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, entry: Path) -> None:
    """Rename the entry; if another process was first, keep its entry."""
    try:
        temporary.rename(entry)
    except OSError:
        if not entry.is_dir():
            raise


def _open(entry: Path, subject_id: str) -> CachedSubject | None:
    """Open an entry; None if it is missing, or damaged (it is then removed)."""
    if not entry.is_dir():
        return None
    try:
        index = json.loads((entry / _INDEX).read_text(encoding="utf-8"))
        for name in _ARRAYS:
            if checksum(entry / f"{name}.npy") != index["checksums"][name]:
                raise ValueError(f"{name} is damaged")
        with _HEADERS:
            arrays = {
                name: np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in _ARRAYS
            }
        return CachedSubject(
            id=subject_id,
            content=str(index["content"]),
            warnings=tuple(index["warnings"]),
            traits=ScanTraits.from_dict(index["traits"]) if index["traits"] else None,
            lesion_slices=arrays.pop("touched"),
            **arrays,
        )
    except (OSError, ValueError, KeyError, TypeError):
        # Renamed before removal: another process may be reading it.
        broken = entry.parent / f".{entry.name}.broken.{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            entry.rename(broken)
            shutil.rmtree(broken, ignore_errors=True)
        return None


def checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
