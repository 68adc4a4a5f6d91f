"""Synthetic DICOM series for the tests: arrays written slice by slice, not patients' scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))

Change = Callable[[Dataset, int], None]


def write_series(
    folder: Path,
    array: ArrayLike,
    *,
    plane: tuple[Sequence[float], Sequence[float]] = AXIAL,
    spacing_mm: tuple[float, float, float] = (2.0, 1.5, 3.0),
    origin_mm: Sequence[float] = (-20.0, -30.0, 10.0),
    change: Change | None = None,
    prefix: str = "",
) -> str:
    """Write (slices, rows, columns) of uint16, one file a slice; the Series Instance UID.

    Parameters
    ----------
    plane
        Directions of rows and columns, LPS.
    spacing_mm
        Between rows, columns and slices; a negative distance of slices runs backwards.
    change
        What a test wants otherwise: called with each data set and its number before writing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    voxels: NDArray[np.uint16] = np.asarray(array, np.uint16)
    normal = np.cross(*plane)
    series, study, place = generate_uid(), generate_uid(), generate_uid()
    for number, pixels in enumerate(voxels):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = MRImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.StudyInstanceUID = series, study
        data.FrameOfReferenceUID = place
        data.Modality, data.Manufacturer = "MR", "medrd tests"
        data.SeriesNumber, data.InstanceNumber = 1, number + 1
        data.SeriesDescription = "simulated"
        data.PatientName, data.PatientID = "Nobody", "0"
        data.StudyDate, data.StudyTime, data.SeriesTime = "20200101", "000000", "000000"
        data.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        data.EchoTime, data.RepetitionTime, data.MRAcquisitionType = 10, 500, "2D"
        data.Rows, data.Columns = pixels.shape
        data.PixelSpacing = list(spacing_mm[:2])
        data.SliceThickness = abs(spacing_mm[2])
        data.ImageOrientationPatient = decimals([*plane[0], *plane[1]])
        data.ImagePositionPatient = decimals(origin_mm + number * spacing_mm[2] * normal)
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 0
        data.PixelData = pixels.astype("<u2").tobytes()
        if change is not None:
            change(data, number)
        data.save_as(folder / f"{prefix}{number:03d}", enforce_file_format=True)
    return str(series)


def decimals(values: ArrayLike) -> list[float]:
    """Round values as scanners do, since a decimal string has 16 characters."""
    return [round(float(value), 6) for value in np.asarray(values)]
