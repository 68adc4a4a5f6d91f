"""``medrd to-dicom``: maps made earlier, as DICOM objects of their series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medrd.data.output_names import BIDS_FILES, MAKER, SCAN_FILES
from medrd.dicom_objects.scene import Maker
from medrd.dicom_objects.write import OBJECT_ENDINGS, is_own_object, write_objects
from medrd.errors import FileFormatError, MissingInputError
from medrd.extras import require_extra
from medrd.files import file_hash
from medrd.images.dicom_series import is_dicom, series_of, without_index
from medrd.images.header import inspect_nifti
from medrd.prediction.native import NATIVE_ENDINGS
from medrd.run.output_folder import OutputFolder
from medrd.run.record import PredictionRecord


def to_dicom(
    map_path: str | Path,
    mask_path: str | Path | None,
    *,
    series: str | Path,
    out: str | Path,
    keep_names: bool = False,
) -> list[Path]:
    """Write a map, its findings and a report as DICOM.

    The model and its threshold come from the record beside the map, if it is there; the findings do
    too, unless the mask is not the record's.

    Parameters
    ----------
    map_path, mask_path
        NIfTI files that ``medrd predict`` wrote, on the grid of the series; without a mask only
        the Parametric Map is written.
    series
        Folder of the series, or one of its files if the folder holds several.
    out
        Folder for ``<map>_scores.dcm``, ``_findings.dcm`` and ``_report.dcm``.
    keep_names
        Keep the patient's name, number, birth date and similar values in the objects.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    InputError
        Map, mask or series cannot be read, or the map is not on the grid of the series.
    OutputError
        A file cannot be written, or has the name of one that medrd did not write.
    MissingExtraError
        ``medrd[dicom]`` is not installed.
    """
    require_extra("dicom", "medrd to-dicom")
    map_path, out = Path(map_path), Path(out)
    folder, uid = _series(Path(series))
    stem, ending = _stem(map_path)
    record = _record_beside(map_path, stem)
    targets = {name: out / f"{stem}{ending}" for name, ending in OBJECT_ENDINGS.items()}
    for target in targets.values():
        OutputFolder(out).refuse_taken([target], ours=is_own_object(target))
    findings = None
    if record is not None and mask_path is not None and _is_output(record, Path(mask_path)):
        native = ending == NATIVE_ENDINGS[0]
        findings = (record.native or {}).get("findings") if native else record.findings
    written = write_objects(
        map_path,
        Path(mask_path) if mask_path is not None else None,
        folder,
        uid,
        targets,
        maker=_maker(map_path, record),
        scan_score=record.scan_score if record else None,
        findings=findings,
        keep_names=keep_names,
    )
    return list(written.values())


def _series(path: Path) -> tuple[Path, str | None]:
    path = without_index(path)
    if path.is_dir():
        return path, None
    if not is_dicom(path):
        raise MissingInputError(
            path,
            expected="the folder of a DICOM series, or one of its files",
            found="another file" if path.exists() else "nothing there",
            remedy="Give the series that the map was made from.",
        )
    return path.parent, series_of(path)


def _stem(map_path: Path) -> tuple[str, str]:
    """The map's name without the ending that medrd gave it, and that ending."""
    for ending in (NATIVE_ENDINGS[0], SCAN_FILES.map, BIDS_FILES.map, ".nii.gz", ".nii"):
        if map_path.name.endswith(ending):
            return map_path.name.removesuffix(ending), ending
    return map_path.name, ""


def _record_beside(map_path: Path, stem: str) -> PredictionRecord | None:
    """The record of the prediction that wrote the map; None if no record has its hash."""
    for ending in (SCAN_FILES.record, BIDS_FILES.record):
        record = PredictionRecord.read(map_path.with_name(f"{stem}{ending}"))
        if record and _is_output(record, map_path):
            return record
    return None


def _is_output(record: PredictionRecord, path: Path) -> bool:
    """Whether a file is an output of that record, unchanged."""
    return any(
        output.file == path.name and path.is_file() and output.sha256 == file_hash(path)
        for output in record.outputs.values()
    )


def _maker(map_path: Path, record: PredictionRecord | None) -> Maker:
    if record is not None:
        return Maker(record.model.name, record.model.hash, record.threshold)
    import nibabel

    inspect_nifti(map_path)  # which describes the problem with a file
    header: Any = nibabel.load(map_path).header
    words = bytes(header["descrip"]).decode("ascii", "replace").strip("\0")
    if not words.startswith(MAKER):
        raise FileFormatError(
            map_path,
            expected="a map that medrd wrote",
            found=f"an image described as {words!r}",
            remedy="Give <scan>_anomaly.nii.gz of medrd predict.",
        )
    ceiling = float(header["cal_max"])
    return Maker("unknown", words.rsplit(" ", 1)[-1], ceiling / 2 if ceiling else None)
