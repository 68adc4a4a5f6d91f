"""Brain scans as a domain: layouts of volumes, splits by subject, lesions by label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medrd.config import AnyRecipeConfig, Config, DataConfig, RecipeConfig
from medrd.data.brains.prepare import (
    lesion_positions,
    prepare,
    read_channels,
    read_lesions,
    scan_hash,
)
from medrd.data.brains.stacks import also_shown
from medrd.data.domain import TestItem, TrainingItem
from medrd.data.layouts import Subject, find_subjects
from medrd.data.margin import away_from
from medrd.data.split import Split, split_subjects
from medrd.errors import ConfigError, MissingInputError


class Brains:
    """See :class:`medrd.data.domain.Domain`."""

    # A cohort is small and its subjects are unlike each other: one that is left out unseen
    # changes the results.
    spares_damaged = False

    def find(self, config: Config) -> list[Subject]:
        """Subjects of BraTS, MSD or a plain folder."""
        data, recipe = _data(config), _recipe(config.recipe)
        assert data.root is not None
        return find_subjects(data.root, layout=data.layout, channels=recipe.channels)

    def split(self, subjects: Sequence[Subject], config: Config) -> Split:
        """By subject; see :func:`medrd.data.split.split_subjects`."""
        ids = [subject.id for subject in subjects]
        return split_subjects(ids, _data(config).split, seed=config.seed)

    def check_normal(self, subjects: Sequence[Subject], config: Config) -> None:
        """Without a label, a subject's healthy slices are unknown.

        Raises
        ------
        ConfigError
            A subject without a label in a data set that is not declared healthy.
        """
        if _data(config).healthy:
            return
        for subject in subjects:
            if subject.label is None:
                raise ConfigError(
                    next(iter(subject.images.values())).path,
                    expected=f"a label of subject {subject.id}, to find its healthy slices",
                    found="none",
                    remedy="Add the label, or set data.healthy=true if all subjects are healthy.",
                )

    def training_item(
        self, subject: Subject, recipe: AnyRecipeConfig, *, budget: int
    ) -> TrainingItem:
        """Slices, and which of them a lesion touches."""
        recipe = _recipe(recipe)
        volumes = read_channels(subject, recipe, max_voxels=budget)
        prepared = prepare(volumes, recipe)
        touched: NDArray[np.int64] = np.zeros(0, np.int64)
        if subject.label is not None:
            like = next(iter(volumes.values()))
            lesions = read_lesions(subject.label, like, max_voxels=budget)
            touched = lesion_positions(lesions, prepared.geometry)
            # What shows a lesion beside it is no healthy example either.
            touched = also_shown(touched, prepared.numbers, prepared.positions_mm, recipe.layout)
        return TrainingItem(prepared, touched, scan_hash(volumes, prepared.geometry))

    def test_item(self, subject: Subject, recipe: AnyRecipeConfig, *, budget: int) -> TestItem:
        """Slices, lesions on the scan's grid, and which slices hold one.

        Raises
        ------
        MissingInputError
            No label.
        """
        recipe = _recipe(recipe)
        if subject.label is None:  # also in a cohort said to be healthy: a lost label is no proof
            raise MissingInputError(
                next(iter(subject.images.values())).path,
                expected=f"a label of test subject {subject.id} (all 0 for a healthy one)",
                found="none",
                remedy="Add the label, or take the subject out of data.split.test.",
            )
        volumes = read_channels(subject, recipe, max_voxels=budget)
        lesions = read_lesions(subject.label, next(iter(volumes.values())), max_voxels=budget)
        prepared = prepare(volumes, recipe)
        positions = lesion_positions(lesions, prepared.geometry)
        return TestItem(
            prepared=prepared,
            truth=lesions,
            judged=prepared.scored(),
            anomalous=~away_from(prepared.numbers, positions, margin=0),
            content=scan_hash(volumes, prepared.geometry),
        )

    def baseline_recipe(self, recipe: AnyRecipeConfig) -> RecipeConfig:
        """FLAIR, or else the first channel, by rank in its brain."""
        channels = _recipe(recipe).channels
        channel = "flair" if "flair" in channels else channels[0]
        return _recipe(recipe).model_copy(
            update={
                "normalise": "rank",
                "channels": (channel,),
                "neighbours_mm": (),
                "place": False,
            }
        )

    def protocol(self, recipe: AnyRecipeConfig) -> dict[str, str]:
        """Inside the brain, on the scan's own grid."""
        recipe = _recipe(recipe)
        return {
            "region": "brain",
            "region_note": (
                "voxels that are not 0, in slices with at least "
                f"{recipe.min_brain_mm2:g} mm2 of brain; on the scan's own grid"
            ),
            "image": (
                f"{recipe.axis} slice; anomalous if its label at original resolution has a voxel"
            ),
            "lesions": "3D components (26-connected) of at least 10 voxels",
        }


def _data(config: Config) -> DataConfig:
    assert isinstance(config.data, DataConfig)  # Config sees that data and recipe are alike
    return config.data


def _recipe(recipe: AnyRecipeConfig) -> RecipeConfig:
    assert isinstance(recipe, RecipeConfig)
    return recipe
