"""The guard at prediction: is this scan like those that the model was trained on?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from medrd.data.brains.profile import not_judged, unlike
from medrd.data.domain import Prepared
from medrd.data.layouts import MODALITIES, Subject, named_kind
from medrd.errors import ConfigError, UnlikeTrainingError
from medrd.run.model_folder import Model

logger = logging.getLogger("medrd.predict")

Paths = Mapping[str, Path | None]
"""By channel, the file or the series' folder that it comes from; None where it comes from none."""
_SHOWN = 3
"""So many scans are named in a warning of all."""


def oddities(prepared: Prepared, model: Model, paths: Paths) -> tuple[str, ...]:
    """In what an input is unlike the model's training scans: a sentence each.

    By its looks, where the model has a profile; and by its files' names, where they end as
    BraTS's or BIDS's do and those of the training scans did too: a T1 scan may pass for a FLAIR
    one by its looks. What is not judged says :func:`blind_spots`.
    """
    if model.profile is None or prepared.traits is None:
        return ()
    found = _by_names(paths) if model.profile.named else []
    return (*found, *unlike(prepared.traits, model.profile))


def blind_spots(model: Model, paths: Paths) -> list[str]:
    """What the guard cannot judge of an input, and why: silence on it means nothing."""
    return [*_blind_to_all(model), *_nameless(model, paths)]


def check_strict(model: Model, subjects: Sequence[Subject]) -> None:
    """Where only scans like the training scans may pass: say what that does not cover.

    Raises
    ------
    ConfigError
        Nothing can be judged at all.
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


def refuse(where: str | Path, odd: tuple[str, ...]) -> None:
    """Raise UnlikeTrainingError if there is anything odd."""
    if odd:
        raise UnlikeTrainingError(
            where,
            expected="a scan like those that the model was trained on",
            found="; ".join(odd),
            remedy="Mend the scan, take a model for its kind, or leave --strict out.",
        )


def _blind_to_all(model: Model) -> list[str]:
    """What no scan is judged by with this model."""
    if model.recipe.kind == "pictures":
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
    """A sentence for each name that would be judged, if it said anything."""
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
    """What a name says; None where it says nothing, or the channel's own does not."""
    return None if path is None or channel not in MODALITIES else named_kind(path)
