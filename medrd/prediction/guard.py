"""The guard at prediction: compares a scan with the model's training scans."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from medrd.config import RecipeConfig
from medrd.data.brains.profile import contrast_counts, not_judged, unlike
from medrd.data.brains.sequences import appearance
from medrd.data.kind import Prepared
from medrd.data.names import MODALITIES, named_kind
from medrd.data.subject import Source, Subject
from medrd.errors import ConfigError, UnlikeTrainingError
from medrd.images.dicom_series import described_kind, series_description
from medrd.images.volume import Volume
from medrd.run.model_folder import Model

logger = logging.getLogger("medrd.predict")


@dataclass(frozen=True)
class Name:
    """The name of an image.

    Attributes
    ----------
    by
        Where the name comes from: ``its name, x_t1.nii.gz``. A series description is not quoted,
        since it may contain anything, even a patient's name.
    kind
        The modality in it, or ``label`` and the like; None if it has none.
    silence
        The sentence for a name without a modality.
    """

    by: str
    kind: str | None
    silence: str

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """The name of a file."""
        silence = f"file name: {path.name} names no modality"
        return cls(f"its name, {path.name}", named_kind(path), silence)

    @classmethod
    def of_series(cls, folder: Path, description: str) -> Self:
        """The description of a DICOM series."""
        silence = f"series description: that of {folder.name} names no modality"
        return cls("its series description, this", described_kind(description), silence)

    @classmethod
    def of_source(cls, source: Source) -> Self:
        """The name of a file, or the description of a DICOM series."""
        if source.path.is_dir():
            return cls.of_series(source.path, series_description(source.path, source.series))
        return cls.of_file(source.path)

    @classmethod
    def of_volume(cls, volume: Volume, channel: str) -> Self:
        """The name of what a volume was read from."""
        if volume.path is None:
            return cls("", None, f"file name: the {channel} volume has none")
        if volume.description is not None:
            return cls.of_series(volume.path, volume.description)
        return cls.of_file(volume.path)


Names = Mapping[str, Name]
"""Names by channel."""
_SHOWN = 3
"""Number of scans that a warning about many scans names."""


@dataclass(frozen=True)
class Likeness:
    """The comparison of an input with the model's training scans.

    Attributes
    ----------
    differences
        A sentence for each difference.
    unchecked
        Properties that could not be compared, with reasons.
    """

    differences: tuple[str, ...]
    unchecked: tuple[str, ...]


def names_of(subject: Subject) -> Names:
    """The names of a subject's images, by channel."""
    return {channel: Name.of_source(source) for channel, source in subject.images.items()}


def compare_with_training(prepared: Prepared, model: Model, names: Names) -> Likeness:
    """Compare an input with the model's training scans.

    Images are compared if the model has a profile. Names are checked too, since a T1 scan may look
    like a FLAIR scan: the modality in a file's name or in the description of a DICOM series must be
    right, if it has one and the names of the training scans had one.
    """
    unchecked = (*_never_checked(model), *_nameless(model, names))
    if model.profile is None or prepared.traits is None:
        return Likeness((), unchecked)
    misnamed = _by_names(names) if model.profile.named else []
    differences = (*misnamed, *unlike(prepared.traits, model.profile))
    return Likeness((*differences, *_other_sequences(prepared, model)), unchecked)


def check_strict(model: Model, subjects: Sequence[Subject]) -> None:
    """Warn about properties that ``--strict`` cannot check.

    Raises
    ------
    ConfigError
        It cannot check anything.
    """
    unchecked = _never_checked(model)
    if model.profile is None:
        raise ConfigError(
            "--strict",
            expected="a model with a profile of its training scans",
            found="; ".join(f"a model that cannot check {reason}" for reason in unchecked),
            remedy="Remove --strict, or train a model of scans with this version of medrd.",
        )
    for reason in unchecked:
        logger.warning("--strict cannot check %s", reason)
    nameless = [subject.id for subject in subjects if _nameless(model, names_of(subject))]
    if nameless:
        logger.warning(
            "--strict cannot check the names of %d of %d scans, which name no modality: %s",
            len(nameless),
            len(subjects),
            ", ".join(nameless[:_SHOWN]) + (", …" if len(nameless) > _SHOWN else ""),
        )


def refuse(where: str | Path, differences: tuple[str, ...]) -> None:
    """Raise UnlikeTrainingError if there are any differences from the training scans."""
    if differences:
        raise UnlikeTrainingError(
            where,
            expected="a scan like those on which the model was trained",
            found="; ".join(differences),
            remedy="Correct the scan, use a model for scans like it, or remove --strict.",
        )


def _never_checked(model: Model) -> list[str]:
    """Properties that cannot be checked with this model, for any scan."""
    if not model.kind.volumetric:
        return ["anything: the guard checks scans, not pictures"]
    if model.profile is None:
        return ["anything: the model file has no profile of its training scans"]
    return not_judged(model.profile)


def _other_sequences(prepared: Prepared, model: Model) -> list[str]:
    """A sentence for each modality that looks like another sequence."""
    assert model.profile is not None
    assert prepared.traits is not None
    assert isinstance(model.recipe, RecipeConfig)
    pixel_mm = model.recipe.field_mm / model.recipe.size
    found = []
    for number, (name, known) in enumerate(model.profile.channels.items()):
        if known.others and contrast_counts(prepared.traits, model.profile, name):
            tone, images = prepared.traits.channels[name].tone, prepared.images[:, number]
            seen = appearance(tone, images, prepared.region, pixel_mm=pixel_mm)
            like = [other.name for other in known.others if other.is_like(seen)]
            if len(like) == 1:
                found.append(f"{name}: its contrast is that of a {like[0]} scan")
            elif like:  # it cannot be both
                found.append(f"{name}: its contrast is not that of a {name.upper()} scan")
    return found


def _by_names(names: Names) -> list[str]:
    return [
        f"{channel}: by {name.by} is {_article(name.kind)}"
        for channel, name in names.items()
        if channel in MODALITIES and name.kind not in (None, channel)
    ]


def _article(kind: str | None) -> str:
    return f"a {kind}" if kind in (*MODALITIES, "label", "scout") else f"a {kind} image"


def _nameless(model: Model, names: Names) -> list[str]:
    """If names are checked, a sentence for each name without a modality."""
    if model.profile is None or not model.profile.named:
        return []
    return [
        name.silence
        for channel, name in names.items()
        if channel not in MODALITIES or name.kind is None
    ]
