"""Synthetic DICOM series for the tests: arrays written slice by slice, not patients' scans."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

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
        data = _instance(MRImageStorage)
        data.SeriesInstanceUID, data.StudyInstanceUID = series, study
        data.FrameOfReferenceUID = place
        data.PatientPosition = "HFS"
        data.SeriesNumber, data.InstanceNumber = 1, number + 1
        data.SeriesDescription = "simulated"
        data.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        data.EchoTime, data.RepetitionTime, data.MRAcquisitionType = 10, 500, "2D"
        data.Rows, data.Columns = pixels.shape
        data.PixelSpacing = list(spacing_mm[:2])
        data.SliceThickness = abs(spacing_mm[2])
        data.ImageOrientationPatient = decimals([*plane[0], *plane[1]])
        data.ImagePositionPatient = decimals(origin_mm + number * spacing_mm[2] * normal)
        _put_pixels(data, pixels)
        if change is not None:
            change(data, number)
        data.save_as(folder / f"{prefix}{number:03d}", enforce_file_format=True)
    return str(series)


def write_enhanced(
    path: Path,
    array: ArrayLike,
    *,
    plane: tuple[Sequence[float], Sequence[float]] = AXIAL,
    spacing_mm: tuple[float, float, float] = (2.0, 1.5, 3.0),
    origin_mm: Sequence[float] = (-20.0, -30.0, 10.0),
    volumes: int = 1,
    change: Callable[[Dataset], None] | None = None,
) -> None:
    """Write (frames, rows, columns) of uint16 as one enhanced multi-frame MR image.

    With several ``volumes`` the frames of a place follow each other.
    """
    pixels = np.asarray(array, np.uint16)
    data = _instance(EnhancedMRImageStorage)
    data.PatientPosition = "HFS"
    data.SeriesInstanceUID, data.StudyInstanceUID = generate_uid(), generate_uid()
    data.FrameOfReferenceUID = generate_uid()
    data.SeriesNumber, data.InstanceNumber, data.SeriesDescription = 1, 1, "simulated"
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.NumberOfFrames, data.Rows, data.Columns = pixels.shape
    _put_pixels(data, pixels)
    data.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=[
                _item(
                    PixelSpacing=list(spacing_mm[:2]),
                    SliceThickness=abs(spacing_mm[2]),
                    SpacingBetweenSlices=abs(spacing_mm[2]),
                )
            ],
            PlaneOrientationSequence=[
                _item(ImageOrientationPatient=decimals([*plane[0], *plane[1]]))
            ],
            PixelValueTransformationSequence=[
                _item(RescaleSlope=1.0, RescaleIntercept=0.0, RescaleType="US")
            ],
        )
    ]
    normal = np.cross(*plane)
    frames = []
    for number in range(len(pixels)):
        at, volume = divmod(number, volumes)
        place = decimals(origin_mm + at * spacing_mm[2] * normal)
        content = _item(
            DimensionIndexValues=[1, at + 1, volume + 1],
            StackID="1",
            InStackPositionNumber=at + 1,
            TemporalPositionIndex=volume + 1,
        )
        frames.append(
            _item(
                FrameContentSequence=[content],
                PlanePositionSequence=[_item(ImagePositionPatient=place)],
            )
        )
    data.PerFrameFunctionalGroupsSequence = frames
    organisation = generate_uid()
    data.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organisation)]
    data.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=0x00209111,
        )
        for pointer in (0x00209056, 0x00209057, 0x00209128)
    ]
    if change is not None:
        change(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def write_mosaic(
    folder: Path,
    array: ArrayLike,
    *,
    plane: tuple[Sequence[float], Sequence[float]] = AXIAL,
    spacing_mm: tuple[float, float, float] = (2.0, 1.5, 3.0),
    origin_mm: Sequence[float] = (-20.0, -30.0, 10.0),
    tagged: bool = True,
) -> None:
    """Write (slices, rows, columns) as one image of tiles, as Siemens does for EPI.

    dcm2niix asks of it ImageType MOSAIC, and of the private CSA header the number of slices and
    the direction in which they follow each other. The position is that of a single image of the
    whole mosaic's size around the first slice's centre.

    Parameters
    ----------
    tagged
        Whether it has that CSA header.
    """
    voxels = np.asarray(array, np.uint16)
    count, rows, columns = voxels.shape
    side = int(np.ceil(np.sqrt(count)))
    tiles = np.zeros((side * rows, side * columns), np.uint16)
    for number, pixels in enumerate(voxels):
        down, right = divmod(number, side)
        tiles[down * rows :, right * columns :][:rows, :columns] = pixels
    row, column = (np.asarray(direction) for direction in plane)
    corner = origin_mm - (side - 1) / 2 * (
        columns * spacing_mm[1] * row + rows * spacing_mm[0] * column
    )
    along = np.cross(row, column) * np.sign(spacing_mm[2])

    def change(data: Dataset, number: int) -> None:
        data.Manufacturer, data.ImageType = "SIEMENS", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
        data.ImagePositionPatient = decimals(corner)
        data.SpacingBetweenSlices = abs(spacing_mm[2])
        if tagged:
            block = data.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
            elements = {
                "NumberOfImagesInMosaic": ("US", [str(count)]),
                "SliceNormalVector": ("FD", [f"{value:.8f}" for value in along]),
            }
            block.add_new(0x10, "OB", _csa(elements))

    write_series(folder, tiles[None], plane=plane, spacing_mm=spacing_mm, change=change)


def _csa(elements: dict[str, tuple[str, list[str]]]) -> bytes:
    """A Siemens CSA header of the second kind (nibabel's documentation describes it)."""
    items = 6
    written = b"SV10\4\3\2\1" + struct.pack("<II", len(elements), 77)
    for name, (kind, values) in elements.items():
        head = (name.encode(), len(values), kind.encode(), 0, items, 77)
        written += struct.pack("<64si4siii", *head)
        for value in [*values, *[""] * (items - len(values))]:
            content = value.encode() + b"\0" if value else b""
            written += struct.pack("<4i", len(content), len(content), 77, len(content))
            written += content + bytes(-len(content) % 4)
    return written


def _instance(kind: str) -> Dataset:
    """What all instances have."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = kind
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Modality, data.Manufacturer = "MR", "medrd tests"
    data.PatientName, data.PatientID = "Nobody", "0"
    data.StudyDate, data.StudyTime, data.SeriesTime = "20200101", "000000", "000000"
    data.ContentDate, data.ContentTime = "20200101", "000000"
    return data


def _put_pixels(data: Dataset, pixels: NDArray[np.uint16]) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = 0
    data.PixelData = pixels.astype("<u2").tobytes()


def _item(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def decimals(values: ArrayLike) -> list[float]:
    """Round values as scanners do, since a decimal string has 16 characters."""
    return [round(float(value), 6) for value in np.asarray(values)]
