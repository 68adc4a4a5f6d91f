"""Heads: linear maps, registration, brain extraction, and the figures that judge them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from medrd.errors import ConfigError, EmptyBrainError, InputError, ShapeError, WrongKindError
from medrd.images.sitk import to_sitk
from medrd.images.volume import volume_from_array
from medrd.preparation import head as head_module
from medrd.preparation import register as register_module
from medrd.preparation import similarity
from medrd.preparation.bias import around_head, correct_bias
from medrd.preparation.brain import deepbet_mask, is_stripped, refine
from medrd.preparation.check import checked, shown
from medrd.preparation.head import (
    LEAST_PROMINENCE,
    choose_reference,
    coregister,
    prepare_head,
)
from medrd.preparation.linear import (
    Matrix,
    about,
    angle_degrees,
    closest_rigid,
    from_itk,
    rotation,
    translation,
    write_transform,
)
from medrd.preparation.options import PrepareOptions
from medrd.preparation.quality import (
    NOT_REFINED,
    Alignment,
    Quality,
    dice,
    is_sized,
)
from medrd.preparation.register import register, register_scaled
from medrd.preparation.sample import centres_mm, resample
from medrd.preparation.template import BRATS_AFFINE, BRATS_SHAPE, Template, load_template
from phantom_heads import (
    affine_of,
    brain_at,
    coarse_template,
    make_head,
    points_of,
    save,
    take_few_samples,
)

MOVED = translation([12, -8, 15]) @ rotation(8, -5, 6)
SHAPE = (56, 64, 64)


def error_mm(found: Matrix, true: Matrix) -> float:
    """The farthest that a map puts a voxel of the brain from where it belongs."""
    affine = affine_of(4.0, SHAPE)
    brain = centres_mm(brain_at(points_of(SHAPE, affine)), affine)
    return float(
        np.linalg.norm(apply_affine(found, brain) - apply_affine(true, brain), axis=1).max()
    )


SAMPLES = (similarity.MOST_POINTS, register_module.FINE_SHARE)


@pytest.fixture(scope="module", autouse=True)
def few_samples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        take_few_samples(patch)
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    path = tmp_path_factory.mktemp("template") / "template.nii.gz"
    return coarse_template(save(make_head("t1", skull=False, seed=9), path))


# --- Linear maps ---


def test_a_transform_file_means_to_itk_what_the_matrix_means_here(tmp_path: Path) -> None:
    matrix = translation([1, 2, 3]) @ rotation(10, 20, 30) @ np.diag([1.1, 0.9, 1.0, 1.0])
    write_transform(tmp_path / "x.tfm", matrix)
    moved = apply_affine(matrix, np.array([[4.0, 5.0, 6.0]]))[0]
    itk = SimpleITK.ReadTransform(str(tmp_path / "x.tfm"))
    assert itk.TransformPoint((-4.0, -5.0, 6.0)) == pytest.approx(moved * (-1, -1, 1))
    np.testing.assert_allclose(from_itk(itk), matrix, atol=1e-12)


def test_the_closest_rigid_map_drops_scales_and_keeps_the_centre() -> None:
    turn, centre = rotation(5, -12, 20), np.array([3.0, -4.0, 10.0])
    stretched = translation([5, 6, 7]) @ turn @ np.diag([1.2, 0.9, 1.1, 1.0])
    rigid = closest_rigid(stretched, centre)
    np.testing.assert_allclose(rigid[:3, :3], turn[:3, :3], atol=1e-12)
    np.testing.assert_allclose(
        apply_affine(rigid, centre[None]), apply_affine(stretched, centre[None])
    )
    assert angle_degrees(rotation(pitch=37)) == pytest.approx(37)


# --- Registration ---


def test_modalities_of_a_moved_head_are_found_to_a_fraction_of_a_voxel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With all samples."""
    monkeypatch.setattr(similarity, "MOST_POINTS", SAMPLES[0])
    monkeypatch.setattr(register_module, "FINE_SHARE", SAMPLES[1])
    fixed = make_head("t1", seed=1)
    nodded = translation([6, 4, -8]) @ about((0, 0, 0), rotation(7, -4, 5))
    moving = make_head("flair", to_head=nodded, spacing_mm=(3, 3, 6), shape=(74, 86, 42), seed=2)
    image = to_sitk(fixed)
    found = register(
        image,
        around_head(image),
        to_sitk(moving),
        freedom="rigid",
        angles=[(-10, 0, 10)] * 3,
        shifts_mm=[(0,)] * 3,
    )
    assert error_mm(found.matrix, np.linalg.inv(nodded)) < 1.5
    assert found.contrast > 0.1
    assert found.covered > 0.9


def test_a_head_whose_voxel_size_is_wrong_along_each_axis_is_found() -> None:
    brain = make_head("t1", skull=False, seed=1)
    wrong = about((0, 0, 0), np.diag([0.88, 0.95, 1.2, 1.0])) @ translation([4, -6, 8])
    head = make_head("flair", spacing_mm=(3, 3, 6), shape=(100, 110, 48), seed=2)
    moving = volume_from_array(head.array, wrong @ head.affine)
    found = register_scaled(
        to_sitk(brain),
        to_sitk(volume_from_array(brain.array > 0, brain.affine)),
        to_sitk(moving),
        angles=((-10, 10), (0,), (0,)),
        shifts_mm=((0,), (-10, 10), (0, 20)),
    )
    # Smooth ellipsoids leave scales uncertain by a tenth; the header's are off by up to a fifth.
    assert error_mm(found.matrix, wrong) < 10
    np.testing.assert_allclose(
        np.linalg.norm(found.matrix[:3, :3], axis=0), (0.88, 0.95, 1.2), atol=0.11
    )
    assert found.prominence > LEAST_PROMINENCE


def test_a_flair_alone_gets_a_refined_brain_and_a_t2_alone_the_template_s(
    template: Template,
) -> None:
    flair = make_head("flair", to_head=MOVED, seed=3)
    truth_ml = brain_at(points_of(SHAPE, affine_of(4.0, SHAPE))).sum() * 0.064
    for modality, brain in (("t2", NOT_REFINED), ("flair", "template")):
        head = prepare_head({modality: flair}, template, PrepareOptions(bias=False))
        assert (head.quality.failures(), head.quality.brain) == ([], brain)
        assert head.quality.brain_ml == pytest.approx(truth_ml, rel=0.05)


def test_a_head_of_an_impossible_size_is_scaled_to_the_template_with_a_warning(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "MOST_POINTS", 5000)  # with fewer it is found less exactly
    flair = make_head("flair", seed=3)
    large = volume_from_array(flair.array, np.diag([1.25, 1.2, 1.2, 1.0]) @ flair.affine)
    head = prepare_head({"flair": large}, template, PrepareOptions(bias=False))
    assert head.quality.failures() == []
    assert head.quality.resized
    (warning,) = head.quality.warnings()
    assert "voxel size seems wrong" in warning
    # What it gives is as large as the template's brain, whatever the header had.
    truth = brain_at(points_of(template.shape, template.pose @ template.affine))
    assert head.brain.sum() == pytest.approx(truth.sum(), rel=0.05)
    assert head.quality.brain_ml == pytest.approx(1.8 * truth.sum() * 0.064, rel=0.06)


def test_the_reference_is_t1_weighted_and_of_these_the_finest() -> None:
    thick = volume_from_array(np.ones((4, 4, 4)), np.diag([1, 1, 5, 1]))
    fine = volume_from_array(np.ones((4, 4, 4)), np.eye(4))
    assert choose_reference({"flair": fine, "t1": thick, "t2": fine}) == "t1"
    assert choose_reference({"t1": thick, "t1ce": fine}) == "t1ce"
    assert choose_reference({"flair": thick, "t2": thick}) == "t2"


def test_a_scan_without_skull_comes_to_the_template_with_its_own_brain(template: Template) -> None:
    scan = make_head("t1", to_head=MOVED, skull=False, seed=3)
    assert is_stripped(scan)
    # Its FLAIR was cut off at the top and filled up with zeros.
    filled_up = make_head("flair", to_head=MOVED, skull=False, seed=4).array.copy()
    filled_up[:, :, 36:] = 0
    flair = volume_from_array(filled_up, scan.affine)
    head = prepare_head({"t1": scan, "flair": flair}, template, PrepareOptions(bias=False))
    assert head.quality.failures() == []
    assert (head.quality.brain, head.quality.brain_dice > 0.95) == ("stripped", True)
    assert error_mm(head.to_raw["t1"] @ np.linalg.inv(template.pose), np.linalg.inv(MOVED)) < 2.5
    volume = head.volumes["t1"]
    assert volume.shape == template.shape
    np.testing.assert_array_equal(volume.affine, template.affine)
    np.testing.assert_array_equal(volume.array > 0, head.brain)
    truth = brain_at(points_of(template.shape, template.pose @ template.affine))
    assert dice(head.brain, truth) > 0.97
    missing = head.brain & (head.volumes["flair"].array == 0)
    assert 0.02 < missing.sum() / head.brain.sum() < 0.4
    assert head.quality.warnings() == [
        f"flair shows {1 - missing.sum() / head.brain.sum():.0%} of the brain; the rest is 0 in it"
    ]


def test_a_modality_whose_header_mirrors_it_is_not_used() -> None:
    """Lying otherwise than its T1, it fits somewhere: heads are much alike from all sides."""
    t1 = make_head("t1", to_head=MOVED, seed=1)
    flair = make_head("flair", to_head=MOVED, spacing_mm=(4, 4, 6), shape=(56, 64, 44), seed=2)
    wrong = volume_from_array(flair.array, np.diag([1, -1, 1, 1]) @ flair.affine)
    found = Alignment.of(coregister(to_sitk(t1), to_sitk(wrong)))
    (failure,) = replace(GOOD, to_reference={"flair": found}).failures()
    assert failure.startswith("flair to t1: it fits best turned by")


def test_a_small_head_in_air_of_exactly_0_is_tried_again_with_its_skull(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = make_head("t1", skull=False)

    def placed(*given: Any, found: dict[str, float]) -> SimpleNamespace:
        return SimpleNamespace(quality=replace(GOOD, brain_ml=found[given[3]]))

    for found, chosen in (
        ({"stripped": 1400.0}, 1400.0),
        ({"stripped": 300.0, "template": 1200.0}, 1200.0),
        ({"stripped": 300.0, "template": 3000.0}, 300.0),
    ):
        monkeypatch.setattr(head_module, "place_on_template", partial(placed, found=found))
        head = prepare_head({"t1": scan}, template, PrepareOptions(bias=False))
        assert head.quality.brain_ml == chosen


def test_a_head_whose_header_turns_it_upside_down_is_not_used(template: Template) -> None:
    scan = make_head("t1", to_head=MOVED, seed=3)
    wrong = volume_from_array(scan.array, np.diag([1, -1, -1, 1]) @ scan.affine)
    head = prepare_head({"t1": wrong}, template, PrepareOptions(bias=False))
    (failure,) = head.quality.failures()
    assert "orientation seems wrong" in failure


# --- What a head must be ---


@pytest.mark.parametrize(
    ("scan", "error", "words"),
    [
        (make_head("t1").array - 50, WrongKindError, "as in CT"),
        (np.zeros((56, 64, 64)), EmptyBrainError, "the value 0 in every voxel"),
        (np.full((56, 64, 64), 7), EmptyBrainError, "the value 7"),
        (make_head("t1").array[:, :, 30:33], ShapeError, "56 × 64 × 3 voxels, 224 × 256 × 12 mm"),
    ],
)
def test_what_is_no_head_is_refused(
    scan: NDArray, error: type[InputError], words: str, template: Template
) -> None:
    good = make_head("t1")
    with pytest.raises(error, match=words):
        prepare_head(
            {"t1": good, "flair": volume_from_array(scan, good.affine)}, template, PrepareOptions()
        )


def test_the_ringing_of_a_spline_is_taken_off_and_said() -> None:
    head = make_head("t1")
    ringing = ndimage.shift(head.array, (0.5, 0.4, 0.3), order=3)
    assert (ringing < 0).mean() > 0.2
    scan = checked(volume_from_array(ringing, head.affine))
    np.testing.assert_array_equal(scan.array, np.maximum(ringing, 0))
    (warning,) = scan.warnings
    assert "a little below 0" in warning


def test_what_is_0_out_to_the_edge_is_not_shown_and_a_hole_is() -> None:
    array = np.ones((9, 9, 9), np.float32)
    array[:, :, 5:] = 0
    array[4, 4, 2] = 0
    assert np.unique(np.argwhere(~shown(array))[:, 2]).tolist() == [6, 7, 8]


GOOD = Quality(
    reference="t1",
    to_template=Alignment(1.15, 0.3, 1.0, 12.0, (1.1, 1.0, 0.9)),
    to_reference={"flair": Alignment(1.1, 0.4, 1.0, 3.0, (1.0, 1.0, 1.0))},
    brain="stripped",
    brain_ml=1400.0,
    brain_dice=0.95,
    covered={"t1": 1.0, "flair": 1.0},
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"to_template": replace(GOOD.to_template, contrast=0.05)}, "t1 to template: the reg"),
        ({"to_template": replace(GOOD.to_template, scales=(1.4, 1.0, 0.9))}, "factors of 0.90"),
        ({"to_reference": {"flair": Alignment(1, 0, 1, 3, (1, 1, 1))}}, "flair to t1: the reg"),
        ({"to_reference": {"flair": replace(GOOD.to_template, degrees=90)}}, "turned by 90 deg"),
        ({"brain_ml": 300.0}, "a brain of 300 ml"),
        ({"brain_dice": 0.7}, "a Dice of only 0.70"),
        ({"covered": {"flair": 0.4}}, "flair shows only 40% of the brain"),
        ({"brain_ml": 2600.0, "resized": True}, ""),
        ({"brain_dice": 0.88}, ""),
        ({"brain_dice": 0.88, "resized": True}, "a Dice of only 0.88 (at least 0.9)"),
    ],
)
def test_what_fails_a_head(change: dict[str, Any], words: str) -> None:
    failures = replace(GOOD, **change).failures()
    assert len(failures) == bool(words)
    assert all(words in text for text in failures)


def test_what_is_odd_about_a_head_is_warned_of() -> None:
    shows, outline = replace(GOOD, covered={"flair": 0.8}, brain=NOT_REFINED).warnings()
    assert shows.startswith("flair shows 80% of the brain")
    assert "not refined" in outline
    (size,) = replace(GOOD, brain_ml=2600.0, resized=True).warnings()
    assert "2600 ml, whose lengths are 1.10, 1.00, 0.90 times the template's" in size


@pytest.mark.parametrize(
    ("scales", "sized"),
    [
        ((1.0, 0.95, 0.9), True),
        ((1.2, 1.15, 1.1), False),  # 2730 ml
        ((0.7, 0.65, 0.55), False),  # 450 ml
        ((1.22, 1.0, 0.9), False),  # a head's volume, and no head's shape
    ],
)
def test_a_head_is_measured_against_the_sizes_of_heads(
    scales: tuple[float, float, float], sized: bool
) -> None:
    assert is_sized(replace(GOOD.to_template, scales=scales), 1800.0) is sized


# --- Bias and brain ---


def test_n4_takes_a_coil_s_shading_out_of_the_head() -> None:
    scan = make_head("t1", skull=False, shape=(36, 46, 36))
    points = points_of(scan.shape, scan.affine)
    shading = np.exp(0.006 * points[..., 1]).astype(np.float32)
    white = scan.array > 120
    before, after = (
        image[white].std() / image[white].mean()
        for image in (
            scan.array * shading,
            SimpleITK.GetArrayFromImage(
                correct_bias(to_sitk(volume_from_array(scan.array * shading, scan.affine)))
            ).T,
        )
    )
    assert after < 0.4 * before


def test_a_prior_that_is_too_small_or_too_large_is_fitted_to_the_brain() -> None:
    affine = affine_of(2.0, (104, 112, 104))
    points = points_of((104, 112, 104), affine)
    truth = brain_at(points)
    scan = make_head("t1", spacing_mm=2.0, shape=(104, 112, 104))
    for scale in (0.97, 1.04):
        prior = brain_at(points / scale)
        fitted = refine(scan.array, prior, 2.0)
        assert dice(fitted, truth) > dice(prior, truth)


class _FakeBet:
    """Stands for deepbet: marks what is bright, on an image in whatever orientation it comes."""

    def run(self, image: nib.Nifti1Image) -> tuple[object, nib.Nifti1Image, float]:
        array = np.asarray(image.dataobj)
        assert array.any(), "Not enough foreground"
        return None, nib.Nifti1Image((array > 30).astype(np.uint8), image.affine), 0.0


def test_deepbet_gives_its_mask_or_says_that_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from medrd.preparation import brain

    module = ModuleType("deepbet")
    module.__spec__ = ModuleSpec("deepbet", None)
    module.__dict__["BrainExtraction"] = _FakeBet
    monkeypatch.setitem(sys.modules, "deepbet", module)
    brain.load_deepbet.cache_clear()
    scan = make_head("t1")
    np.testing.assert_array_equal(deepbet_mask(scan), scan.array > 30)
    with pytest.raises(EmptyBrainError, match="Not enough foreground"):
        deepbet_mask(volume_from_array(np.zeros((8, 8, 8)), np.eye(4)))
    brain.load_deepbet.cache_clear()


def test_deepbet_is_asked_for_in_vain_where_it_is_not_or_cannot_help(
    monkeypatch: pytest.MonkeyPatch, template: Template
) -> None:
    monkeypatch.setitem(sys.modules, "deepbet", None)
    options = PrepareOptions(bias=False, extraction="deepbet")
    with pytest.raises(ConfigError, match="medrd\\[brain\\]"):
        prepare_head({"t1": make_head("t1")}, template, options)
    module = ModuleType("deepbet")
    module.__spec__ = ModuleSpec("deepbet", None)
    monkeypatch.setitem(sys.modules, "deepbet", module)
    with pytest.raises(EmptyBrainError, match="Add the subject's T1"):
        prepare_head({"flair": make_head("flair")}, template, options)


# --- The template ---


def test_a_template_of_brats_s_shape_gives_its_own_grid(
    tmp_path: Path, template: Template, make_brain: Callable[..., Any]
) -> None:
    affine = BRATS_AFFINE.copy()
    affine[:3, 3] = (7, 8, 9)
    array = np.zeros(BRATS_SHAPE, np.float32)
    array[60:180, 60:200, 20:120] = 5
    own = load_template(save(volume_from_array(array, affine), tmp_path / "sri24.nii.gz"))
    np.testing.assert_array_equal(own.affine, affine)
    np.testing.assert_array_equal(own.pose, np.eye(4))
    # Over any other, BraTS's grid is laid so that brains lie in it as BraTS's do.
    assert template.hash != own.hash
    at = np.linalg.inv(template.pose @ BRATS_AFFINE)
    assert apply_affine(at, template.centre_mm[None])[0] == pytest.approx([118.3, 135.4, 72.8])


def test_a_template_s_mask_needs_its_template_and_a_brain(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Give --template too"):
        load_template(mask=tmp_path / "mask.nii.gz")
    empty = save(volume_from_array(np.zeros((8, 8, 8)), np.eye(4)), tmp_path / "empty.nii.gz")
    with pytest.raises(EmptyBrainError, match="nothing above 0"):
        load_template(empty)
    with pytest.raises(EmptyBrainError, match="a head with its skull"):
        load_template(save(make_head("t1"), tmp_path / "head.nii.gz"))


def test_resampling_there_and_back_gives_the_same_voxels() -> None:
    scan = make_head("t1")
    there = resample(to_sitk(scan), scan.shape, scan.affine, np.eye(4), order=3)
    np.testing.assert_allclose(there.array, scan.array, atol=0.05)
