"""``medrd predict --dicom``: writes the results of a DICOM series as DICOM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrd.data.cases import Case
from medrd.dicom_objects.scene import Maker
from medrd.dicom_objects.write import OBJECT_ENDINGS, is_own_object, write_objects
from medrd.errors import MissingInputError
from medrd.prediction.native import NativeSpace
from medrd.run.outputs import remove


def dicom_targets(case: Case, out: Path) -> dict[str, Path]:
    """Paths of the objects, by the keys of :data:`OBJECT_ENDINGS`."""
    return {name: case.output(out, ending) for name, ending in OBJECT_ENDINGS.items()}


def remove_dicom(case: Case, out: Path) -> None:
    """Remove the objects of an earlier result."""
    for path in dicom_targets(case, out).values():
        if is_own_object(path):
            remove(path)


def check_dicom(case: Case, native: NativeSpace | None) -> None:
    """Raise MissingInputError if a case does not come from a DICOM series."""
    folder, _ = _series(case, native)
    if not folder.is_dir():
        remedy = "Leave --dicom out."
        if native is None:
            remedy = (
                "Leave --dicom out; add --native if medrd prepare made this scan from a series; or "
                "use medrd to-dicom with the series that it was made from."
            )
        raise MissingInputError(
            folder,
            expected="a DICOM series, whose results can be written as DICOM",
            found="a file" if folder.exists() else "nothing there",
            remedy=remedy,
        )


def write_dicom(
    case: Case,
    native: NativeSpace | None,
    out: Path,
    paths: dict[str, Path],
    *,
    maker: Maker,
    findings: Sequence[Mapping[str, Any]] | None,
    scan_score: float,
    keep_names: bool,
) -> dict[str, Any]:
    """Write the objects from the NIfTI files just written, and add them to ``paths``.

    Returns
    -------
    dict
        The record's entry about them.
    """
    prefix = "" if native is None else "native_"
    folder, series = _series(case, native)
    paths |= write_objects(
        paths[f"{prefix}map"],
        paths.get(f"{prefix}mask"),
        folder,
        series,
        dicom_targets(case, out),
        maker=maker,
        scan_score=scan_score,
        findings=findings,
        keep_names=keep_names,
    )
    return {"dicom": {"source": str(folder.absolute()), "names_kept": keep_names}}


def _series(case: Case, native: NativeSpace | None) -> tuple[Path, str | None]:
    """The series that the map's grid belongs to: its folder, and its UID if one was chosen."""
    if native is not None:
        return Path(native.origin.path), native.series
    source = next(iter(case.subject.images.values()))
    return source.path, source.series
