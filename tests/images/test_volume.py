"""The positions of voxels: Volume, the comparison of grids, and the bridge to SimpleITK."""

from __future__ import annotations

import doctest
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrd.errors import AffineError, GridMismatchError
from medrd.images import geometry
from medrd.images.nifti import read_nifti, write_nifti
from medrd.images.sitk import to_sitk
from medrd.images.volume import Volume, check_same_grid, volume_from_array

SHEARED = np.array([[2.0, 0.6, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])


def oblique(shape: tuple[int, int, int] = (3, 4, 5), turn: float = 0.3) -> Volume:
    """A left-handed oblique anisotropic scan with a different number in each voxel."""
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(turn, -0.2, 0.1) @ np.diag([-1.0, 1.0, 3.0])
    affine[:3, 3] = (30.0, -40.0, 50.0)
    return volume_from_array(np.arange(np.prod(shape)).reshape(shape), affine)


def test_doctests() -> None:
    outcome = doctest.testmod(geometry)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_volume_says_where_it_lies() -> None:
    volume = oblique()
    assert volume.shape == (3, 4, 5)
    assert volume.orientation == "LAS"
    assert volume.spacing_mm == pytest.approx((1, 1, 3))
    assert volume.voxel_volume_mm3 == pytest.approx(3)


def test_the_volume_of_a_sheared_voxel_is_not_the_product_of_its_edges() -> None:
    volume = volume_from_array(np.ones((2, 2, 2)), SHEARED)
    assert volume.voxel_volume_mm3 == pytest.approx(12)
    assert np.prod(volume.spacing_mm) > 12.5
    assert volume.grid.qform_code == 0  # a quaternion cannot hold a shear


def test_an_affine_to_nowhere_is_refused() -> None:
    for affine in (np.diag([1.0, 1, 0, 1]), np.full((4, 4), np.nan), np.ones((4, 4))):
        with pytest.raises(AffineError):
            volume_from_array(np.ones((2, 2, 2)), affine)


def test_parts_that_do_not_fit_make_no_volume() -> None:
    volume = oblique()
    for changes in (
        {"array": volume.array.astype("f8")},
        {"array": volume.array[0]},
        {"array": volume.array[:2]},
        {"affine": np.eye(3)},
        {"grid": replace(volume.grid, shape=(3, 4, 5, 2))},
    ):
        with pytest.raises(ValueError, match=r"expected|does not fit"):
            replace(volume, **changes)


@pytest.mark.parametrize(("offset_mm", "farthest_mm"), [(0.0, 0.95), (-1.0, 1.05)])
def test_displacement_is_taken_at_the_outer_corners(offset_mm: float, farthest_mm: float) -> None:
    first, second = np.eye(4), np.eye(4)
    first[0, 0] += 0.1
    first[0, 3] += offset_mm
    apart_mm = geometry.max_displacement_mm(first, second, (10, 1, 1))  # x from -0.5 to 9.5
    assert apart_mm == pytest.approx(farthest_mm)


def moved(volume: Volume, change: np.ndarray) -> Volume:
    return replace(volume, affine=volume.affine + change, path=Path("moved.nii"))


def test_the_same_grid_through_float32_is_the_same() -> None:
    volume = oblique((240, 240, 155))
    again = moved(volume, np.full((4, 4), 1e-7))
    check_same_grid({"flair": volume, "t1": again, "t2": volume})
    check_same_grid({})


def test_a_shift_is_a_mismatch_that_names_both_files() -> None:
    reference = replace(oblique(), path=Path("flair.nii"))
    shift = np.zeros((4, 4))
    shift[1, 3] = 0.01
    with pytest.raises(GridMismatchError, match=r"flair \(flair.nii\).*t1 \(moved.nii\).*0.01 mm"):
        check_same_grid({"flair": reference, "t1": moved(reference, shift)})


def test_a_turn_about_the_first_voxel_is_seen_at_the_far_corner() -> None:
    reference = oblique((240, 240, 155))
    turned = oblique((240, 240, 155), turn=0.3 + 1e-4)
    np.testing.assert_array_equal(reference.affine[:, 3], turned.affine[:, 3])
    with pytest.raises(GridMismatchError):
        check_same_grid({"flair": reference, "t1": turned})


def test_an_axis_of_one_voxel_counts_too() -> None:
    reference = oblique((3, 4, 1))
    flipped = reference.affine * np.array([1, 1, -1, 1])
    with pytest.raises(GridMismatchError):
        check_same_grid({"flair": reference, "t1": replace(reference, affine=flipped)})


def test_other_shapes_are_a_mismatch() -> None:
    with pytest.raises(GridMismatchError, match=r"3 × 4 × 5.*found 3 × 4 × 6"):
        check_same_grid({"flair": oblique(), "t1": oblique((3, 4, 6))})


def test_sitk_image_has_each_voxel_at_its_place() -> None:
    pytest.importorskip("SimpleITK")
    volume = oblique()
    image = to_sitk(volume)
    assert image.GetSize() == (3, 4, 5)
    for index in np.ndindex(volume.shape):
        assert image[index] == volume.array[index]
        ras = volume.affine @ (*index, 1)
        lps = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(lps, ras[:3] * (-1, -1, 1), atol=1e-9)


def test_sitk_reads_what_we_write_at_the_same_place(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    volume = oblique()
    write_nifti(tmp_path / "map.nii.gz", volume.array, volume, dtype="float32")
    theirs, ours = sitk.ReadImage(str(tmp_path / "map.nii.gz")), to_sitk(volume)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs), sitk.GetArrayFromImage(ours))
    for what in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(theirs, what)(), getattr(ours, what)(), atol=1e-5)


def test_sitk_gets_the_sform_where_its_own_reader_takes_the_qform(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image = nib.Nifti1Image(np.ones((3, 4, 5), "f4"), np.diag([-1.0, -1, 1, 1]))
    elsewhere = image.affine.copy()
    elsewhere[0, 3] = 10
    image.set_sform(image.affine, code=2)
    image.set_qform(elsewhere, code=1)
    path = tmp_path / "scan.nii"
    nib.save(image, path)
    assert to_sitk(read_nifti(path)).GetOrigin() == (0, 0, 0)
    assert sitk.ReadImage(str(path)).GetOrigin() == (-10, 0, 0)  # why the bridge is there


def test_sitk_gets_no_sheared_grid() -> None:
    pytest.importorskip("SimpleITK")
    with pytest.raises(AffineError, match="sheared"):
        to_sitk(volume_from_array(np.ones((2, 2, 2)), SHEARED))


def test_importing_the_layer_imports_nothing_heavy() -> None:
    code = (
        "import sys, medrd.images.nifti, medrd.images.read; "
        "print(*{'torch', 'monai', 'SimpleITK', 'ray', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
