"""The guard at prediction: is this scan like those that the model was trained on?"""

from __future__ import annotations

import logging
from pathlib import Path

from medrd.data.domain import Prepared
from medrd.data.layouts import Subject, named_kind
from medrd.data.profile import not_judged, unlike
from medrd.errors import ConfigError, UnlikeTrainingError
from medrd.workflows.model_folder import Model

logger = logging.getLogger("medrd.predict")


def oddities(prepared: Prepared, model: Model, subject: Subject | None = None) -> tuple[str, ...]:
    """In what an input is unlike the model's training scans: a sentence each.

    By its looks, where the model has a profile; and by its files' names, where they end as
    BraTS's or BIDS's do and those of the training scans did too: a T1 scan may pass for a FLAIR
    one by its looks. What is not judged says :func:`blind_spots`.
    """
    if model.profile is None or prepared.traits is None:
        return ()
    found = _by_names(subject) if subject is not None and model.profile.named else []
    return (*found, *unlike(prepared.traits, model.profile))


def blind_spots(model: Model) -> list[str]:
    """What the guard cannot judge with this model, and why: silence on it means nothing."""
    if model.recipe.kind == "pictures":
        return ["anything: the guard knows scans, no pictures"]
    if model.profile is None:
        return ["anything: the model file has no profile of its training scans"]
    return not_judged(model.profile)


def check_strict(model: Model) -> None:
    """Where only scans like the training scans may pass: say what that does not cover.

    Raises
    ------
    ConfigError
        Nothing can be judged at all.
    """
    if model.profile is None:
        raise ConfigError(
            "--strict",
            expected="a model with a profile of its training scans",
            found="; ".join(f"not judged is {reason}" for reason in blind_spots(model)),
            remedy="Leave --strict out, or train a model of scans with this version of medrd.",
        )
    for reason in blind_spots(model):
        logger.warning("--strict does not judge %s", reason)


def refuse(where: str | Path, odd: tuple[str, ...]) -> None:
    """Raise UnlikeTrainingError if there is anything odd."""
    if odd:
        raise UnlikeTrainingError(
            where,
            expected="a scan like those that the model was trained on",
            found="; ".join(odd),
            remedy="Mend the scan, take a model for its kind, or leave --strict out.",
        )


def _by_names(subject: Subject) -> list[str]:
    return [
        f"{channel}: by its name, {source.path.name} is a {kind}"
        for channel, source in subject.images.items()
        if (kind := named_kind(source.path, channel))
    ]
