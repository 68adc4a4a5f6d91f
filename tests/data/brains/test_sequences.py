"""Rules that tell other sequences by local differences in brightness."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medrd.config import RecipeConfig
from medrd.data.brains.prepare import PreparedVolume, prepare_slices
from medrd.data.brains.sequences import LENGTH, OtherSequence, local_levels
from medrd.images.volume import volume_from_array
from medrd.phantom.varied import make_varied

RECIPE = RecipeConfig(size=64, field_mm=192, normalise="median")


def slices(index: int, modality: str, *, gain: float = 1.0) -> PreparedVolume:
    """A phantom's slices of 3 mm, brighter to the front by a factor."""
    person = make_varied(index, seed=5, healthy=True, voxel_mm=3.0, modality=modality)
    shade = np.linspace(1, gain, person.image.shape[1])[:, None]
    volume = volume_from_array(person.image * shade, person.affine)
    return prepare_slices({modality: volume}, RECIPE, quick=True)


def levels(prepared: PreparedVolume) -> NDArray[np.float32]:
    return local_levels(prepared.images[:, 0], prepared.region, pixel_mm=3.0)


def test_where_the_picture_changes_it_is_darker_on_t1_and_brighter_on_t2() -> None:
    t1, t2 = (levels(slices(1, modality)) for modality in ("t1", "t2"))
    assert t1[0] > t1[3] + 0.1
    assert t2[0] < t2[3] - 0.1


def test_a_rule_tells_what_it_learnt_and_survives_storage() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(0, [1.0, *[5.0] * (LENGTH - 1)], (500, LENGTH)).astype(np.float32)
    far = np.zeros(LENGTH, np.float32)
    far[0] = 6  # in the direction that varies least
    rule = OtherSequence.from_dict(OtherSequence.learn("T2", own[:400], own[:400] + far).to_dict())
    assert sum(map(rule.is_like, own[:400])) == 4
    assert sum(map(rule.is_like, own[400:])) <= 4
    assert sum(map(rule.is_like, own[400:] + far)) > 90


def test_shading_hardly_changes_the_levels() -> None:
    flat, shaded = slices(1, "flair"), slices(1, "flair", gain=2.0)
    np.testing.assert_allclose(levels(shaded), levels(flat), atol=0.15)
    assert np.ptp(levels(flat)) > 0.25


def test_a_slice_without_fluid_has_no_levels_beside_it() -> None:
    noise = np.random.default_rng(0).uniform(0.45, 0.55, (3, 64, 64)).astype(np.float32)
    assert (local_levels(noise, np.ones(noise.shape, bool), pixel_mm=3.0)[4:] == 0).any()


def test_a_rule_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="weights"):
        OtherSequence.from_dict({"name": "T1", "direction": [1.0], "limit": 0.0})
