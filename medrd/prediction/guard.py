"""The guard at prediction: compares a scan with the model's training scans."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medrd.data.brains.profile import not_judged, unlike
from medrd.data.kind import Prepared
from medrd.data.layouts import MODALITIES, Subject
from medrd.data.names import named_kind
from medrd.errors import ConfigError, UnlikeTrainingError
from medrd.run.model_folder import Model

logger = logging.getLogger("medrd.predict")

Paths = Mapping[str, Path | None]
"""Channel -> its file or the series' folder; None for a volume in memory."""
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


def compare_with_training(prepared: Prepared, model: Model, paths: Paths) -> Likeness:
    """Compare an input with the model's training scans.

    Images are compared if the model has a profile. File names are checked too, since a T1 scan may
    look like a FLAIR scan: their modality must be right, if they have endings like those of BraTS
    or BIDS and the training scans had too.
    """
    unchecked = (*_never_checked(model), *_nameless(model, paths))
    if model.profile is None or prepared.traits is None:
        return Likeness((), unchecked)
    misnamed = _by_names(paths) if model.profile.named else []
    return Likeness((*misnamed, *unlike(prepared.traits, model.profile)), unchecked)


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
    nameless = [subject.id for subject in subjects if _nameless(model, subject.paths)]
    if nameless:
        logger.warning(
            "--strict cannot check the file names of %d of %d scans, which name no modality: %s",
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


def _by_names(paths: Paths) -> list[str]:
    return [
        f"{channel}: by its name, {path.name} is a {kind}"
        for channel, path in paths.items()
        if path is not None and (kind := _kind(channel, path)) not in (None, channel)
    ]


def _nameless(model: Model, paths: Paths) -> list[str]:
    """If names are checked, a sentence for each name without a modality."""
    if model.profile is None or not model.profile.named:
        return []
    return [
        f"file name: {path.name} names no modality"
        if path is not None
        else f"file name: the {channel} volume has none"
        for channel, path in paths.items()
        if _kind(channel, path) is None
    ]


def _kind(channel: str, path: Path | None) -> str | None:
    """The modality in a file's name; None if it has none, or the channel is no modality."""
    return None if path is None or channel not in MODALITIES else named_kind(path)
