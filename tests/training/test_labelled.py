"""Slices with labels: what a model that learns from known lesions is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medrd.config import RecipeConfig
from medrd.data.brains.layouts import find_subjects
from medrd.data.brains.prepare import prepare_slices, read_channels
from medrd.data.subject import Subject
from medrd.training.labelled import LabelledSlices, as_simulated

RECIPE = RecipeConfig(
    size=64,
    field_mm=192,
    normalise="median",
    min_brain_mm2=500,
    neighbours_mm=(3.0,),
    place=True,
)


@pytest.fixture(scope="module")
def subjects(tiny_root: Path) -> list[Subject]:
    return find_subjects(tiny_root, layout="auto", channels=("flair",))[:2]


def test_a_labelled_slice_is_what_prediction_would_see_and_its_label(
    subjects: list[Subject],
) -> None:
    slices = LabelledSlices(subjects, RECIPE, 10**8)
    prepared = [
        prepare_slices(read_channels(subject, RECIPE, max_voxels=10**8), RECIPE, quick=True)
        for subject in subjects
    ]
    counts = [len(each.region) for each in prepared]
    assert len(slices) == sum(counts)
    which = [0, counts[0] // 2, counts[0] - 1, counts[0] + counts[1] // 3]
    batch = slices.batch(which)
    for image, region, (s, i) in zip(
        batch.images, batch.region, [slices.index[w] for w in which], strict=True
    ):
        np.testing.assert_allclose(image[:-1], prepared[s].images[i], atol=1e-3)
        np.testing.assert_array_equal(region, prepared[s].region[i])
    assert set(slices.contents) == {subject.id for subject in subjects}
    assert len(slices.traits) == 2


def test_the_label_takes_the_simulated_masks_place(subjects: list[Subject]) -> None:
    slices = LabelledSlices(subjects, RECIPE, 10**8)
    everything = slices.batch(range(len(slices)))
    images, region = torch.from_numpy(everything.images), torch.from_numpy(everything.region)
    simulated = as_simulated(images, region, torch.Generator())
    assert simulated.images.shape[1] == RECIPE.layout.channels
    assert simulated.mask.any()
    assert not (simulated.mask & ~region).any()
