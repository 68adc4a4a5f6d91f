"""The guard at prediction: is this scan like those that the model was trained on?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medrd.data.brains.profile import not_judged, unlike
from medrd.data.kind import Prepared
from medrd.data.layouts import MODALITIES, Subject, named_kind
from medrd.errors import ConfigError, UnlikeTrainingError
from medrd.run.model_folder import Model

logger = logging.getLogger("medrd.predict")

Paths = Mapping[str, Path | None]
"""By channel, the file or the series' folder that it comes from; None for a volume in memory."""
_SHOWN = 3
"""Number of scans that a warning about many of them names."""


@dataclass(frozen=True)
class Likeness:
    """How an input compares with the model's training scans.

    Attributes
    ----------
    differences
        A sentence for each difference.
    unchecked
        What could not be compared, and why: no difference in it means nothing.
    """

    differences: tuple[str, ...]
    unchecked: tuple[str, ...]


def compare_with_training(prepared: Prepared, model: Model, paths: Paths) -> Likeness:
    """Compare an input with the model's training scans.

    By its looks, where the model has a profile; and by its files' names, where they end as
    BraTS's or BIDS's do and those of the training scans did too: a T1 scan may look like a FLAIR
    scan.
    """
    unchecked = (*_blind_to_all(model), *_nameless(model, paths))
    if model.profile is None or prepared.traits is None:
        return Likeness((), unchecked)
    found = _by_names(paths) if model.profile.named else []
    return Likeness((*found, *unlike(prepared.traits, model.profile)), unchecked)


def check_strict(model: Model, subjects: Sequence[Subject]) -> None:
    """Warn of what ``--strict`` cannot check.

    Raises
    ------
    ConfigError
        Nothing can be checked at all.
    """
    blind = _blind_to_all(model)
    if model.profile is None:
        raise ConfigError(
            "--strict",
            expected="a model with a profile of its training scans",
            found="; ".join(f"not judged is {reason}" for reason in blind),
            remedy="Leave --strict out, or train a model of scans with this version of medrd.",
        )
    for reason in blind:
        logger.warning("--strict does not judge %s", reason)
    nameless = [subject.id for subject in subjects if _nameless(model, subject.paths)]
    if nameless:
        logger.warning(
            "--strict does not judge the file names of %d of %d scans, which do not say what they "
            "are: %s",
            len(nameless),
            len(subjects),
            ", ".join(nameless[:_SHOWN]) + (", …" if len(nameless) > _SHOWN else ""),
        )


def refuse(where: str | Path, differences: tuple[str, ...]) -> None:
    """Raise UnlikeTrainingError if there are any differences from the training scans."""
    if differences:
        raise UnlikeTrainingError(
            where,
            expected="a scan like those that the model was trained on",
            found="; ".join(differences),
            remedy="Mend the scan, take a model for its kind, or leave --strict out.",
        )


def _blind_to_all(model: Model) -> list[str]:
    """What cannot be checked of any scan with this model."""
    if not model.kind.volumetric:
        return ["anything: the guard knows scans, no pictures"]
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
    """A sentence for each name that does not tell a modality, though names are checked."""
    if model.profile is None or not model.profile.named:
        return []
    return [
        f"file name: {path.name} does not say what it is"
        if path is not None
        else f"file name: the {channel} volume has none"
        for channel, path in paths.items()
        if _kind(channel, path) is None
    ]


def _kind(channel: str, path: Path | None) -> str | None:
    """The modality that a name tells; None if it tells none, or the channel is no modality."""
    return None if path is None or channel not in MODALITIES else named_kind(path)
