"""``prepare`` on real heads, compared with another program's brain and with known transforms.

Phantoms of ellipsoids (test_head.py) cannot say how registration and refinement do on folds,
scalps and lesions. All but one without N4, which is half of the time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine

from medrd.data.brains.layouts import find_subjects
from medrd.images.box import bounding_box
from medrd.images.nifti import read_mask, read_nifti
from medrd.images.sitk import to_sitk
from medrd.images.volume import Volume, volume_from_array
from medrd.prediction.native import NativeSpace, native_mask
from medrd.preparation.head import prepare_head
from medrd.preparation.linear import about, inverse, rotation, translation
from medrd.preparation.options import PrepareOptions
from medrd.preparation.quality import dice
from medrd.preparation.record import Origin
from medrd.preparation.sample import centres_mm, resample
from medrd.preparation.template import Template, load_template
from real_data import real_data

MRICRON = Path("/usr/share/mricron/templates")
OPTIONS = PrepareOptions(bias=False)


@pytest.fixture(scope="module")
def template() -> Template:
    """The installed one: four seconds."""
    return load_template()


@pytest.fixture(scope="module")
def template_2_mm(template: Template) -> Template:
    """Its grid with voxels of 2 mm, for what looks at nothing finer."""
    x, y, z = template.shape
    halved = template.affine @ about((-0.5, -0.5, -0.5), np.diag([2.0, 2.0, 2.0, 1.0]))
    return replace(template, shape=(x // 2, y // 2, z // 2), affine=halved)


def test_a_head_with_its_skull_gets_the_brain_that_bet_finds(template: Template) -> None:
    if not (MRICRON / "ch2bet.nii.gz").is_file():
        pytest.skip("no real head with a brain mask; on Debian: apt-get install mricron-data")
    scan = read_nifti(MRICRON / "ch2.nii.gz")
    brain = read_nifti(MRICRON / "ch2bet.nii.gz").array > 0
    head = prepare_head({"t1": scan}, template, OPTIONS)
    assert head.quality.failures() == []
    assert head.quality.brain == "template"
    mask = to_sitk(volume_from_array(head.brain, template.affine))
    back = resample(mask, scan.shape, scan.affine, inverse(head.to_raw["t1"])).array > 0.5
    assert dice(back, brain) > 0.95


def test_modalities_of_a_moved_patient_are_put_together_and_maps_come_back(
    brats_root: Path, template: Template, template_2_mm: Template
) -> None:
    subject = find_subjects(brats_root, layout="auto", channels=["t1", "flair"])[1]
    whole = {c: read_nifti(subject.images[c].path) for c in ("t1", "flair")}
    # A third of the voxels: the brain, and enough around it.
    box = bounding_box(whole["t1"].array > 0, margin=9)
    corner = translation([part.start for part in box])
    scans = {c: volume_from_array(v.array[box], v.affine @ corner) for c, v in whole.items()}
    brain = centres_mm(scans["t1"].array > 0, scans["t1"].affine)[::200]
    session = translation([25, -20, 10]) @ about(brain.mean(0), rotation(12, -8, 10))
    nod = translation([6, 4, -8]) @ about(brain.mean(0), rotation(7, -4, 5))
    poses = {"t1": session, "flair": session @ nod}
    moved = {c: volume_from_array(v.array, poses[c] @ v.affine) for c, v in scans.items()}
    head = prepare_head(moved, template_2_mm, OPTIONS)
    assert head.quality.failures() == []
    own = {c: inverse(poses[c]) @ head.to_raw[c] for c in moved}  # to where BraTS has them
    at = apply_affine(inverse(own["t1"]), brain)
    assert np.linalg.norm(apply_affine(own["flair"] - own["t1"], at), axis=1).max() < 1.5

    assert subject.label is not None
    label = read_mask(subject.label.path, whole["t1"])[box]
    image = to_sitk(volume_from_array(label, moved["t1"].affine))
    there = resample(image, template.shape, template.affine, head.to_raw["t1"]).array > 0.5
    origin = Origin.of(moved["t1"], head.to_raw["t1"], "")
    back, _ = native_mask(NativeSpace(origin, origin.blank()), there, template.affine)
    assert dice(back, label) > 0.97


def flair_alone(name: str) -> dict[str, Volume]:
    """A raw FLAIR with its skull."""
    return {"flair": read_nifti(real_data(f"{name}/{Path(name).name}_flair.nii.gz"))}


@pytest.mark.slow
def test_a_flair_alone_gives_the_brain_that_all_modalities_give(template_2_mm: Template) -> None:
    head = prepare_head(flair_alone("raw_heads/p03_study2"), template_2_mm, PrepareOptions())
    assert head.quality.failures() == []
    assert not head.quality.resized
    assert head.quality.brain_ml == pytest.approx(1492, rel=0.03)  # what its modalities give


@pytest.mark.slow
def test_a_head_whose_voxel_size_is_wrong_is_found_and_scaled(template_2_mm: Template) -> None:
    head = prepare_head(flair_alone("lgg_raw/lgg04"), template_2_mm, OPTIONS)
    assert head.quality.failures() == []
    assert head.quality.resized
