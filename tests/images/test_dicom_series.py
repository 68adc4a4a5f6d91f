"""Which files of a folder make a series, what it is, and which one is meant."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import generate_uid

from dicoms import write_series
from medrd.errors import SeriesError
from medrd.images.dicom import read_dicom
from medrd.images.dicom_series import described_kind, find_series, holds_dicom, is_dicom

SHAPE = (5, 8, 10)


@pytest.fixture(scope="module")
def voxels() -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.uint16)


@pytest.mark.parametrize("bare", [False, True])
def test_files_without_a_preamble_are_read(
    tmp_path: Path, voxels: NDArray[np.uint16], bare: bool
) -> None:
    """Old archives store the data set alone, in implicit encoding and without group 2."""
    write_series(tmp_path, voxels)
    expected = read_dicom(tmp_path)
    for path in tmp_path.iterdir():
        if bare:
            data = pydicom.dcmread(path)
            del data.file_meta
            data.preamble = None
            pydicom.dcmwrite(
                path, data, implicit_vr=True, little_endian=True, enforce_file_format=False
            )
        else:
            path.write_bytes(path.read_bytes()[132:])
        assert b"DICM" not in path.read_bytes()[:140]
    assert holds_dicom(tmp_path)
    volume = read_dicom(tmp_path)
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_array_equal(volume.affine, expected.affine)


NIFTI, GZIP = b"\x5c\x01\0\0" + bytes(344), b"\x1f\x8b\x08\0" + bytes(200)


@pytest.mark.parametrize("content", [b"", b"\x08\x00", NIFTI, GZIP, bytes(200)])
def test_other_files_are_not_taken_for_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not is_dicom(tmp_path / "file")


def test_a_disc_with_its_index_holds_its_series(tmp_path: Path, voxels: NDArray[np.uint16]) -> None:
    uid = write_series(tmp_path / "in", voxels)
    disc = FileSet()
    for path in (tmp_path / "in").iterdir():
        data = pydicom.dcmread(path)
        data.StudyID, data.AccessionNumber = "1", ""
        disc.add(data)
    disc.write(tmp_path / "disc")
    (folder,) = {path.parent for path in (tmp_path / "disc").rglob("*") if is_dicom(path)}
    expected = read_dicom(tmp_path / "in")
    np.testing.assert_array_equal(read_dicom(folder).array, expected.array)
    shutil.copy(tmp_path / "disc" / "DICOMDIR", folder)
    assert [series.uid for series in find_series(folder)] == [uid]


@pytest.mark.parametrize(
    ("characters", "description"),
    [
        ("ISO_IR 100", "FLAIR für Kopf"),
        ("ISO_IR 192", "T2 FLAIR 頭部"),
        ("ISO_IR 144", "FLAIR головной"),
        (["", "ISO 2022 IR 87"], "FLAIR 頭部"),
    ],
)
def test_descriptions_in_any_character_set(
    tmp_path: Path, voxels: NDArray[np.uint16], characters: str | list[str], description: str
) -> None:
    def change(data: Dataset, number: int) -> None:
        data.SpecificCharacterSet = characters
        data.SeriesDescription = description
        data.PatientName = description.split()[-1]

    write_series(tmp_path / description, voxels, change=change)
    volume = read_dicom(tmp_path / description)
    assert volume.description == description
    np.testing.assert_array_equal(volume.array, voxels.transpose(2, 1, 0)[:, ::-1])


def test_of_an_export_the_table_tells_scan_and_scout_apart(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    def flair(data: Dataset, number: int) -> None:
        data.SeriesDescription = "AX T2 FLAIR FS"

    def scout(data: Dataset, number: int) -> None:
        data.SeriesDescription, data.ImageType = "3 plane", ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    uid = write_series(tmp_path, voxels, change=flair, prefix="a")
    write_series(tmp_path, voxels[:2], change=scout, prefix="b")
    report = pydicom.dcmread(tmp_path / "a000")
    del report.Rows, report.PixelData
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.SeriesInstanceUID = generate_uid()
    report.save_as(tmp_path / "report")
    with pytest.raises(SeriesError) as raised:
        read_dicom(tmp_path)
    rows = raised.value.found.strip().splitlines()[2:]
    cells = [re.split(r"\s{2,}", row.strip()) for row in rows]
    assert [row[1:] for row in cells] == [
        ["AX T2 FLAIR FS", "5 of 10 x 8", "flair"],
        ["3 plane", "2 of 10 x 8", "scout"],
    ]
    np.testing.assert_array_equal(
        read_dicom(tmp_path, series=uid).array, voxels.transpose(2, 1, 0)[:, ::-1]
    )


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ("t2_tirm_tra_dark-fluid", "flair"),
        ("AX FLAIR", "flair"),
        ("3D T2 FLAIR SPACE", "flair"),
        ("SAG T1 FLAIR", "t1"),
        ("t1_mprage_sag_p2_iso", "t1"),
        ("T1 pre-contrast", "t1"),
        ("Ax T1 +C", "t1ce"),
        ("t1_mprage_tra_post_GD", "t1ce"),
        ("T1W_3D_TFE CONTRAST", "t1ce"),
        ("t2_tse_tra", "t2"),
        ("AX T2* GRE", "susceptibility"),
        ("ep2d_diff_3scan_trace_ADC", "diffusion"),
        ("AAHead_Scout", "scout"),
        ("Survey_32ch_HeadCoil", "scout"),
        ("head", None),
        ("", None),
    ],
)
def test_descriptions_tell_the_kind(description: str, kind: str | None) -> None:
    assert described_kind(description) == kind
