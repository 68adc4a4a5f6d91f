"""The guard: a model's profile of its training scans, and its comparison with others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from nilearn.datasets import (
    load_mni152_brain_mask,
    load_mni152_gm_template,
    load_mni152_wm_template,
)
from numpy.typing import NDArray
from scipy import ndimage

from medrd.data.brains.prepare import brain_mask
from medrd.data.brains.profile import Profile, make_profile, pattern_likeness, tone_distance, unlike
from medrd.data.traits import ScanTraits, scan_traits
from medrd.images.volume import Volume, volume_from_array

# Signal of grey matter, white matter and fluid.
CONTRASTS = {"flair": (300.0, 240.0, 60.0), "t1": (200.0, 300.0, 60.0), "t2": (200.0, 140.0, 420.0)}
Scan = Callable[..., Volume]


@pytest.fixture(scope="module")
def scan() -> Scan:
    """``scan(seed, contrast)``: the template's tissues at 4 mm, with a lesion and noise."""
    mask, grey, white = (
        np.asarray(load(resolution=4).dataobj, np.float32)
        for load in (load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template)
    )

    def make(seed: int, contrast: str = "flair", *, lesion: bool = True) -> Volume:
        rng = np.random.default_rng(seed)
        zoom = rng.uniform(0.94, 1.06, 3)
        inside, g, w = (ndimage.zoom(x, zoom, order=1) for x in (mask, grey, white))
        fluid = np.clip(1 - g - w, 0, 1)
        levels = np.array(CONTRASTS[contrast]) * rng.uniform(0.95, 1.05, 3)
        image = sum(level * share for level, share in zip(levels, (g, w, fluid), strict=True))
        if lesion:
            centre = [n * rng.uniform(0.3, 0.7) for n in inside.shape]
            place = np.indices(inside.shape).T - centre
            image[((place / 4) ** 2).sum(-1).T < 1] *= 1.5
        image = image + rng.normal(0, 8, image.shape)
        field = np.linspace(0.9, 1.1, image.shape[0])[:, None, None]
        voxels = np.where(inside > 0.5, np.clip(image * field, 5, None), 0) * rng.uniform(0.1, 10)
        return volume_from_array(voxels, np.diag([4.0, 4.0, 4.0, 1.0]))

    return make


def traits(volume: Volume) -> ScanTraits:
    volumes = {"flair": volume}
    return scan_traits(volumes, brain_mask(volumes))


@pytest.fixture(scope="module")
def profile(scan: Scan) -> Profile:
    made = make_profile([traits(scan(seed)) for seed in range(5)])
    return Profile.from_dict(json.loads(json.dumps(made.to_dict())))  # as a model file has it


def turned(volume: Volume, *axes: int) -> Volume:
    """The voxels flipped, the header left as it was."""
    return volume_from_array(np.flip(volume.array, axes), volume.affine)


def with_skull(volume: Volume) -> Volume:
    """A dark skull, a bright scalp and a neck around the brain."""
    padded = np.pad(volume.array, 10)
    brain = ndimage.binary_fill_holes(padded != 0)
    level = np.median(padded[padded != 0])
    skull, head = (ndimage.binary_dilation(brain, iterations=n) for n in (2, 4))
    middle = [n // 2 for n in padded.shape]
    head[middle[0] - 12 : middle[0] + 12, middle[1] - 14 : middle[1] + 10, : middle[2]] = True
    image = np.where(brain, padded, np.where(skull, 0.1 * level, np.where(head, 1.6 * level, 0)))
    return volume_from_array(image, volume.affine)


def as_ct(volume: Volume) -> Volume:
    """Hounsfield units: air -1000 outside, soft tissue at 20 to 45 inside."""
    inside = volume.array != 0
    tissue = 20 + 25 * volume.array / volume.array.max()
    return volume_from_array(np.where(inside, tissue, -1000), volume.affine)


def as_label(volume: Volume) -> Volume:
    return volume_from_array(
        (volume.array > 0) + (volume.array > volume.array.mean()), volume.affine
    )


def test_scans_like_the_training_scans_pass(scan: Scan, profile: Profile) -> None:
    for seed in range(10, 18):
        for lesion in (True, False):
            assert unlike(traits(scan(seed, lesion=lesion)), profile) == []


def test_how_a_scan_is_stored_does_not_matter(scan: Scan, profile: Profile) -> None:
    volume = scan(10)
    array = volume.array[::-1].transpose(2, 0, 1)
    affine = np.array([[0, -4.0, 0, 0], [0, 0, 4, 0], [4, 0, 0, 0], [0, 0, 0, 1]])
    other = traits(volume_from_array(array, affine))
    same = traits(volume)
    np.testing.assert_allclose(other.occupancy, same.occupancy, atol=0.05)
    np.testing.assert_allclose(other.channels["flair"].tone, same.channels["flair"].tone, atol=1e-4)
    assert unlike(other, profile) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_skull, "a head with its skull, or noise around the brain? For a raw head, use medrd"),
        (lambda volume: turned(volume, 2), "better upside down"),
        (lambda volume: turned(volume, 1, 2), "upside down and back to front"),
        (lambda volume: turned(volume, 1), "better back to front"),
        (as_ct, "below 0"),
        (as_label, "a label"),
    ],
)
def test_what_the_model_has_not_seen_is_named(
    scan: Scan, profile: Profile, change: Callable[[Volume], Volume], says: str
) -> None:
    found = unlike(traits(change(scan(10))), profile)
    assert any(says in text for text in found), found


@pytest.mark.parametrize("contrast", ["t1", "t2"])
def test_another_modality_is_recognised_by_its_contrast(
    scan: Scan, profile: Profile, contrast: str
) -> None:
    for seed in (10, 11, 12):
        found = unlike(traits(scan(seed, contrast)), profile)
        assert any("another sequence" in text for text in found)


def test_voxels_of_another_size_are_named(scan: Scan, profile: Profile) -> None:
    volume = scan(10)
    thick = volume_from_array(volume.array[:, :, ::2], np.diag([4.0, 4.0, 8.0, 1.0]))
    (found,) = unlike(traits(thick), profile)
    assert "8 mm up-down" in found
    large = volume_from_array(volume.array, np.diag([8.0, 8.0, 8.0, 1.0]))
    assert sum("its voxels are" in text for text in unlike(traits(large), profile)) == 1


@pytest.mark.parametrize(
    ("largest_ml", "passes_ml", "warned_ml"),
    [(2000, 2290, 2310), (1500, 2090, 2110), (3000, 4190, 4210)],  # the last: heads with skull
)
def test_no_brain_is_larger_than_a_skull_holds(
    scan: Scan, profile: Profile, largest_ml: float, passes_ml: float, warned_ml: float
) -> None:
    seen = traits(scan(10))
    known = replace(profile, brain_ml=np.array([1000, largest_ml], np.float32))
    assert unlike(replace(seen, brain_ml=passes_ml), known) == []
    (found,) = unlike(replace(seen, brain_ml=warned_ml), known)
    assert "a head with its skull" in found


def test_a_raw_head_of_other_voxels_is_prepared_and_not_resampled(
    scan: Scan, profile: Profile
) -> None:
    seen = replace(traits(scan(10)), spacing_mm=np.array([0.72, 0.72, 3.0], np.float32))
    (small,) = unlike(seen, profile)
    assert "resample it, or if it is a raw head, use medrd predict --prepare" in small
    head = " ".join(unlike(replace(seen, brain_ml=2909.0), profile))
    assert "its voxels are 0.72 mm" in head
    assert "resample" not in head
    assert head.count("medrd predict --prepare") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda volume: volume_from_array(volume.array, np.diag([4.0, 4.0, 8.0, 1.0])),
        lambda volume: turned(volume, 2),
        with_skull,
    ],
)
def test_contrast_is_not_judged_where_voxels_orientation_or_volume_differ(
    scan: Scan, profile: Profile, change: Callable[[Volume], Volume]
) -> None:
    found = unlike(traits(change(scan(10, "t2"))), profile)
    assert sum("contrast was not judged" in text for text in found) == 1
    assert not [text for text in found if "another sequence" in text]


@pytest.mark.parametrize("trait", ["tone", "pattern"])
def test_figures_beside_their_limit_differ(scan: Scan, profile: Profile, trait: str) -> None:
    seen, known = traits(scan(10)), profile.channels["flair"]
    far = tone_distance(seen.channels["flair"].tone, known.tone, known.tone_spread)
    near = pattern_likeness(
        seen.channels["flair"].pattern, known.pattern, seen.occupancy, profile.occupancy
    )
    limit = {"tone_limit": far - 1e-3} if trait == "tone" else {"pattern_limit": near + 1e-3}
    close = replace(profile, channels={"flair": replace(known, **limit)})
    (found,) = unlike(seen, close)
    figures = re.findall(r"-?\d+\.\d+", found)
    assert len(set(figures)) == 2, found


def test_from_few_scans_contrast_is_not_judged(scan: Scan) -> None:
    few = make_profile([traits(scan(seed)) for seed in range(2)])
    assert few.channels["flair"].tone_limit is None
    assert unlike(traits(scan(10, "t2")), few) == []
    assert unlike(traits(with_skull(scan(10))), few) != []


def test_a_damaged_profile_is_refused(profile: Profile) -> None:
    content = profile.to_dict()
    content["occupancy"] = content["occupancy"][:40]
    with pytest.raises(ValueError, match="reshape"):
        Profile.from_dict(content)


def test_traits_come_back_from_the_cache(scan: Scan, profile: Profile) -> None:
    made = traits(scan(10))
    again = ScanTraits.from_dict(json.loads(json.dumps(made.to_dict())))
    cells: list[NDArray[np.float32]] = [made.occupancy, again.occupancy]
    np.testing.assert_allclose(*cells, atol=1 / 500)
    assert again.channels["flair"].levels == made.channels["flair"].levels
    assert unlike(again, profile) == []


def test_ripples_of_resampling_are_no_negative_values_and_the_figures_differ(scan: Scan) -> None:
    profile = make_profile([traits(scan(seed)) for seed in range(4)])
    like = scan(5)
    finer = ndimage.zoom(like.array, 1.1, order=3)
    assert (finer < 0).mean() > 0.01
    resampled = volume_from_array(finer, np.diag([4 / 1.1] * 3 + [1.0]))
    assert not [text for text in unlike(traits(resampled), profile) if "below 0" in text]

    def with_negative(share: float) -> list[str]:
        array = like.array.copy()
        array.ravel()[: round(share * array.size)] = -like.array.max()
        changed = volume_from_array(array, like.affine)
        volumes = {"flair": changed}
        found = unlike(scan_traits(volumes, brain_mask({"flair": like})), profile)
        return [text for text in found if "below 0" in text]

    assert with_negative(0.0004) == []
    (text,) = with_negative(0.006)
    assert "0.6% of its values are below 0, but at most 0.0% in" in text
