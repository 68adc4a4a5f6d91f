"""Phantom brains: what they hold, how they are drawn, and how a cohort is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrd.errors import ConfigError, OutputError
from medrd.phantom import cohort as phantom
from medrd.phantom.anatomy import (
    Head,
    Tissues,
    load_template,
    make_head,
    make_tissues,
)
from medrd.phantom.cohort import MODALITIES, Phantom, make_subject, write_cohort
from medrd.phantom.contrast import make_surroundings, render
from medrd.phantom.fields import evaluate_spline, knots, random_field
from medrd.phantom.lesions import (
    ENHANCING,
    NECROSIS,
    OEDEMA,
    Lesion,
    LesionPlan,
    displace,
    grow_lesion,
    plan_lesion,
    shortest_paths,
)
from medrd.phantom.scanner import Acquisition, excite, interpolate, scan


@pytest.fixture(scope="module")
def high_grade() -> Phantom:
    return make_subject(0, seed=7)


@pytest.fixture(scope="module")
def low_grade() -> Phantom:
    return make_subject(3, seed=7)


@dataclass(frozen=True)
class Stages:
    head: Head
    plan: LesionPlan
    mni_mm: np.ndarray
    tissues: Tissues
    lesion: Lesion
    signals: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def stages() -> Stages:
    """A high-grade subject before it is scanned, with its true tissues."""
    rng = np.random.default_rng(5)
    template = load_template()
    head = make_head(rng, template)
    plan = plan_lesion(rng, template, head, high_grade=True)
    mni_mm = displace(head, plan)
    tissues = make_tissues(rng, template, head, mni_mm)
    lesion = grow_lesion(rng, head, tissues, plan)
    surroundings = make_surroundings(rng, head, tissues, mni_mm)
    signals = render(rng, head, tissues, surroundings, lesion, mni_mm, high_grade=True)
    return Stages(head, plan, mni_mm, tissues, lesion, signals)


# --- fields


def test_spline_of_equal_coefficients_is_constant_and_of_a_line_is_that_line() -> None:
    shape, spacing = (9, 14, 21), 4.5
    ones = np.ones(knots(shape, spacing), np.float32)
    np.testing.assert_allclose(evaluate_spline(ones, shape, spacing), 1, atol=1e-6)
    # Knot i lies at voxel (i - 1) * spacing; the deformation relies on it.
    line = ones * ((np.arange(ones.shape[1]) - 1) * spacing)[None, :, None]
    expected = np.broadcast_to(np.arange(14)[None, :, None], shape)
    np.testing.assert_allclose(evaluate_spline(line, shape, spacing), expected, atol=1e-4)


def test_random_field_has_unit_variance_at_any_spacing() -> None:
    rng = np.random.default_rng(0)
    for spacing in (2.0, 3.7, 6.0):
        field = random_field(rng, (90, 80, 70), spacing)
        assert field.std() == pytest.approx(1.0, abs=0.08)
        assert field.mean() == pytest.approx(0.0, abs=0.1)


# --- one subject


def test_subject_has_the_brats_grid_and_types(high_grade: Phantom) -> None:
    assert high_grade.subject_id == "Phantom_000"
    assert tuple(high_grade.modalities) == ("flair", "t1", "t1ce", "t2")
    for array in high_grade.modalities.values():
        assert array.shape == (240, 240, 155)
        assert array.dtype == np.int16
    assert high_grade.labels.dtype == np.uint8
    assert nib.aff2axcodes(high_grade.affine) == ("L", "P", "S")
    np.testing.assert_array_equal(high_grade.affine @ [0, 239, 0, 1], [0, 0, 0, 1])


def test_brain_is_the_same_in_all_modalities_and_of_a_brains_size(
    high_grade: Phantom, low_grade: Phantom
) -> None:
    for subject in (high_grade, low_grade):
        brain = subject.modalities["flair"] > 0
        for array in subject.modalities.values():
            np.testing.assert_array_equal(array > 0, brain)
            assert array.min() == 0
        # The real subjects' span 1,174 to 1,553 ml.
        assert 1150e3 < brain.sum() < 1700e3
        # Whole but for the brainstem, which BraTS cuts at the lowest slice.
        assert brain[:, :, 0].any()
        assert not any(brain[:, :, -1].flat)
        assert not brain[[35, 203]].any()
        assert not brain[:, [28, 229]].any()


def test_brain_lies_as_the_affine_says(stages: Stages) -> None:
    x, y, z = stages.head.mni_mm
    right, posterior, superior = stages.head.voxels
    # Voxels run left, posterior and superior: MNI coordinates run right, anterior, superior.
    assert np.corrcoef(right, x)[0, 1] < -0.98
    assert np.corrcoef(posterior, y)[0, 1] < -0.98
    assert np.corrcoef(superior, z)[0, 1] > 0.98


def test_labels_lie_in_the_brain_and_a_high_grade_lesion_has_all_three(
    high_grade: Phantom,
) -> None:
    assert set(np.unique(high_grade.labels)) == {0, NECROSIS, OEDEMA, ENHANCING}
    assert (high_grade.modalities["flair"][high_grade.labels > 0] > 0).all()


def test_low_grade_lesion_hardly_enhances(low_grade: Phantom) -> None:
    enhancing = (low_grade.labels == ENHANCING).sum()
    core = np.isin(low_grade.labels, (NECROSIS, ENHANCING)).sum()
    assert core > 1000
    assert enhancing <= 0.05 * core


def test_lesion_is_bright_on_flair_and_only_the_rim_takes_up_contrast(
    high_grade: Phantom,
) -> None:
    def median(modality: str, where: np.ndarray) -> float:
        array = high_grade.modalities[modality]
        return float(np.median(array[where]) / np.median(array[array > 0]))

    labels = high_grade.labels
    lesion, rim, oedema = labels > 0, labels == ENHANCING, labels == OEDEMA
    assert median("flair", lesion) > 1.15
    assert median("t2", lesion) > 1.05
    assert median("t1ce", rim) > 1.15 * median("t1", rim)
    assert median("t1ce", oedema) < 1.1 * median("t1", oedema)


def test_flair_intensity_alone_does_not_separate_the_lesion(high_grade: Phantom) -> None:
    flair, labels = high_grade.modalities["flair"], high_grade.labels
    normal = flair[(flair > 0) & (labels == 0)]
    oedema = flair[labels == OEDEMA]
    # Hundreds of times the lesion's worth of voxels: their brightest overlap its dimmest.
    assert np.percentile(normal, 97) > np.percentile(oedema, 15)


def test_intensities_spread_as_in_real_subjects(
    high_grade: Phantom, low_grade: Phantom, brats_root: Path
) -> None:
    def spread(array: np.ndarray) -> np.ndarray:
        inside = array[array > 0]
        return np.percentile(inside, [5, 25, 75, 95]) / np.median(inside)

    folders = sorted(brats_root.iterdir())[::3]
    for modality in MODALITIES:
        paths = [folder / f"{folder.name}_{modality}.nii.gz" for folder in folders]
        real = np.array([spread(np.asarray(nib.load(path).dataobj)) for path in paths])
        for subject in (high_grade, low_grade):
            ours = spread(subject.modalities[modality])
            assert (ours > real.min(axis=0) - 0.25).all(), modality
            assert (ours < real.max(axis=0) + 0.25).all(), modality


def test_subject_is_a_function_of_seed_and_index_alone(high_grade: Phantom) -> None:
    again = make_subject(0, seed=7)
    for name in MODALITIES:
        np.testing.assert_array_equal(again.modalities[name], high_grade.modalities[name])
    np.testing.assert_array_equal(again.labels, high_grade.labels)


def test_other_index_and_other_seed_are_other_people(
    high_grade: Phantom, low_grade: Phantom
) -> None:
    other_seed = make_subject(0, seed=8)
    brain = high_grade.modalities["t1"] > 0
    for other in (low_grade, other_seed):
        assert ((other.modalities["t1"] > 0) != brain).sum() > 20e3
        assert ((other.labels > 0) != (high_grade.labels > 0)).sum() > 5e3


def test_negative_index_is_refused() -> None:
    with pytest.raises(ConfigError, match="index"):
        make_subject(-1)


# --- its making


def test_deformation_and_mass_effect_do_not_fold_the_brain(stages: Stages) -> None:
    head = stages.head
    inner = head.mask.copy()
    for axis in range(3):
        inner &= np.roll(head.mask, 1, axis) & np.roll(head.mask, -1, axis)
    for coordinates in (head.mni_mm, stages.mni_mm):
        volumes = [head.volume(axis) for axis in coordinates]
        jacobian = np.stack([np.stack(np.gradient(volume)) for volume in volumes])
        determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))[inner]
        assert determinant.min() > 0


def test_lesion_pushes_tissue_outwards_and_leaves_the_skull(stages: Stages) -> None:
    head, plan = stages.head, stages.plan
    distance = np.linalg.norm(head.mni_mm - plan.centre_mni_mm[:, None], axis=0)
    source = np.linalg.norm(stages.mni_mm - plan.centre_mni_mm[:, None], axis=0)
    pushed_mm = distance - source
    assert pushed_mm.min() > -1e-3
    border = np.abs(distance - plan.core_radius_mm) < 2
    assert pushed_mm[border].max() > 0.8 * plan.push_mm
    assert np.abs(pushed_mm[head.depth_mm <= 0]).max() < 1e-3


def test_lesion_has_the_planned_volumes(stages: Stages) -> None:
    labels, plan = stages.lesion.labels, stages.plan
    volumes_ml = {
        "whole": (labels > 0).sum() / 1000,
        "core": np.isin(labels, (NECROSIS, ENHANCING)).sum() / 1000,
        "enhancing": (labels == ENHANCING).sum() / 1000,
    }
    expected = {
        "whole": plan.whole_ml,
        "core": plan.core_ml,
        "enhancing": plan.enhancing_ml,
    }
    assert volumes_ml == pytest.approx(expected, abs=0.01)


def test_oedema_follows_white_matter_and_spares_csf(stages: Stages) -> None:
    tissues, labels = stages.tissues, stages.lesion.labels
    oedema = labels == OEDEMA
    assert tissues.white[oedema].mean() > 1.3 * tissues.white.mean()
    assert tissues.csf[oedema].mean() < 0.3 * tissues.csf.mean()


def test_tissues_are_ordered_by_modality(stages: Stages) -> None:
    tissues = stages.tissues
    healthy = (stages.lesion.oedema < 0.01) & (stages.head.depth_mm > 5)

    def means(modality: str) -> tuple[float, float, float]:
        signal = stages.signals[modality]
        pure = [(t > 0.9) & healthy for t in (tissues.csf, tissues.grey, tissues.white)]
        assert min(p.sum() for p in pure) > 1000
        csf, grey, white = (float(np.median(signal[p])) for p in pure)
        return csf, grey, white

    csf, grey, white = means("flair")
    assert csf < white < grey < 1.4 * white
    for modality in ("t1", "t1ce"):
        csf, grey, white = means(modality)
        assert csf < grey < white
    csf, grey, white = means("t2")
    assert white < grey < csf


def test_shortest_path_goes_round_a_wall() -> None:
    slowness = np.ones((21, 21, 1), np.float32)
    slowness[10, :16] = 1000
    inside = np.ones(slowness.shape, bool)
    travel = shortest_paths(slowness, inside, np.array([5, 5, 0], np.float32))
    assert travel[5, 5, 0] == 0
    assert travel[5, 9, 0] == pytest.approx(4)
    assert travel[8, 8, 0] == pytest.approx(3 * np.sqrt(2), rel=1e-5)
    # By (10, 16): 5 diagonal and 6 straight steps there, as many back.
    assert travel[15, 5, 0] == pytest.approx(2 * (5 * np.sqrt(2) + 6), rel=1e-5)


def test_thick_slices_average_over_their_slab() -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32), (2, 2, 40)).copy()
    slices, where = excite(ramp, 5.0, 1.0)
    # Away from the ends a ramp survives averaging and interpolation unchanged.
    np.testing.assert_allclose(interpolate(slices, where)[0, 0, 5:34], ramp[0, 0, 5:34], atol=1e-4)
    spike = np.zeros((1, 1, 40), np.float32)
    spike[..., 20] = 1
    slices, where = excite(spike, 5.0, 0.0)
    # A slab of five voxels holds a fifth of one of them.
    assert interpolate(slices, where).max() == pytest.approx(0.2)


def test_scan_keeps_the_signal_in_the_plans_unit(stages: Stages) -> None:
    plan = Acquisition(slice_mm=1.0, blur_px=0.3, noise=0.02, bias=0.0, unit=5000.0)
    signal = np.ones(stages.head.mask.sum(), np.float32)
    whole = scan(np.random.default_rng(0), stages.head, signal, plan)
    inside = whole[stages.head.box][stages.head.mask][stages.head.depth_mm > 5]
    assert np.median(inside) == pytest.approx(5000, rel=0.005)
    # Interpolation between slices and pixels takes a part of the noise away.
    assert 0.4 * 100 < inside.std() < 100


# --- the cohort on disk


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the simulation by tiny volumes; returns the indices that were made."""
    made: list[int] = []

    def make_tiny(index: int, *, seed: int = 0) -> Phantom:
        made.append(index)
        rng = np.random.default_rng([seed, index])
        arrays = {m: rng.integers(1, 900, (6, 5, 4)).astype(np.int16) for m in MODALITIES}
        labels = np.zeros((6, 5, 4), np.uint8)
        return Phantom(f"Phantom_{index:03d}", arrays, labels, phantom.BRATS_AFFINE)

    monkeypatch.setattr(phantom, "make_subject", make_tiny)
    return made


def test_written_volumes_are_the_subject_on_the_brats_grid(
    tmp_path: Path, high_grade: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantom, "make_subject", lambda index, seed: high_grade)
    names: list[str] = []
    (folder,) = write_cohort(tmp_path / "new" / "cohort", 1, on_done=names.append)
    assert names == ["Phantom_000"]
    for name, expected in {**high_grade.modalities, "seg": high_grade.labels}.items():
        image = nib.load(folder / f"Phantom_000_{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), expected)
        np.testing.assert_array_equal(image.affine, phantom.BRATS_AFFINE)
        np.testing.assert_array_equal(image.header.get_qform(), image.header.get_sform())
        assert image.header.get_zooms() == (1.0, 1.0, 1.0)
        assert image.get_data_dtype() == expected.dtype


def test_complete_subjects_are_kept_and_only_missing_ones_made(
    tmp_path: Path, quick: list[int]
) -> None:
    first = write_cohort(tmp_path, 2)
    folders = write_cohort(tmp_path, 3)
    assert quick == [0, 1, 2]
    assert folders[:2] == first
    assert sorted(p.name for p in tmp_path.iterdir()) == [f.name for f in folders]


@pytest.mark.parametrize("damage", ["truncated", "missing volume", "missing record"])
def test_half_written_subject_is_made_again(tmp_path: Path, quick: list[int], damage: str) -> None:
    folders = write_cohort(tmp_path, 2)
    volume = folders[1] / "Phantom_001_t2.nii.gz"
    whole = volume.read_bytes()
    if damage == "truncated":
        volume.write_bytes(whole[:-20])
    elif damage == "missing volume":
        volume.unlink()
    else:
        (folders[1] / "phantom.json").unlink()
    write_cohort(tmp_path, 2)
    assert quick == [0, 1, 1]
    assert volume.read_bytes() == whole


def test_other_seed_replaces_the_cohort(tmp_path: Path, quick: list[int]) -> None:
    write_cohort(tmp_path, 1, seed=1)
    (folder,) = write_cohort(tmp_path, 1, seed=2)
    assert quick == [0, 0]
    assert json.loads((folder / "phantom.json").read_text(encoding="utf-8"))["seed"] == 2


def test_interrupted_write_leaves_no_folder_and_the_next_run_finishes(
    tmp_path: Path, quick: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = nib.save, []

    def fail_at_third(image: object, path: Path) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path)
        save(image, path)

    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", fail_at_third)
        with pytest.raises(KeyboardInterrupt):
            write_cohort(tmp_path, 1)
    assert not list(tmp_path.iterdir())
    (folder,) = write_cohort(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["Phantom_000"]
    assert len(list(folder.iterdir())) == 6


def test_folder_with_somebody_elses_files_is_not_touched(tmp_path: Path, quick: list[int]) -> None:
    precious = tmp_path / "Phantom_000" / "notes.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        write_cohort(tmp_path, 1)
    assert precious.read_text(encoding="utf-8") == "mine"


def test_out_that_is_a_file_is_an_output_error(tmp_path: Path, quick: list[int]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_cohort(tmp_path / "file", 1)


def test_workers_keep_the_order_and_what_is_there(tmp_path: Path, quick: list[int]) -> None:
    names: list[str] = []
    expected = write_cohort(tmp_path, 3)
    assert write_cohort(tmp_path, 3, workers=2, on_done=names.append) == expected
    assert names == ["Phantom_000", "Phantom_001", "Phantom_002"]


@pytest.mark.parametrize(
    "arguments", [{"subjects": 0}, {"subjects": 1, "workers": 0}, {"subjects": 1, "seed": -1}]
)
def test_impossible_cohorts_are_config_errors(tmp_path: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        write_cohort(tmp_path, **arguments)
