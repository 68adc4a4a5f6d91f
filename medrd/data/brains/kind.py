"""Brain scans: volumes in many layouts, split by subject, with lesions by label."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrd.config import Config, DataConfig, RecipeConfig
from medrd.data.brains.find import find_scans
from medrd.data.brains.layouts import find_subjects
from medrd.data.brains.lesions import read_lesions
from medrd.data.brains.opened import OpenedScan
from medrd.data.brains.prepare import (
    PreparedVolume,
    lesion_positions,
    prepare_slices,
    read_channels,
    refuse_label,
    scan_hash,
)
from medrd.data.brains.stacks import also_shown
from medrd.data.cases import Case, Found
from medrd.data.folders import scans_in
from medrd.data.kind import TestItem, TrainingItem
from medrd.data.margin import away_from
from medrd.data.names import MODALITIES, named_kind
from medrd.data.output_names import MAKER, SCAN_FILES
from medrd.data.persons import warn_of_idle_pattern, warn_of_visits
from medrd.data.split import Split, split_subjects
from medrd.data.subject import Subject
from medrd.errors import ConfigError, MissingInputError, ModelError, WrongKindError
from medrd.images.picture import Picture
from medrd.images.volume import Volume, check_same_grid

_NIFTI2_HEADER_BYTES = 540
_SHOWN = 10
"""Number of subjects, or of files, that a message names."""


class Brains:
    """See :class:`medrd.data.kind.Kind`."""

    volumetric = True

    # A cohort is small and its subjects differ: leaving one out changes the results.
    spares_damaged = False
    files = SCAN_FILES
    normal = "healthy"
    notice = "Research use only; not a medical device."

    def __init__(self, recipe: RecipeConfig) -> None:
        self.recipe = recipe

    def subjects(self, config: Config) -> list[Subject]:
        """Subjects of BraTS, MSD or a plain folder."""
        data = _data(config)
        assert data.root is not None
        found = find_subjects(data.root, layout=data.layout, channels=self.recipe.channels)
        return [replace(subject, lesion_labels=data.lesion_labels) for subject in found]

    def split(self, subjects: Sequence[Subject], config: Config) -> Split:
        """Split by subject; see :func:`medrd.data.split.split_subjects`."""
        ids = [subject.id for subject in subjects]
        data = _data(config)
        if data.subject_pattern is None:
            warn_of_visits(tuple(ids))
        else:
            warn_of_idle_pattern(tuple(ids), data.subject_pattern)
        return split_subjects(ids, data.split, seed=config.seed, pattern=data.subject_pattern)

    def check_normal(self, subjects: Sequence[Subject], config: Config) -> None:
        """Without a label, a subject's healthy slices are unknown.

        Raises
        ------
        ConfigError
            A subject without a label in a data set that is not declared healthy.
        """
        if _data(config).healthy:
            return
        bare = [subject for subject in subjects if subject.label is None]
        if bare:
            raise ConfigError(
                _folder_of(bare[0]),
                expected="a label of every subject, to find its healthy slices",
                found=f"none for {len(bare)} of {len(subjects)}: "
                + "; ".join(subject.id + _others_there(subject) for subject in bare[:_SHOWN])
                + ("; …" if len(bare) > _SHOWN else ""),
                remedy="Add the labels (or rename them: docs/own_cohort.md lists the endings), or "
                "set data.healthy=true if all subjects are healthy.",
            )

    def training_item(self, subject: Subject, *, budget: int) -> TrainingItem:
        """Read a subject's slices, and find those with a lesion."""
        recipe = self.recipe
        volumes = read_channels(subject, recipe, max_voxels=budget)
        prepared = prepare_slices(volumes, recipe)
        lesion_slices: NDArray[np.int64] = np.zeros(0, np.int64)
        if subject.label is not None:
            like = next(iter(volumes.values()))
            lesions = read_lesions(subject, like, max_voxels=budget)
            prepared = replace(prepared, warnings=(*prepared.warnings, *lesions.warnings))
            lesion_slices = lesion_positions(lesions.mask, prepared.geometry)
            # Slices that show a lesion in a neighbour are not healthy examples either.
            lesion_slices = also_shown(
                lesion_slices, prepared.numbers, prepared.positions_mm, recipe.layout
            )
        return TrainingItem(prepared, lesion_slices, scan_hash(volumes, prepared.geometry))

    def test_item(self, subject: Subject, *, budget: int) -> TestItem:
        """Read slices, lesions on the scan's grid, and each slice's label.

        Raises
        ------
        MissingInputError
            No label.
        """
        recipe = self.recipe
        if (
            subject.label is None
        ):  # also in a cohort declared healthy: a missing label proves nothing
            raise MissingInputError(
                next(iter(subject.images.values())).path,
                expected=f"a label of test subject {subject.id} (all 0 for a healthy one)",
                found="none" + _others_there(subject),
                remedy="Add the label, or take the subject out of data.split.test.",
            )
        volumes = read_channels(subject, recipe, max_voxels=budget)
        lesions = read_lesions(subject, next(iter(volumes.values())), max_voxels=budget)
        prepared = prepare_slices(volumes, recipe, quick=True)
        positions = lesion_positions(lesions.mask, prepared.geometry)
        scored = prepared.scored()
        return TestItem(
            prepared=prepared,
            truth=lesions.mask,
            evaluated=scored,
            scored=scored,
            anomalous=~away_from(prepared.numbers, positions, margin=0),
            content=scan_hash(volumes, prepared.geometry),
            label_warnings=lesions.warnings,
        )

    def baseline_recipe(self) -> RecipeConfig:
        """FLAIR, or else the first channel, normalised by rank in the brain."""
        channels = self.recipe.channels
        channel = "flair" if "flair" in channels else channels[0]
        return self.recipe.model_copy(
            update={
                "normalise": "rank",
                "channels": (channel,),
                "neighbours_mm": (),
                "place": False,
            }
        )

    def protocol(self) -> dict[str, str]:
        """Scores count inside the brain, on the scan's own grid."""
        recipe = self.recipe
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

    def find(self, inputs: Sequence[Path], *, frame: int | None, series: str | None) -> Found:
        """NIfTI files, BraTS subject folders, DICOM series, folders of those."""
        return find_scans(inputs, self.recipe, frame=frame, series=series)

    def read(self, case: Case, *, budget: int) -> OpenedScan:
        """All channels of the recipe, on one grid. Raises WrongKindError for a label or a map."""
        for source in case.subject.images.values():
            if self.is_own_map(source.path):
                raise WrongKindError(
                    source.path,
                    expected="a scan",
                    found="a map or mask that medrd wrote",
                    remedy="Give the scan that it was made from.",
                )
        volumes = read_channels(case.subject, self.recipe, max_voxels=budget)
        for volume in volumes.values():
            refuse_label(volume)
        return OpenedScan(volumes, prepare_slices(volumes, self.recipe, quick=True))

    def prepare_slices(self, given: Volume | Mapping[str, Volume] | Picture) -> PreparedVolume:
        """Prepare a volume, or volumes by modality if the model takes several.

        Raises
        ------
        ModelError
            The input is a picture, or has modalities on which the model was not trained.
        InputError
            The volumes are on different grids, or have no brain.
        """
        channels = self.recipe.channels
        if isinstance(given, Picture):
            raise ModelError(
                given.path or "picture",
                expected="a volume: the model was trained on scans",
                found="a picture",
                remedy="Give a scan, or load a model that was trained on pictures.",
            )
        volumes = {channels[0]: given} if isinstance(given, Volume) else dict(given)
        if any(channel not in volumes for channel in channels):
            raise ModelError(
                "volume",
                expected=f"the modalities {', '.join(channels)}",
                found=", ".join(volumes),
                remedy="Give a mapping from modality to Volume.",
            )
        volumes = {channel: volumes[channel] for channel in channels}
        check_same_grid(volumes)
        return prepare_slices(volumes, self.recipe, quick=True)

    def is_own_map(self, path: Path) -> bool:
        """True if the description in the NIfTI header begins with medrd's name."""
        try:
            with gzip.open(path) as file:
                return MAKER.encode() in file.read(_NIFTI2_HEADER_BYTES)
        except (OSError, EOFError, zlib.error):
            return False


def _data(config: Config) -> DataConfig:
    assert isinstance(config.data, DataConfig)  # Config ensures that data and recipe match
    return config.data


def _folder_of(subject: Subject) -> Path:
    return next(iter(subject.images.values())).path.parent


def _others_there(subject: Subject) -> str:
    """Other scans in the subject's own folder: one may be its label."""
    folder = _folder_of(subject)
    names = [path.name for path in scans_in(folder)]
    kinds = [named_kind(folder / name) for name in names]
    unknown = [n for n, kind in zip(names, kinds, strict=True) if kind not in MODALITIES]
    if not 0 < len(unknown) <= _SHOWN:  # a folder shared by all subjects
        return ""
    return f" (but there is {', '.join(unknown)})"
