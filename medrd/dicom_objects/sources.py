"""The headers of a series' images, with only values that objects made from them may contain."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medrd.errors import FileFormatError
from medrd.images.dicom_place import planes_of
from medrd.images.dicom_series import Series, text, value_of

if TYPE_CHECKING:
    from pydicom import Dataset

_PERSONAL = (
    *("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyID"),
    *("ReferringPhysicianName", "StudyDescription", "IssuerOfPatientID"),
)
"""Elements that are read only if names are kept."""
_READ = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "ImageType"),
    *("FrameOfReferenceUID", "PositionReferenceIndicator", "StudyDate", "StudyTime", "Modality"),
    *("PatientSex", "PatientAge", "PatientSize", "PatientWeight", "Manufacturer"),
    *("Rows", "Columns", "NumberOfFrames", "PixelSpacing", "SliceThickness"),
    *("ImageOrientationPatient", "ImagePositionPatient", "SpacingBetweenSlices"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("DimensionOrganizationSequence", "DimensionIndexSequence", "InstanceNumber"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
"""The elements that are read of a source image. highdicom copies everything about patient, study
and device into the objects, so nothing else may be present."""
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")
_SHARED = ("StudyInstanceUID", "FrameOfReferenceUID")
_TYPE_2 = (*_PERSONAL[:6], "PatientSex", "StudyDate", "StudyTime")
"""Elements that the standard requires even if they are empty."""
_TEXTS = (
    *("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName"),
    *("StudyDescription", "IssuerOfPatientID", "PositionReferenceIndicator"),
    *("StudyDate", "PatientBirthDate", "StudyTime", "PatientAge"),
)
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_REMEDY = "Fetch the series again, or leave DICOM output out."


def read_sources(series: Series, *, keep_names: bool) -> list[Dataset]:
    """Headers of all images of a series, in the order of their places.

    Values that their value representation forbids are corrected or left out.

    Parameters
    ----------
    keep_names
        Also read the patient's name, number, birth date and similar values.

    Raises
    ------
    FileFormatError
        Objects cannot refer to an image, because a UID is missing, damaged or that of another
        image.
    """
    import pydicom

    wanted = [*_READ, *(_PERSONAL if keep_names else ())]
    images: list[tuple[float, int, Dataset]] = []
    known: dict[str, tuple[float, Path]] = {}
    for path in series.files:
        with quiet_pydicom():
            image = pydicom.dcmread(
                path, stop_before_pixels=True, force=True, specific_tags=[*wanted]
            )
            _require_uids(path, image)
            _mend(image, series.uid)
        if images:
            _require_same(path, image, series.files[0], images[0][2])
        depth_mm = planes_of(path, image)[0].depth_mm
        other_mm, other = known.setdefault(text(image, "SOPInstanceUID"), (depth_mm, path))
        if abs(other_mm - depth_mm) > 1e-3:
            raise FileFormatError(
                path,
                expected="a SOPInstanceUID of its own, by which objects refer to an image",
                found=f"that of {other.name}, which lies elsewhere",
                remedy=_REMEDY,
            )
        if other is path:  # otherwise a copy
            images.append((depth_mm, len(images), image))
    images.sort(key=lambda item: item[:2])
    sources = [image for *_, image in images]
    _fill_thickness(sources, sorted({depth_mm for depth_mm, *_ in images}))
    return sources


def _require_uids(path: Path, image: Dataset) -> None:
    """Raise FileFormatError for a UID that is missing or cannot be one.

    Components with leading zeros violate the standard, but are accepted, because an archive stores
    the image under that UID.
    """
    from pydicom.uid import UID

    for keyword in _REQUIRED:
        uid = text(image, keyword)
        damaged = not re.fullmatch(r"\d+(\.\d+)+", uid) or len(uid) > 64
        if damaged or (keyword == "SOPClassUID" and UID(uid).name == uid):
            raise FileFormatError(
                path,
                expected=f"a {keyword}, by which objects refer to an image",
                found=uid or "none",
                remedy=_REMEDY,
            )


def _require_same(path: Path, image: Dataset, first_path: Path, first: Dataset) -> None:
    for keyword in _SHARED:
        if text(image, keyword) != text(first, keyword):
            raise FileFormatError(
                path,
                expected=f"one {keyword} in all images of a series",
                found=f"{text(image, keyword)}; in {first_path.name} {text(first, keyword)}",
                remedy=_REMEDY,
            )


def _mend(image: Dataset, series: str) -> None:
    """Supply what highdicom requires of a source, if the header lacks it or it is damaged."""
    from pydicom.multival import MultiValue
    from pydicom.uid import generate_uid

    # highdicom takes only some character sets; this one can hold every name.
    image.decode()
    image.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _TEXTS:
        if keyword in image:
            value = value_of(image, keyword)
            one = "" if value is None or isinstance(value, MultiValue) else str(value).strip(" \0")
            setattr(image, keyword, _allowed(image[keyword].VR, one))
    for keyword in ("PatientSize", "PatientWeight", "SliceThickness"):
        value = _number(text(image, keyword))
        if value is not None:
            setattr(image, keyword, value)
        elif keyword in image:
            del image[keyword]
    if text(image, "LossyImageCompression") not in ("00", "01"):
        for keyword in _LOSSY:
            image.pop(keyword, None)
    if text(image, "PatientSex") not in ("M", "F", "O"):
        image.PatientSex = ""
    for keyword in _TYPE_2:
        if value_of(image, keyword) is None:
            setattr(image, keyword, "")
    uid = text(image, "FrameOfReferenceUID")
    if not re.fullmatch(r"[012](\.\d+)+", uid) or len(uid) > 64:
        image.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", series])


def _allowed(kind: str, value: str) -> str:
    """A text that its value representation allows; "" if that is impossible.

    Source: DICOM PS3.5, 6.2.
    """
    from pydicom import config
    from pydicom.valuerep import DA, TM, validate_value

    if kind in ("DA", "TM"):  # before DICOM 3.0, dates had dots and times colons
        value = re.sub(r"(?<=\d)[.:](?=\d\d)", "", value)
    if kind == "AS" and (age := re.fullmatch(r"(\d{1,3})([DWMY])", value.upper())):
        value = f"{int(age[1]):03}{age[2]}"
    try:
        validate_value(kind, value, config.RAISE)
        if kind in ("DA", "TM"):
            {"DA": DA, "TM": TM}[kind](value)  # which refuses ranges
    except ValueError:
        return ""
    foreign = "\\" in value or any(ord(character) < 32 for character in value)
    too_many = kind == "PN" and any(group.count("^") > 4 for group in value.split("="))
    return "" if foreign or too_many else value


def _number(value: str) -> float | None:
    """A positive number, with the precision of a decimal string of 16 characters; None for
    others."""
    try:
        number = float(f"{float(value):.8g}")
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _fill_thickness(sources: Sequence[Dataset], depths_mm: Sequence[float]) -> None:
    """Fill in a missing slice thickness with the distance between slices."""
    usual_mm = round(float(np.median(np.diff(depths_mm))), 6) if len(depths_mm) > 1 else None
    for source in sources:
        if "SliceThickness" not in source:
            source.SliceThickness = usual_mm


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Suppress Python's warnings about values that violate the standard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
